"""Sweeps on Ray: `run_sweep` from Python, and `run_job`, which does what it and `jobs/sweep.py` are asked for."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.exceptions import RayTaskError

from cluster.actor import MakeGenerator, auto_dtype, model_generator
from cluster.driver import Assignment, Driver
from cluster.failures import failure_of_call
from cluster.job import SweepJob, location_for_all
from cluster.pool import plan_pools, shortages
from cluster.session import Liveness, Session, ray_session
from cluster.worker import ask, waited_for
from eexit.errors import UsageError
from eexit.output.display import open_display
from eexit.output.progress import Display
from eexit.output.text import counted
from eexit.plan.config import AUTO_DTYPE, SweepConfig
from eexit.plan.model_facts import Memory, ModelFacts, look_at_model, looking
from eexit.plan.runs import count_runs, plan_runs
from eexit.results.layout import Manifest
from eexit.results.store.folder import Store, open_store
from eexit.results.store.growth import stored_config
from eexit.results.store.manifest import refuse_other_dtype
from eexit.results.store.writing_shards import Tally
from eexit.sweeps.api import SweepResults
from eexit.sweeps.arguments import arguments_named, from_python, signature_of
from eexit.sweeps.shards import cut, rows_for
from eexit.sweeps.steps import Remaining, Summary, clear_the_way, do_what_is_left, manifest_for, read_held


@dataclass(frozen=True)
class _Prepared:
    """What is known of a sweep before anything is written. A sweep of which runs have landed has no session yet."""

    manifest: Manifest
    dtype_here: str  # what `config.dtype` is on this machine
    memory: Memory | None  # of an actor
    session: Session | None


def run_sweep(prompts: Any, *, quiet: bool = False, **arguments: Any) -> SweepResults:
    """Run prompts under each configuration and seed on Ray, or go on with that in `out`; returns the results.

        from cluster.sweep import run_sweep

        sweep = run_sweep(["Explain recursion."], kl_factors=[0.5, 1], out="results/one")
        print(sweep.runs.groupby("configuration", sort=False).mean_depth.mean())

    Prompts and arguments are those of `eexit.sweep`, but for a model that is loaded; all flags of `jobs/sweep.py` are
    arguments here. `out` is a folder, or a URI that all nodes reach. Calling again goes on where the last call stopped,
    and tries runs again that ended in errors. Ray is the one that this process has joined, else the cluster that
    RAY_ADDRESS names, else one that is started for this call. `quiet` shows no progress.

    Raises `ValueError` with a line that names the argument that can't be used, `SweepStopped` when going on would only
    fail, and `OSError` where a disk is full before anything has landed; what has landed stays.
    """
    with arguments_named(SweepJob):
        job = from_python(SweepJob, prompts, arguments, "run_sweep")
        return SweepResults(run_job(job, open_display(quiet)).out)


run_sweep.__signature__ = signature_of(SweepJob, quiet=False)  # type: ignore[attr-defined]


def run_job(
    job: SweepJob,
    display: Display | None = None,
    make_generator: MakeGenerator = model_generator,
    look: Callable[[SweepConfig, int], ModelFacts] = look_at_model,
) -> Summary:
    """Do every run of a sweep that has not landed yet, on Ray; returns once all have.

    `display` shows progress: by default on standard error. With `make_generator`, the actors run another generator than
    the model's. `look` says what is written of its model in `sweep.json`, at which layers it may exit and what memory
    an actor needs; it is given the sweep's configuration and `rows_per_shard`. By default it looks at the model that
    the sweep names.

    Raises `UsageError` for what can't be used: a model, or an `out` that holds another sweep, is in use or can't be
    written to. Raises `SweepStopped` and `OSError` as `run_sweep` does.
    """
    display = display or open_display()
    location = location_for_all(job.out)
    store = open_store(location)
    with ExitStack() as on_ray:
        prepared = _prepare(job, store, look, display, on_ray)

        def do(left: Remaining) -> Tally:
            session = prepared.session
            if session is None:
                session = on_ray.enter_context(ray_session(display.say))
                auto = _dtype(job, prepared.dtype_here, prepared.memory, session, display)
                refuse_other_dtype(store, left.config.dtype, auto)
            of_left = job.model_copy(update={"config": left.config})
            assigned = Assignment(of_left, location, left.lease, display, make_generator)
            tally = _drive(assigned, left, prepared.memory, session)
            on_ray.close()
            return tally

        return do_what_is_left(prepared.manifest, location, job.out, display, do)


def _prepare(
    job: SweepJob, store: Store, look: Callable[[SweepConfig, int], ModelFacts], display: Display, on_ray: ExitStack
) -> _Prepared:
    """Refuse what can't work before anything is loaded or written.

    Where nothing has landed yet, Ray starts while another process looks at the model: each takes seconds. `on_ray`
    then holds that session. Raises `UsageError`.
    """
    held = read_held(store, job.config, job.out, display.say)
    config = stored_config(store, held).model_copy(update={"dtype": job.config.dtype}) if held else job.config
    with looking(look, config, job.rows_per_shard) as facts:
        display.say("looking at the model")
        session = None if held else on_ray.enter_context(ray_session(display.say))
        model, exitable_layers, memory = facts()
    # A sweep that goes on has a dtype, with which that of its actors is compared where any run is left to do.
    dtype = _dtype(job, model["dtype"], memory, session, display) if session else held.config["dtype"] if held else ""
    manifest = manifest_for(store, held, job.config, model, exitable_layers, dtype)
    return _Prepared(manifest, model["dtype"], memory, session)


def _dtype(job: SweepJob, here: str, memory: Memory | None, session: Session, display: Display) -> str:
    """The dtype of all actors. What `--dtype auto` becomes is asked where the first actor will be; `here` is that of
    this machine.
    """
    if job.config.dtype != AUTO_DTYPE:
        return job.config.dtype
    pool = plan_pools(job, session.nodes, memory, nodes_may_come=not session.is_own)[0]
    if session.is_here and pool.fits(session.nodes[0]) and not session.nodes[0].get("GPU"):
        return here
    display.say("asking where the model will run what --dtype auto is there")
    lean = job.config.model_copy(update={"prompts": job.config.prompts[:1]})
    asked, liveness = ask(pool, auto_dtype, lean, job.device), Liveness(session.is_own, [pool], display.say)
    try:
        return str(waited_for(asked, partial(liveness.check, at_work=False)))
    except RayTaskError as error:
        if isinstance(error.cause, UsageError):
            raise error.cause from error
        reason = failure_of_call(error).reason
        raise UsageError(f"--dtype auto can't be told where the model will run: {reason}; give --dtype") from error


def _drive(assigned: Assignment, left: Remaining, memory: Memory | None, session: Session) -> Tally:
    """Do the runs that have not landed, on Ray."""
    job, display, n_planned = assigned.job, assigned.display, count_runs(left.config)
    with display:
        pools = plan_pools(job, session.nodes, memory, nodes_may_come=not session.is_own)
        n_done = clear_the_way(left, job.out, display)
        display.say(f"{counted(n_planned - n_done, 'run')} to do, {', '.join(map(str, pools))}")
        for line in shortages(pools, session.nodes, memory):
            display.say(line)
        rows = rows_for(n_planned, sum(pool.actors for pool in pools), job.rows_per_shard)
        shards = cut(plan_runs(left.config), left.found.done, rows)
        return Driver(assigned, shards, n_done, pools, own_ray=session.is_own).drive()
