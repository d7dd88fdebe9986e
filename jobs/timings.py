"""Time how long the configurations of a finished sweep really take, beside full depth and transformers' own generate.

    python jobs/timings.py results/mine                         all configurations but oracles, at 1, 8 and 32 rows
    python jobs/timings.py results/mine --configurations frozen_residual/fixed/10 unfrozen/fixed/10 --batch 1
    python jobs/timings.py results/mine --prompts 3 --calls 1 --batch 1      a first look, which tells nothing apart
    python jobs/timings.py results/mine --baselines generate/lookup --draft 20:4     what else is there
    python jobs/timings.py results/mine --chosen --fastest --unused-prompts --calls 24     what was chosen, on other
    prompts

Time it on a machine that does nothing else. A call is one Ray actor, which loads the model and has all CPUs of a node,
or a whole GPU, for itself. In every round it times everything once, in another order, and only times of one round are
compared. The state of a machine differs between calls: intervals are over calls, and one call tells no times apart.

Everything decodes the same prompts, greedily, whatever the sweep's temperature is, and as many tokens of each as full
depth wrote; EOS ends nothing, and observing what full depth would have said is left out. The clock starts when every
row has two tokens, so that a prompt's own pass, which is the same for all, is not timed; what is compared is seconds
per token since then. Rows of a batch have texts of about the same length, of which the shortest counts.

Oracles (such as kl and agree) can't be timed, since they need the full-depth pass beside them. Each call adds a file
to the folder timings beside the results, after every round. None is replaced: timing_id and started tell calls apart.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cluster.console.command import command
from cluster.console.flags import study_flags, study_parser, whole
from eexit.errors import UsageError
from eexit.output.display import open_display
from eexit.plan.configuration import GENERATE, VARIANTS
from eexit.quality.estimates import MIN_CALLS

if TYPE_CHECKING:
    from eexit.studies.study import Row


@command("the rounds that were finished stay in timings")
def main(arguments: Sequence[str]) -> int:
    """0: all calls are timed. 1: it stopped before. 2: the input can't be used."""
    flags = read_flags(arguments)
    from cluster.session import ray_session
    from cluster.studies.run import run_study
    from eexit.results.store.folder import open_store
    from eexit.results.study_tables import TIMINGS
    from eexit.studies.timing.calls import calls_like
    from eexit.studies.timing.study import TimingArgs, make_plan

    asked = TimingArgs(
        flags.configurations, flags.batch, flags.prompts, flags.tokens, flags.rounds, flags.steps,
        baselines=flags.baselines, per_round=flags.per_round, only_chosen=flags.chosen, drafts=flags.draft,
        only_unused=flags.unused_prompts, only_fastest=flags.fastest,
    )  # fmt: skip
    display, trusts, plan = open_display(quiet=flags.quiet), flags.trust_remote_code, partial(make_plan, asked=asked)
    rows: list[Row] = []
    with ExitStack() as stack:
        for number in range(1, flags.calls + 1):
            if number == 2:  # what can't be timed is refused by the first, before Ray starts
                stack.enter_context(ray_session(display.say))
            if number > 1:
                display.say(f"call {number} of {flags.calls}")
            done = run_study(flags.results, plan, flags.device, display, columns=asked.columns, trusts_code=trusts)
            rows += done.rows
            if (
                flags.unused_prompts
                and len(calls_like(done.rows, TIMINGS.rows(open_store(flags.results)))) >= flags.calls
            ):
                break  # with those of a command that was stopped
    replace(done, rows=rows).show(flags.results, columns=110)
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
        "--tokens", type=whole, metavar="N",
        help="tokens of each row, of prompts whose text at full depth has as many (default: as many as each text has)",
    )  # fmt: skip
    parser.add_argument(
        "--calls", type=whole, default=MIN_CALLS, metavar="N",
        help="calls, each with the model loaded anew; with --unused-prompts, those before count "
        f"(default: {MIN_CALLS})",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=whole, default=1, metavar="N", help="how often each call times each (default: 1)"
    )
    variants = "; ".join(f"{GENERATE}/{variant}: {what}" for variant, what in VARIANTS.items())
    parser.several("--baselines", "KEY", f"variants of generate to time beside it: {variants}", default=(GENERATE,))
    parser.add_argument(
        "--unused-prompts", action="store_true",
        help="time prompts that no call before has timed with more contenders, such as to time again what was fastest",
    )  # fmt: skip
    parser.add_argument(
        "--fastest", action="store_true",
        help=f"time only full depth, {GENERATE}, the configurations and, of all else, what was fastest in calls before",
    )  # fmt: skip
    parser.add_argument(
        "--steps",
        action="store_true",
        help="time exits of all rows at each exitable layer too (with --fastest, at the configurations' exit layers): "
        "how long a step takes by rows and layers, and what that allows the timed configurations to save",
    )
    flags = study_flags(parser, arguments)
    if flags.chosen and flags.configurations:
        raise UsageError("give either --chosen or --configurations, which say what is timed")
    return flags


if __name__ == "__main__":
    sys.exit(main())
