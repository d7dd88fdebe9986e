"""Sweeps on Ray: `run_sweep` for Python, and `run_job`, on which it and `eexit sweep` are built."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.exceptions import RayTaskError

from cluster.actor import MakeGenerator, auto_dtype, model_generator
from cluster.actor_client import ask, wait_for_result
from cluster.actor_resources import plan_pools, shortages
from cluster.driver import Driver, DriverInputs
from cluster.ray_errors import failure_of_call
from cluster.session import RayHealth, RaySession, ray_session
from cluster.sweep_job import SweepJob, location_for_all
from eexit.errors import UsageError
from eexit.output.display import open_display
from eexit.output.progress import Display
from eexit.output.text import pluralize
from eexit.plan.model_inspection import MemoryEstimate, ModelFacts, inspect_model, start_inspection
from eexit.plan.runs import count_runs, plan_runs
from eexit.plan.sweep_config import AUTO_DTYPE, SweepConfig
from eexit.results.layout import Manifest
from eexit.results.store.commit import RunCounts
from eexit.results.store.extend import stored_config
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import refuse_other_dtype
from eexit.sweeps.arguments import arguments_named, from_python, signature_of
from eexit.sweeps.prepare import PendingSweep, manifest_for, prepare_store, read_held, run_pending
from eexit.sweeps.shards import cut, rows_for
from eexit.sweeps.summary.sweep_summary import SweepSummary
from eexit.sweeps.sweep_results import SweepResults


@dataclass(frozen=True)
class _SweepPlan:
    """The facts of a sweep before anything is written; a sweep with committed runs has no session yet."""

    manifest: Manifest
    dtype_here: str  # `config.dtype`, with auto as resolved on this machine
    memory: MemoryEstimate | None  # of an actor
    session: RaySession | None


def run_sweep(prompts: Any, *, quiet: bool = False, **arguments: Any) -> SweepResults:
    """Run prompts under each configuration and seed on Ray, or resume the sweep in `out`; return the results.

        from cluster.sweep import run_sweep

        sweep = run_sweep(["Explain recursion."], kl_factors=[0.5, 1], out="results/one")
        print(sweep.runs.groupby("configuration", sort=False).mean_depth.mean())

    Prompts and arguments are those of `eexit.sweep`, except for a loaded model; all flags of `eexit sweep` are
    arguments. `out` is a folder, or a URI that all nodes reach. Another call resumes where the last one stopped, and
    repeats runs that ended in errors. Ray is the one that this process has joined, else RAY_ADDRESS's cluster, else one
    started for this call. `quiet` shows no progress.

    Raises:
        ValueError: an argument can't be used; the message has one line with its name.
        SweepStopped: all further runs would fail; committed runs stay.
        OSError: a disk is full before anything is committed.
    """
    with arguments_named(SweepJob):
        job = from_python(SweepJob, prompts, arguments, "run_sweep")
        return SweepResults(run_job(job, open_display(quiet)).out)


run_sweep.__signature__ = signature_of(SweepJob, quiet=False)  # type: ignore[attr-defined]


def run_job(
    job: SweepJob,
    display: Display | None = None,
    make_generator: MakeGenerator = model_generator,
    inspect: Callable[[SweepConfig, int], ModelFacts] = inspect_model,
) -> SweepSummary:
    """Run all uncommitted runs of a sweep on Ray, and return when all runs are committed.

    Args:
        display: shows progress; by default on standard error.
        make_generator: makes the actors' generator; by default the model's.
        inspect: returns the model's description for `sweep.json`, its exitable layers and an actor's memory, from the
            sweep's configuration and `rows_per_shard`; by default for the model that the sweep names.

    Raises:
        UsageError: the model can't be used, or `out` holds another sweep, is in use or can't be written to.
        SweepStopped, OSError: as in `run_sweep`.
    """
    display = display or open_display()
    location = location_for_all(job.out)
    store = open_store(location)
    with ExitStack() as on_ray:
        prepared = _prepare(job, store, inspect, display, on_ray)

        def do(left: PendingSweep) -> RunCounts:
            session = prepared.session
            if session is None:
                session = on_ray.enter_context(ray_session(display.say))
                auto = _dtype(job, prepared.dtype_here, prepared.memory, session, display)
                refuse_other_dtype(store, left.config.dtype, auto)
            of_left = job.model_copy(update={"config": left.config})
            assigned = DriverInputs(of_left, location, left.lease, display, make_generator)
            tally = _drive(assigned, left, prepared.memory, session)
            on_ray.close()
            return tally

        return run_pending(prepared.manifest, location, job.out, display, do)


def _prepare(
    job: SweepJob, store: Store, inspect: Callable[[SweepConfig, int], ModelFacts], display: Display, on_ray: ExitStack
) -> _SweepPlan:
    """Raise `UsageError` for bad input, before anything is loaded or written; return the facts of the sweep.

    Without committed runs, Ray starts meanwhile in `on_ray`, as another process reads the model's facts: both take
    seconds.
    """
    held = read_held(store, job.config, job.out, display.say)
    config = stored_config(store, held).model_copy(update={"dtype": job.config.dtype}) if held else job.config
    with start_inspection(inspect, config, job.rows_per_shard) as facts:
        display.say("inspecting the model")
        session = None if held else on_ray.enter_context(ray_session(display.say))
        model, exitable_layers, memory = facts()
    # A resumed sweep has a dtype, which the actors' is compared with if any run remains.
    dtype = _dtype(job, model["dtype"], memory, session, display) if session else held.config["dtype"] if held else ""
    manifest = manifest_for(store, held, job.config, model, exitable_layers, dtype)
    return _SweepPlan(manifest, model["dtype"], memory, session)


def _dtype(job: SweepJob, here: str, memory: MemoryEstimate | None, session: RaySession, display: Display) -> str:
    """Return the dtype of all actors; `--dtype auto` is resolved with the first actor's resources.

    `here` is this machine's dtype for auto.
    """
    if job.config.dtype != AUTO_DTYPE:
        return job.config.dtype
    pool = plan_pools(job, session.nodes, memory, nodes_may_come=not session.is_own)[0]
    if session.is_here and pool.fits(session.nodes[0]) and not session.nodes[0].get("GPU"):
        return here
    display.say("finding out what --dtype auto is where the model will run")
    lean = job.config.model_copy(update={"prompts": job.config.prompts[:1]})
    asked, liveness = ask(pool, auto_dtype, lean, job.device), RayHealth(session.is_own, [pool], display.say)
    try:
        return str(wait_for_result(asked, partial(liveness.check, at_work=False)))
    except RayTaskError as error:
        if isinstance(error.cause, UsageError):
            raise error.cause from error
        reason = failure_of_call(error).reason
        raise UsageError(f"--dtype auto can't be resolved where the model will run: {reason}; give --dtype") from error


def _drive(assigned: DriverInputs, left: PendingSweep, memory: MemoryEstimate | None, session: RaySession) -> RunCounts:
    """Run the uncommitted runs (`left`) on Ray."""
    job, display, n_planned = assigned.job, assigned.display, count_runs(left.config)
    with display:
        pools = plan_pools(job, session.nodes, memory, nodes_may_come=not session.is_own)
        n_done = prepare_store(left, job.out, display)
        display.say(f"{pluralize(n_planned - n_done, 'run')} to do, {', '.join(map(str, pools))}")
        for line in shortages(pools, session.nodes, memory):
            display.say(line)
        rows = rows_for(n_planned, sum(pool.actors for pool in pools), job.rows_per_shard)
        shards = cut(plan_runs(left.config), left.found.done, rows)
        return Driver(assigned, shards, n_done, pools, is_own_ray=session.is_own).drive()
