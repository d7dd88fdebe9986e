"""Does early exit pay, for this model on this machine? One command, one verdict.

    python jobs/assess.py                                   the default model, on generated prompts, in 35 minutes
    python jobs/assess.py --model Qwen/Qwen3-0.6B --prompts mine.jsonl --minutes 60 --out results/mine
    python jobs/assess.py --batch 32 --margin 0.05          for who decodes 32 rows at a time

It measures how long a step takes by rows and layers, what could be saved at most, and what can be learned; searches
rules, exit sets, thresholds and readouts on a pilot; runs the few settings that are worth it on prompts that have no
other part, and certifies one with a confidence that holds, if there is one; and times it. The verdict says whether it
pays, and if not, what takes most of what exits could save: the state that they leave behind, knowing where to exit,
proof, deciding, batches, or overhead. It says what pays most of all that keeps the same bound, exits or not: drafts,
or transformers' own `generate` with its lookup.

Each step is an ordinary sweep or study in a folder of --out, which jobs/report.py and all other commands open. Whatever
ends it, the same command goes on from there, and does again what was lost since. Minutes that are too few are refused
once the first steps have shown how fast this machine is; with more of them, the same --out goes on. Time it on a
machine that does nothing else.
"""

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from cluster.console.command import command
from cluster.console.flags import study_flags, whole
from cluster.console.parser import Parser
from eexit.output.display import console_of, open_display
from eexit.output.events import log_to_stderr
from eexit.output.locations import inside, shown
from eexit.output.progress import Display
from eexit.plan.config import SweepConfig
from eexit.plan.prompts import read_prompts
from eexit.results.layout import REPORT
from eexit.studies.verdict_file import FILE

if TYPE_CHECKING:
    from cluster.assessment.outcome.verdict import Verdict
    from cluster.assessment.record import Record


@command("what is finished stays: the same command goes on from there")
def main(arguments: Sequence[str]) -> int:
    """0: there is a verdict. 1: it stopped before. 2: the input can't be used."""
    flags = read_flags(arguments)
    from cluster.assessment.asked import Asked
    from cluster.assessment.record import Record, folder_of
    from eexit.results.store.folder import open_store
    from eexit.results.store.lease import ASSESSING, refuse_if_held

    asked = Asked(
        common(flags),
        read_prompts(flags.prompts) if flags.prompts else (),
        flags.minutes,
        flags.margin,
        flags.batch,
        seed=flags.seed,
    )
    asked.parts()  # what can't be used is told before Ray is imported
    Record.open(flags.out, asked.as_dict())
    refuse_if_held(open_store(folder_of(flags.out)), ASSESSING)
    display = open_display(quiet=flags.quiet)
    log_to_stderr(logging.WARNING)
    display.say("importing Ray")
    from cluster.assessment.assess import OnRay, assess
    from cluster.session import ray_session  # not above, since a first line comes before what takes seconds

    with ray_session(display.say):
        verdict = assess(asked, flags.out, partial(OnRay, flags.device, trusts_code=flags.trust_remote_code), display)
    finish(verdict, flags.out, Record.open(flags.out, asked.as_dict()))
    if found := to_take_home(verdict):
        bring_home(flags, *found, display)
    return 0


def finish(verdict: "Verdict", out: str, record: "Record") -> None:
    """Print the verdict, and where it is."""
    from cluster.assessment.outcome.words import closing_sentences, sentences, verdict_table
    from eexit.results.store.folder import open_store
    from jobs.sweep import write_report

    console = console_of(columns=110)
    for sentence in sentences(verdict):
        console.print(Text(sentence, style="bold"))
    console.print(verdict_table(verdict))
    for sentence in closing_sentences(verdict, record.seconds, record.remarks):
        console.print(Text(sentence))
    run = inside(out, "run")
    if (Path(run).expanduser() / FILE).is_file():
        write_report(run, open_store(Path(run).expanduser()))
        print(shown(inside(run, REPORT)))
    print(shown(inside(out, FILE)))


def to_take_home(verdict: "Verdict") -> tuple[str, str | None] | None:
    """The folder of the sweep of what pays most, and its key, or None where that is the setting that was chosen."""
    from cluster.assessment.outcome.verdict import GENERATE
    from cluster.assessment.workshop import INSTEAD, RUN

    if verdict.instead is None:
        return (RUN, None) if verdict.pays else None
    contender = verdict.instead.contender
    return None if contender.role == GENERATE else (INSTEAD, contender.key)


def bring_home(flags: Namespace, sweep: str, key: str | None, display: Display) -> None:
    """Take a setting home, unless it is there."""
    place = inside(flags.out, "setting")
    if not Path(place).expanduser().exists():
        from eexit.custom_generate.words import described
        from eexit.studies.taking_home.take_home import Wanted, take_home

        how = {"device": flags.device, "trusts_code": flags.trust_remote_code}
        print(described(take_home(Wanted(inside(flags.out, sweep), place, key, **how), display.say)))
    print(f'import eexit; model.generate(**inputs, custom_generate=eexit.load("{place}"))')


def common(flags: Namespace) -> dict[str, object]:
    """What all sweeps of it have: fields of a `SweepConfig`, as they were given."""
    names = (
        "model", "revision", "trust_remote_code", "dtype", "quantize", "system", "exit_every", "exit_layers",
        "max_new_tokens", "thinking", "thinking_until",
    )  # fmt: skip
    return {name: value for name in names if (value := getattr(flags, name)) not in (None, False)}


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser, fields = Parser(__doc__), SweepConfig.model_fields
    parser.add_argument(
        "--model",
        default=fields["model"].default,
        help=f"{fields['model'].description} (default: {fields['model'].default})",
    )
    parser.add_argument("--revision", help=fields["revision"].description)
    parser.add_argument("--dtype", help=f"auto, bfloat16, float16 or float32 (default: {fields['dtype'].default})")
    parser.add_argument("--quantize", help=fields["quantize"].description)
    parser.add_argument("--prompts", metavar="FILE", help=".txt, .jsonl, .csv, .parquet (default: generated ones)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of generated prompts: another one gives others (default: 0)"
    )
    parser.add_argument("--system", help=fields["system"].description)
    parser.add_argument("--minutes", type=float, default=35.0, metavar="N", help="that it may take (default: 35)")
    parser.add_argument(
        "--margin", type=float, default=0.02, metavar="SHARE",
        help="what may be lost at most: answers that normal has right, of all prompts, or tokens (default: 0.02)",
    )  # fmt: skip
    rows = "rows that are decoded together where it is to pay (default: 1 8 32)"
    parser.several("--batch", "ROWS", rows, type=whole, default=(1, 8, 32))
    parser.add_argument(
        "--max-new-tokens", type=whole, default=32, metavar="N", help="tokens per run at most (default: 32)"
    )
    parser.add_argument(
        "--exit-every", type=whole, metavar="N", help=(fields["exit_every"].description or "").replace("%", "%%")
    )
    parser.several("--exit-layers", "L", f"{fields['exit_layers'].description}, such as 23", type=int, default=None)
    parser.several("--thinking", "MARK", fields["thinking"].description or "", default=None)
    parser.add_argument("--thinking-until", metavar="PATTERN", help=fields["thinking_until"].description)
    parser.add_argument("--out", default="results/assess", metavar="FOLDER", help="(default: results/assess)")
    return study_flags(parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
