"""Choose the cheapest setting of a finished sweep whose risk is bounded, with a confidence that holds.

    python jobs/choose.py results/mine --risk disagreement --max-risk 0.05
    python jobs/choose.py results/mine --risk answers --max-risk 0.02 --confidence 0.9 --rules confidence entropy
    python jobs/choose.py results/mine --risk perplexity --modes frozen_residual --cost depth

A risk is the expected loss of a prompt, between 0 and 1: what counts as a loss is printed. Settings are tested from
safe to bold, until one can't be certified (Learn-then-Test, Angelopoulos et al. 2021). Their order comes from a pilot:
settings that none beats in both loss and cost (Pareto testing, Laufer-Goldshtein et al. 2023). The guarantee holds for
prompts that are drawn as these were. Calls that ask the same prompts share the error, so that all of their guarantees
hold together: each is written down before it is answered, and counted, over the results that lie side by side.

By a hash of their text, or of their group where they name one, one in four prompts checks the choice, one in four of
the others is the pilot, and all others choose; with --pilot or another --order, these are three in four. Beside it
stands the naive choice, the cheapest setting whose mean loss is within the bound, which has no guarantee. The cheapest
certified setting is reported even where it costs more than full depth. Each call adds a file to the folder choices
beside the results.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from cluster.console.command import command
from cluster.console.flags import study_parser, whole
from eexit.output.progress import NullDisplay
from eexit.quality.learn_then_test import ORDERS, PARETO
from eexit.quality.risks import RISKS
from eexit.studies.selection.selection_args import COSTS, SelectionArgs


@command()
def main(arguments: Sequence[str]) -> int:
    """Return 0 if a setting below full depth's cost is certified, 1 if none is or it stopped, 2 for bad input."""
    flags = vars(read_flags(arguments))
    from cluster.studies.run import run_study
    from eexit.studies.selection.study import SelectionStudy

    results = flags.pop("results")
    question = SelectionArgs(**flags)
    plan = partial(SelectionStudy, question=question)
    done = run_study(results, plan, display=NullDisplay(), columns=question.columns)
    done.show(results, columns=110)
    return 0 if done.study.choice.saves else 1


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__)
    parser.add_argument("--risk", required=True, choices=tuple(RISKS), help="what is to be bounded")
    parser.add_argument(
        "--max-risk", type=float, default=0.05, metavar="SHARE", help="the bound, between 0 and 1 (default: 0.05)"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.95, metavar="SHARE", help="with which it has to hold (default: 0.95)"
    )
    parser.add_argument(
        "--cost",
        choices=tuple(COSTS),
        default="run",
        help="; ".join(f"{name}: {c.definition}" for name, c in COSTS.items()),
    )
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default=PARETO,
        help="pareto: one sequence over all modes and rules, as a pilot orders them; passed-on: one for each mode and "
        "rule, from the conservative parameter to the bold one, and one that is through passes its part of the error "
        "on (default: pareto)",
    )
    parser.add_argument(
        "--pilot", metavar="RESULTS", help="finished sweep of other prompts that gives the order (default: a part)"
    )
    parser.add_argument(
        "--planned-uses", type=whole, metavar="N", help="of these prompts, how many are planned: they share "
        "the error in equal "
        "parts (default: 1; any further one gets what little of it is kept for that)",
    )  # fmt: skip
    among = "choose among these only (default: all)"
    parser.several("--modes", "MODE", among)
    parser.several("--rules", "RULE", among)
    parser.several("--configurations", "KEY", among, dest="keys")
    return parser.read(arguments)


if __name__ == "__main__":
    sys.exit(main())
