"""Time configurations of a finished sweep, with full depth and transformers' `generate`.

    eexit timings results/mine                         all configurations but oracles, at batch sizes 1, 8 and 32
    eexit timings results/mine --configurations frozen_residual/fixed/10 unfrozen/fixed/10 --batch 1
    eexit timings results/mine --prompts 3 --calls 1 --batch 1      a trial, too short to compare times
    eexit timings results/mine --baselines generate/lookup --draft 20:4     with baselines and drafts
    eexit timings results/mine --chosen --fastest --unused-prompts --calls 24     the selected setting, on other prompts

Time on an otherwise idle machine. A call is one Ray actor, which loads the model and has all CPUs of a node, or a whole
GPU, for itself. Each round times everything once, in a different order; only times of the same round are compared. A
machine's state differs between calls, so intervals are over calls, and one call can't tell times apart.

All configurations decode the same prompts greedily, and generate as many tokens as full depth did; EOS ends nothing,
and full-depth predictions are not recorded. The clock starts when every slot has two tokens, so that prefill, which is
the same for all, is not timed; the result is seconds per further token. The texts of a batch have similar lengths, of
which the shortest counts.

Oracles (such as kl and agree) can't be timed, since they need the full-depth pass. Each call adds a file to the folder
timings in the results after every round. No file is replaced: timing_id and started tell calls apart.
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
    """Run `eexit timings`. Return 0 if all calls were timed, 1 if it stopped before, 2 for bad input."""
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
            calls = calls_like(done.rows, TIMINGS.rows(open_store(flags.results))) if flags.unused_prompts else ()
            if len(calls) >= flags.calls:
                break  # with those of a command that was stopped
    replace(done, rows=rows).show(flags.results, columns=110)
    return 0


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__)
    keys = "keys of configurations (default: all but oracles); normal and generate are always timed"
    parser.several("--configurations", "KEY", keys)
    parser.switch("--chosen", "time only the setting that eexit choose selected last, if any")
    parser.several("--draft", "LAYER:N", "drafts to time, as in 20:4 25:4; the sweep need not have them")
    rows = "batch sizes; prompts repeat if there are fewer (default: 1 8 32)"
    parser.several("--batch", "ROWS", rows, type=whole, default=(1, 8, 32))
    parser.single(
        "--prompts", "N",
        "number of prompts, drawn by a hash, each kind (fact of fact-30) in proportion; without failed and overlong "
        "runs (default: 8)", type=whole, default=8,
    )  # fmt: skip
    parser.single(
        "--per-round", "N",
        "prompts per round, different ones in each, so that intervals include the variation over prompts, such as that "
        "of accepted drafts (default: all prompts in every round)", type=whole,
    )  # fmt: skip
    tokens = "tokens per text, from prompts with texts of at least this length (default: the length of each text)"
    parser.single("--tokens", "N", tokens, type=whole)
    calls = "number of calls, which each load the model; with --unused-prompts, earlier calls count"
    parser.single("--calls", "N", f"{calls} (default: {MIN_CALLS})", type=whole, default=MIN_CALLS)
    parser.single("--rounds", "N", "rounds per call (default: 1)", type=whole, default=1)
    variants = "; ".join(f"{GENERATE}/{variant}: {what}" for variant, what in VARIANTS.items())
    parser.several("--baselines", "KEY", f"baselines to time: {variants}", default=(GENERATE,))
    unused = "use prompts that no earlier, larger comparison has timed, such as to time its fastest setting again"
    parser.switch("--unused-prompts", unused)
    fastest = f"time only full depth, {GENERATE}, the configurations and the fastest alternative of earlier calls"
    parser.switch("--fastest", fastest)
    parser.switch(
        "--steps",
        "time steps whose sequences all exit at one layer too (at each exitable layer; with --fastest, at the "
        "configurations' exit layers): step times by sequences and layers bound the savings of timed configurations",
    )
    flags = study_flags(parser, arguments)
    if flags.chosen and flags.configurations:
        raise UsageError("give either --chosen or --configurations: both select what is timed")
    return flags


if __name__ == "__main__":
    sys.exit(main())
