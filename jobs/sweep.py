"""Run a sweep; run it again to go on where it stopped.

    python jobs/sweep.py                                      the demo, into results/demo
    python jobs/sweep.py --model Qwen/Qwen3-0.6B --prompts mine.txt --kl-factors 0.5 1 2 --out results/mine
    python jobs/sweep.py --config jobs/demo.toml --dry-run    what it would do
    python jobs/sweep.py --quiet --json figures.json          results on standard output, the same as JSON, no progress

On a cluster, where --out is an absolute path that all nodes share, or a URI (s3://, gs://):

    ray start --head
    ray job submit --working-dir . -- python jobs/sweep.py --out /abs/path
"""

import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rich.console import Console

from cluster import interruption
from cluster.breaker import SweepStopped
from cluster.driver import Driver
from cluster.dry_run import describe_plan
from cluster.estimate import Look, Memory, aside, look_at_model
from cluster.events import log_to_stderr
from cluster.figures import figures
from cluster.job import Options, SweepJob, load_job
from cluster.landing import Survey, Tally, clear_debris, read_columns, remove_errors
from cluster.lease import Lease, hold
from cluster.manifest import (
    LostManifestError,
    Manifest,
    make_manifest,
    read_manifest,
    refuse_other_config,
    refuse_other_model,
    refuse_other_runs,
    written,
)
from cluster.pool import plan_pools, shortages
from cluster.progress import counted, open_display
from cluster.session import joins_cluster, ray_session
from cluster.settling import take_stock
from cluster.shards import cut, rows_for
from cluster.store import Store, open_store
from cluster.summary import summarise
from eexit.config import SweepConfig, UsageError, first_line
from eexit.places import inside, reading, shown, without_secrets
from eexit.plan import configurations, count_runs, plan_runs
from eexit.results import (
    GENERATIONS_FOLDER,
    REPORT,
    REPORT_HEAD_BYTES,
    SIDE_FILES,
    is_report,
    is_side_file,
    side_folder_name,
)

DEMO = Path(__file__).with_name("demo.toml")
CHARACTERS_PER_TOKEN = 4  # of English, in most tokenizers


@interruption.listening()
def main(arguments: Sequence[str]) -> int:
    """0: every run has landed. 1: the sweep stopped, or all its runs are errors. 2: the input can't be used."""
    try:
        job, options = load_job(arguments, DEMO, __doc__ or "")
        log_to_stderr(logging.WARNING if options.quiet else logging.INFO)
        if options.dry_run:
            print(dry_run(job, options))
            return 0
        return sweep(job, options)
    except UsageError as error:
        print(without_secrets(f"error: {error}"), file=sys.stderr)
        return 2
    except (SweepStopped, KeyboardInterrupt, OSError) as error:  # OSError: of a disk that is full before a run is done
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
        print(without_secrets(f"stopped: {reason}"), file=sys.stderr)
        print("what has landed stays: the same command goes on from there", file=sys.stderr)
        return 1


def dry_run(job: SweepJob, options: Options) -> str:
    """What a sweep would do; the model is looked up, and nothing is written. Raises `UsageError`."""
    prompt_tokens = math.ceil(sum(characters(job.config)) / CHARACTERS_PER_TOKEN)
    return describe_plan(
        job, options.prompts_from, options.controls_from, shown(job.out), *look(job), rows_of(job), prompt_tokens
    )


def sweep(job: SweepJob, options: Options) -> int:
    store = open_store(out_of(job))
    manifest, memory = prepare(job, store)
    planned = count_runs(job.config)
    with hold(store) as lease, written(store, manifest):
        found, said = look_through(store, [])
        tally = Tally()
        if len(found.done) == planned:
            display = open_display(quiet=options.quiet)
            display.say(f"nothing is left to do: {counted(planned, 'run')} landed in {shown(job.out)}")
        else:
            tally = run(job, store, lease, found, memory, options.quiet)
            found, _ = look_through(store, said)
        missing = planned - len(found.done) - found.n_errors
        if missing:
            raise SweepStopped(f"{missing:,} runs that had landed are damaged or gone")
        finish(job, store, rebuild=tally.runs > 0)
        if options.json:
            came_to = figures(store, manifest.model, configurations(job.config), job.out, REPORT)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(came_to, indent=1, ensure_ascii=False) + "\n")
        if not found.done:
            reason = read_columns(store, ["error"])["error"][0].as_py()
            print(without_secrets(f"all {counted(planned, 'run')} are errors, such as: {reason}"), file=sys.stderr)
            return 1
    return 0


def look_through(store: Store, said: Sequence[str]) -> tuple[Survey, Sequence[str]]:
    """What has landed and is sound; says what was put right, and is not among what was said before."""
    found, lines = take_stock(store)
    for line in lines:
        if line not in said:
            print(line, file=sys.stderr)
    return found, lines


