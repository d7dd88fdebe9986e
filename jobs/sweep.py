"""Run a sweep; run it again to go on where it stopped.

    python jobs/sweep.py                                      the demo, into results/demo
    python jobs/sweep.py --model Qwen/Qwen3-0.6B --prompts mine.txt --kl-factors 0.5 1 2 --out results/mine
    python jobs/sweep.py --config jobs/demo.toml --dry-run    what it would do

On a cluster, where --out is an absolute path that all nodes share, or a URI (s3://, gs://):

    ray start --head
    ray job submit --working-dir . -- python jobs/sweep.py --out /abs/path
"""

import json
import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ray
from rich.console import Console

from cluster.breaker import SweepStopped
from cluster.driver import Driver
from cluster.job import SweepJob, load_job
from cluster.landing import Tally, clear_debris, landed, remove_errors
from cluster.manifest import make_manifest, read_manifest, refuse_other_config, refuse_other_model, write_manifest
from cluster.pool import Pool, plan_pool
from cluster.progress import open_display
from cluster.shards import cut, rows_for
from cluster.store import Store, open_store
from cluster.summary import summarise
from eexit.config import UsageError
from eexit.plan import configurations, count_runs, plan_runs

DEMO = Path(__file__).with_name("demo.toml")
REPORT = "report.html"
OBJECT_STORE_BYTES = 100_000_000  # only runs and counts go through it


def main(arguments: Sequence[str]) -> int:
    """0: every run has landed. 1: the sweep stopped. 2: the input can't be used."""
    try:
        job, dry_run = load_job(arguments, DEMO, __doc__ or "")
        if dry_run:
            print(describe_plan(job))
            return 0
        return sweep(job)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (SweepStopped, KeyboardInterrupt) as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        print(f"stopped: {reason}\nwhat has landed stays: the same command goes on from there", file=sys.stderr)
        return 1


def sweep(job: SweepJob) -> int:
    store = open_store(out_of(job))
    prepare(job, store)
    config = job.sweep
    done = landed(store)
    planned = count_runs(config)
    tally = Tally()
    if len(done) == planned:
        print(f"nothing is left to do: {planned:,} runs are in {job.out}")
    else:
        tally = run(job, store, done)
    finish(job, store, rebuild=tally.runs > 0)
    return 0


def prepare(job: SweepJob, store: Store) -> None:
    """Refuse what can't work before anything is loaded, and write down what the sweep is. Raises `UsageError`."""
    store.probe()
    held = read_manifest(store)
    if held:
        refuse_other_config(store, held, job.sweep)
    # Torch is imported only now: bad input is told at once.
    from eexit.exits import resolve_exitable_layers
    from eexit.models import describe_model

    model = describe_model(job.sweep)
    manifest = make_manifest(job.sweep, model, resolve_exitable_layers(job.sweep, model.n_layers))
    if held:
        refuse_other_model(store, held, manifest)
    else:
        write_manifest(store, manifest)


def run(job: SweepJob, store: Store, done: set[str]) -> Tally:
    """Do the runs that haven't landed, on Ray."""
    config, planned = job.sweep, count_runs(job.sweep)
    clear_debris(store)
    retried = remove_errors(store)
    if done or retried:
        print(f"{len(done):,} of {planned:,} runs are in {job.out}; {retried} errors are tried again")
    start_ray()
    try:
        pool = plan_pool(job, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        print(f"{planned - len(done):,} runs to do, {describe_pool(pool)}", flush=True)
        shards = cut(plan_runs(config), done, rows_for(planned, pool.actors, job.rows_per_shard))
        with open_display() as display:
            out = out_of(job)
            return Driver(config, out, shards, planned, len(done), pool, display, job.device).drive()
    finally:
        ray.shutdown()


def start_ray() -> None:
    """Join the cluster that a job or RAY_ADDRESS names, else start one for this process alone."""
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    else:
        # Without one, Ray would write a token to the home folder, and ask every later `ray start` for it.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )


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
            store.publish(REPORT, build_report(out_of(job), Path(folder, REPORT)).read_bytes())
    console = Console()
    console.print(summarise(store, configurations(job.sweep)))
    out = job.out.rstrip("/")
    print(f'import pandas as pd; pd.read_parquet("{out}/generations")')
    print(f"{out}/{REPORT}")


def describe_plan(job: SweepJob) -> str:
    config = job.sweep
    names = ", ".join(
        f"{c.mode}" + ("" if c.kl_factor is None else f" {c.kl_factor:g}") for c in configurations(config)
    )
    return (
        f"model           {config.model}\n"
        f"configurations  {names}\n"
        f"runs            {count_runs(config):,} = {len(config.prompts):,} prompts × "
        f"{len(configurations(config))} configurations × {len(config.seeds)} seeds\n"
        f"tokens          up to {count_runs(config) * config.max_new_tokens:,}\n"
        f"out             {job.out}"
    )


def describe_pool(pool: Pool) -> str:
    each = f"{pool.cpus} CPUs" + (f" and {pool.gpus:g} GPUs" if pool.gpus else "")
    return f"{pool.actors} actor{'s' if pool.actors > 1 else ''} of {each}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
