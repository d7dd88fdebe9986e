"""Select the cheapest setting of a finished sweep whose risk is certified to stay below a bound.

    eexit choose results/mine --risk disagreement --max-risk 0.05
    eexit choose results/mine --risk answers --max-risk 0.02 --confidence 0.9 --rules confidence entropy
    eexit choose results/mine --risk perplexity --modes frozen_residual --cost depth

A risk is a prompt's expected loss, between 0 and 1; the output defines the loss. Settings are tested from safe to bold
until one can't be certified (Learn-then-Test, Angelopoulos et al. 2021). A pilot gives their order: the settings that
no other beats in both loss and cost (Pareto testing, Laufer-Goldshtein et al. 2023). The guarantee holds for prompts
drawn as these were. Selections on the same prompts share the error budget, so that all their guarantees hold together.
Each one is recorded and counted, in this folder and its siblings, before its result is computed.

A hash of the prompt, or of its group, splits the prompts: one in four is for the test, one in four of the others for
the pilot, and the rest for calibration; with --pilot or another --order, three in four are for calibration. The output
also names the naive selection, the cheapest setting with a mean loss within the bound, which has no guarantee. The
cheapest certified setting is reported even if it costs more than full depth. Each call adds a file to the folder
choices in the results.
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
    """Run `eexit choose`.

    Return 0 if a setting below full depth's cost is certified, 1 if none is or it stopped, 2 for bad input.
    """
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
    parser.add_argument("--risk", required=True, choices=tuple(RISKS), help="risk to bound")
    bound = "bound on the risk, between 0 and 1 (default: 0.05)"
    parser.single("--max-risk", "SHARE", bound, type=float, default=0.05)
    parser.single("--confidence", "SHARE", "confidence of the guarantee (default: 0.95)", type=float, default=0.95)
    costs = "; ".join(f"{name}: {c.definition}" for name, c in COSTS.items())
    parser.add_argument("--cost", choices=tuple(COSTS), default="run", help=costs)
    parser.add_argument(
        "--order", choices=ORDERS, default=PARETO,
        help="pareto: one sequence over all modes and rules, in a pilot's order; passed-on: one sequence per mode and "
        "rule, from the conservative to the bold parameter; a finished sequence passes its error budget on (default: "
        "pareto)",
    )  # fmt: skip
    parser.single("--pilot", "RESULTS", "finished sweep of other prompts for the order (default: a split)")
    parser.single(
        "--planned-uses", "N", "planned number of selections on these prompts, which share the error budget equally "
        "(default: 1; a further selection gets a small reserve)", type=whole,
    )  # fmt: skip
    among = "candidates (default: all)"
    parser.several("--modes", "MODE", among)
    parser.several("--rules", "RULE", among)
    parser.several("--configurations", "KEY", among, dest="keys")
    return parser.read(arguments)


if __name__ == "__main__":
    sys.exit(main())
