"""Choose the cheapest setting of a finished sweep whose risk is bounded, with a confidence that holds.

    python jobs/choose.py results/mine --risk disagreement --at-most 0.05
    python jobs/choose.py results/mine --risk answers --at-most 0.02 --confidence 0.9 --rules confidence entropy
    python jobs/choose.py results/mine --risk perplexity --modes frozen_residual --cost depth

A risk is the expected loss of a prompt, between 0 and 1: what counts as a loss is printed. The settings of each mode
and rule are tested from the conservative end of the rule's parameter to the bold one, until one can't be certified
(Learn-then-Test, Angelopoulos et al. 2021); several modes and rules share the error. The guarantee holds for prompts
that are drawn as these were, and for this call: whoever tries several bounds and keeps the best has to share the error
among the calls.

Three in four prompts choose, by a hash of their text. The others check the choice. Beside it stands the naive choice,
the cheapest setting whose mean loss is within the bound, which has no guarantee. Each call adds a file to the folder
choices beside the results.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from cluster.console.command import command
from cluster.console.flags import Parser
from cluster.studies.run import run_study
from eexit.messages.progress import Silence
from eexit.quality.risks import RISKS
from eexit.studies.choosing.evidence import COSTS, ChoiceQuestion
from eexit.studies.choosing.study import ChoosingStudy

COLUMNS = 110  # of what is not printed on a terminal, so that long keys need not be folded


@command()
def main(arguments: Sequence[str]) -> int:
    """0: a setting is chosen. 1: none can be certified, or it stopped. 2: the input can't be used."""
    flags = read_flags(arguments)
    question = ChoiceQuestion(
        flags.risk, flags.at_most, flags.confidence, flags.cost, flags.modes, flags.rules, flags.configurations
    )
    done = run_study(
        flags.results,
        lambda sweep, results: ChoosingStudy(sweep, results, question),
        display=Silence(),
        columns=question.columns,
    )
    done.show(flags.results, COLUMNS)
    return 0 if done.study.choice.chosen else 1


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = Parser(__doc__)
    parser.add_argument("results", help="folder or URI of a finished sweep")
    parser.add_argument("--risk", required=True, choices=tuple(RISKS), help="what is to be bounded")
    parser.add_argument(
        "--at-most", type=float, default=0.05, metavar="SHARE", help="the bound, between 0 and 1 (default: 0.05)"
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
    for flag, what in (("--modes", "MODE"), ("--rules", "RULE"), ("--configurations", "KEY")):
        parser.add_argument(flag, nargs="+", default=(), metavar=what, help="choose among these only (default: all)")
    flags: Namespace = parser.parse_args(arguments)
    return flags


if __name__ == "__main__":
    sys.exit(main())
