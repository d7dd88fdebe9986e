"""Time how long the configurations of a finished sweep really take, beside full depth and transformers' own generate.

    python jobs/timings.py results/mine                         all configurations but oracles, at 1, 8 and 32 rows
    python jobs/timings.py results/mine --configurations frozen_residual/fixed/10 unfrozen/fixed/10 --batch 1
    python jobs/timings.py results/mine --prompts 3 --tokens 40 --rounds 2 --batch 1      a first look
    python jobs/timings.py results/mine --beside generate/lookup --draft 20:4     what else is there
    python jobs/timings.py results/mine --chosen --fresh       what was chosen, on prompts that were not timed before

Time it on a machine that does nothing else. One Ray actor has all CPUs of a node, or a whole GPU, for itself. In every
round it times everything once, in another order, and only times of one round are compared. Everything decodes the same
prompts, greedily, whatever the sweep's temperature is, and always the same number of tokens; EOS ends nothing, and
observing what full depth would have said is left out. The clock starts when every row has two tokens, so that a
prompt's own pass, which is the same for all, is not timed; what is compared is seconds per token since then. Timed are
prompts whose text, as full depth wrote it, doesn't end before.

Oracles (such as kl and agree) can't be timed, since they need the full-depth pass beside them. Each call adds a file
to the folder timings beside the results, after every round. None is replaced: timing_id and started tell calls apart,
and what is reported is over all calls on a machine, with an interval over calls where there are several.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from cluster.console.command import command
from cluster.console.flags import study_flags, study_parser, whole
from eexit.errors import UsageError
from eexit.output.display import open_display
from eexit.plan.configuration import GENERATE, VARIANTS
from eexit.quality.estimates import MIN_ROUNDS


@command("the rounds that were finished stay in timings")
def main(arguments: Sequence[str]) -> int:
    """0: all rounds are timed. 1: it stopped before. 2: the input can't be used."""
    flags = read_flags(arguments)
    from cluster.studies.run import run_study
    from eexit.studies.timing.study import WhatToTime, make_plan

    asked = WhatToTime(
        flags.configurations, flags.batch, flags.prompts, flags.tokens, flags.rounds, flags.steps,
        beside=flags.beside, per_round=flags.per_round, only_chosen=flags.chosen, drafts=flags.draft,
        only_fresh=flags.fresh,
    )  # fmt: skip
    done = run_study(
        flags.results,
        partial(make_plan, asked=asked),
        flags.device,
        open_display(quiet=flags.quiet),
        columns=asked.columns,
        trusts_code=flags.trust_remote_code,
    )
    done.show(flags.results, columns=110)
    return 0


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__)
    keys = "keys of configurations, as in the sweep's table (default: all but oracles); normal and generate always run"
    parser.several("--configurations", "KEY", keys)
    parser.add_argument(
        "--chosen", action="store_true", help="of configurations, time only what jobs/choose.py chose last, if anything"
    )
    parser.several("--draft", "LAYER:N", "drafts to time too, as in 20:4 25:4, which the sweep need not have")
    rows = "rows that are decoded together; prompts repeat where there are fewer (default: 1 8 32)"
    parser.several("--batch", "ROWS", rows, type=whole, default=(1, 8, 32))
    parser.add_argument(
        "--prompts",
        type=whole,
        default=8,
        metavar="N",
        help="how many of the sweep's prompts: a hash draws them, of each sort (fact of fact-30) its share; those that "
        "failed or leave no room are left out (default: 8)",
    )
    parser.add_argument(
        "--per-round",
        type=whole,
        metavar="N",
        help="time only so many of the prompts in each round, other ones in the next, so that intervals say what "
        "depends on the prompt, such as how often a draft is right (default: all in every round)",
    )
    parser.add_argument(
        "--tokens",
        type=whole,
        metavar="N",
        help="tokens of each row, "
        "of prompts whose text at full depth has as many (default: as many as half of the texts have)",
    )
    parser.add_argument(
        "--rounds",
        type=whole,
        default=MIN_ROUNDS,
        metavar="N",
        help=f"how often to time each (default: {MIN_ROUNDS}, the least for an interval)",
    )
    variants = "; ".join(f"{GENERATE}/{variant}: {what}" for variant, what in VARIANTS.items())
    parser.several("--beside", "KEY", f"variants of generate to time beside it: {variants}", default=(GENERATE,))
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="time prompts that no call before has timed, such as to time again what was fastest there",
    )
    parser.add_argument(
        "--steps",
        action="store_true",
        help="time exits of all rows at each exitable layer too: how long a step takes by rows and layers, and what "
        "that allows the timed configurations to save",
    )
    flags = study_flags(parser, arguments)
    if flags.chosen and flags.configurations:
        raise UsageError("give either --chosen or --configurations, which say what is timed")
    return flags


if __name__ == "__main__":
    sys.exit(main())
