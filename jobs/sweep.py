"""Run a sweep, or resume one.

    eexit sweep                      the demo, into results/demo
    eexit sweep --model Qwen/Qwen3-0.6B --prompts mine.txt --out mine
    eexit sweep --dry-run            print the plan

On a cluster, where --out is an absolute path that all nodes share, or a URI:

    export RAY_AUTH_MODE=disabled
    ray start --head --dashboard-agent-listen-port 0
    ray job submit --address http://127.0.0.1:8265 --working-dir . -- python jobs/sweep.py --out /abs/path
"""

import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.console.command import command
from cluster.console.flags_from_config import load_job
from eexit.output.display import console_of, open_display
from eexit.output.events import log_to_stderr
from eexit.output.locations import inside, read_snippet, redact, without_secrets
from eexit.output.text import pluralize, printable
from eexit.plan.field_types import NO_MARKS
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import GENERATIONS_FOLDER, REPORT

if TYPE_CHECKING:
    from eexit.results.store.folder import Store
    from eexit.sweeps.summary.sweep_summary import SweepSummary

DEMO = Path(__file__).parent / "sweeps" / "demo.toml"


@command("committed runs stay: the same command resumes from them")
def main(arguments: Sequence[str]) -> int:
    """Run `eexit sweep`.

    Return 0 if every run is committed, 1 if it stopped or all runs are errors, 2 for bad input.
    """
    job, options = load_job(arguments, DEMO, __doc__ or "")
    log_to_stderr(logging.WARNING if options.quiet else logging.INFO)
    if options.dry_run:
        from cluster.console.dry_run import describe_plan

        print(describe_plan(job, options))
        return 0
    display = open_display(quiet=options.quiet)
    if options.controls_from:
        n_controls = pluralize(len(job.config.controls), "configuration")
        display.say(f"{n_controls} of {redact(options.controls_from)} have controls here, which exit as often")
    display.say("importing Ray")
    from cluster.sweep import run_job  # not above: the import takes seconds, and a first line comes before it

    summary = run_job(job, display)
    return finish(summary, job.out, options.json)


def finish(summary: "SweepSummary", out: str, figures: Path | None) -> int:
    """Write the report and the figures, print the tables and a guide to the results, and return the exit code."""
    from eexit.results.store.folder import open_store
    from eexit.sweeps.summary.summary_table import closing_table, kinds_table

    store = open_store(summary.out)
    if summary.tally.runs or not store.read(REPORT, 1):  # a full disk may leave an empty one
        write_report(summary.out, store)
    config = summary.config
    prompts = [asdict(prompt) for prompt in config.prompts]
    planned, same = summary.configurations, summary.same_for_every_seed
    console = console_of(columns=120)
    console.print(closing_table(store, planned, same, prompts, summary.precision))
    if by_kind := kinds_table(store, planned, prompts):
        console.print(by_kind)
    if line := of_chains(store, config):
        print(line, file=sys.stderr)
    print(read_snippet(out, GENERATIONS_FOLDER))
    print(redact(inside(out, REPORT)))
    if figures:
        write_figures(summary, out, figures)
    if summary.errors:
        tried = f"{REPORT}#/fail lists them, and the same command tries again"
        print(printable(without_secrets(f"{summary.of_errors}; {tried}")), file=sys.stderr)
    return 0 if summary.done else 1


def of_chains(store: "Store", config: SweepConfig) -> str:
    """Return a warning if the texts' thinking has no marks or is not closed in some texts; else an empty text."""
    import pyarrow.compute as pc

    from eexit.results.committed import read_columns

    closed = read_columns(store, ["thinking_closed"])["thinking_closed"]
    if config.thinking and config.thinking != (NO_MARKS,) and closed.null_count == len(closed):
        return (
            f"no text has {config.thinking[0]} or {config.thinking[1]}, so that each text is all answer: give "
            f"--thinking the marks that the model writes"
        )
    n, n_open = len(closed) - closed.null_count, pc.sum(pc.invert(closed)).as_py()
    if not n_open:
        return ""
    return f"{n_open:,} of {pluralize(n, 'chain')} of thought never closed, and have no answer: raise --max-new-tokens"


def write_report(results: str, store: "Store") -> None:
    from reports.page.build import build_report

    with tempfile.TemporaryDirectory() as folder:
        publish_report(build_report(results, Path(folder, REPORT)), store)


def publish_report(page: Path, store: "Store") -> None:
    """Put a report beside its results: first a large page's side files, then the page."""
    from reports.page.build import side_folder

    beside = side_folder(page)
    for file in sorted(beside.glob("*")):
        store.publish(f"{beside.name}/{file.name}", file.read_bytes())
    store.publish(page.name, page.read_bytes())


def write_figures(summary: "SweepSummary", out: str, path: Path) -> None:
    from eexit.output.atomic_files import write_atomic

    by_configuration = summary.figures()
    figures = {
        "out": redact(out),
        "report": redact(inside(out, REPORT)),
        "model": dict(summary.model),
        "dtype_asked": summary.dtype_asked,
        "record_full_depth": summary.config.record_full_depth,
        "runs": summary.done + summary.errors,
        "errors": summary.errors,
        "different_runs": sum(row["different_runs"] for row in by_configuration),
        "configurations": by_configuration,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