def prepare(job: SweepJob, store: Store) -> tuple[Manifest, Memory | None]:
    """Refuse what can't work before anything is loaded or written; returns what the sweep is, and what an actor takes.

    Raises `UsageError`.
    """
    store.probe()
    config = job.config
    refuse_foreign_report(store)
    held = read_held(store, config)
    if held:
        refuse_other_config(store, held, config)
    model, exitable_layers, memory = look(job)
    manifest = make_manifest(config, model, exitable_layers)
    if held:
        refuse_other_model(store, held, manifest)
    return manifest, memory


def read_held(store: Store, config: SweepConfig) -> Manifest | None:
    """The manifest of what has landed, if it is not lost. Raises `UsageError` if it can't be replaced then."""
    try:
        return read_manifest(store)
    except LostManifestError as lost:
        print(refuse_other_runs(store, lost, config), file=sys.stderr)
        return None


def refuse_foreign_report(store: Store) -> None:
    """Raises `UsageError` where the report, or a file beside it, would replace one that this program didn't write."""
    beside = [name for name in store.names(side_folder_name(REPORT)) if PurePosixPath(name).match(SIDE_FILES)]
    for name, is_ours in ((REPORT, is_report), *((name, is_side_file) for name in beside)):
        head = store.read(name, REPORT_HEAD_BYTES)
        if head is not None and not is_ours(head):
            raise UsageError(f"{store.path(name)} is not a report's file: choose another --out, or move it elsewhere")


def look(job: SweepJob) -> Look:
    """The model, its exitable layers, and what an actor takes with its largest shard. Raises `UsageError`."""
    few = job.config.model_copy(update={"prompts": job.config.prompts[:1]})
    return aside(look_at_model, few, rows_of(job), math.ceil(max(characters(job.config)) / CHARACTERS_PER_TOKEN))


def characters(config: SweepConfig) -> list[int]:
    """Of each prompt, with its system prompt."""
    return [len(prompt.prompt) + len(prompt.system or config.system) for prompt in config.prompts]


def rows_of(job: SweepJob) -> int:
    """Rows of the largest shard."""
    return min(job.rows_per_shard, count_runs(job.config))


def run(job: SweepJob, store: Store, lease: Lease, found: Survey, memory: Memory | None, quiet: bool) -> Tally:
    """Do the runs that haven't landed, on Ray."""
    config, planned, n_done = job.config, count_runs(job.config), len(found.done)
    clear_debris(store)
    with ray_session() as nodes, open_display(quiet=quiet) as display:
        pools = plan_pools(job, nodes, memory, joins_cluster())
        retried = remove_errors(store, found.with_errors)
        if n_done or retried:
            display.say(
                f"{n_done:,} of {planned:,} runs are in {shown(job.out)}; {counted(retried, 'error')} tried again"
            )
        display.say(f"{counted(planned - n_done, 'run')} to do, {', '.join(map(str, pools))}")
        for line in shortages(pools, nodes, memory):
            display.say(line)
        actors = sum(pool.actors for pool in pools)
        shards = cut(plan_runs(config), found.done, rows_for(planned, actors, job.rows_per_shard))
        driver = Driver(
            config, out_of(job), shards, planned, n_done, pools, display, lease, job.device, job.timeout,
            own_ray=not joins_cluster(),
        )  # fmt: skip
        return driver.drive()


def out_of(job: SweepJob) -> str:
    """Where the results go, the same place for every process. Raises `UsageError` for a path that Ray would remove."""
    if "://" in job.out or os.path.isabs(job.out):
        return job.out
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if (submitted.get("runtime_env") or {}).get("working_dir"):
        raise UsageError(
            f"--out {job.out} is relative, and this job's working directory is a copy that Ray removes: "
            "give an absolute path or a URI"
        )
    return os.path.abspath(job.out)


def finish(job: SweepJob, store: Store, rebuild: bool) -> None:
    """The report, the table, and how to read the results."""
    from reports.page import build_report

    if rebuild or not store.has(REPORT):
        with tempfile.TemporaryDirectory() as folder:
            publish_report(build_report(out_of(job), Path(folder, REPORT)), store)
    console = Console()
    console.print(summarise(store, configurations(job.config)))
    print(reading(job.out, GENERATIONS_FOLDER))
    print(shown(inside(job.out, REPORT)))


def publish_report(page: Path, store: Store) -> None:
    """Put a report beside its results: first what a large page leaves out, then the page."""
    from reports.page import side_folder

    beside = side_folder(page)
    for file in sorted(beside.glob("*")):
        store.publish(f"{beside.name}/{file.name}", file.read_bytes())
    store.publish(page.name, page.read_bytes())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
