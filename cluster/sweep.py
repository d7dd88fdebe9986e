"""The Python API of sweeps, `run_sweep`, which `jobs/sweep.py` uses too."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError
from ray.exceptions import RayTaskError

from cluster.actor import MakeGenerator, auto_dtype, model_generator
from cluster.driver import Assignment, Driver
from cluster.failures import failure_of_call
from cluster.job import FIELDS, Device, SweepJob, location_for_all
from cluster.pool import plan_pools, shortages
from cluster.session import Liveness, Session, ray_session
from cluster.worker import ask, waited_for
from eexit.errors import SweepStopped, UsageError
from eexit.output.display import open_display
from eexit.output.locations import shown
from eexit.output.progress import Display
from eexit.output.text import counted, precision
from eexit.plan.config import AUTO_DTYPE, SweepConfig
from eexit.plan.model_facts import Memory, ModelFacts, look_at_model, looking
from eexit.plan.runs import configurations, count_runs, plan_runs, same_for_every_seed
from eexit.plan.validation_errors import explain
from eexit.results.layout import (
    REPORT,
    REPORT_HEAD_BYTES,
    SIDE_FILES,
    Manifest,
    is_report,
    is_side_file,
    side_folder_name,
)
from eexit.results.means import figures
from eexit.results.store.folder import Store, open_store
from eexit.results.store.lease import hold
from eexit.results.store.manifest import (
    LostManifestError,
    make_manifest,
    read_manifest,
    refuse_other_config,
    refuse_other_dtype,
    refuse_other_model,
    refuse_other_runs,
    written,
)
from eexit.results.store.writing_shards import Survey, Tally, clear_debris, remove_errors, take_stock
from eexit.results.whereabouts import FOR_RESULTS, refuse_inside
from eexit.sweeps.shards import cut, rows_for


@dataclass(frozen=True)
class Summary:
    """The outcome of a sweep.

    `out` is an absolute path or a URI. `done` runs have landed with a result, and `errors` runs with an error; together
    they are all runs of `config`. `tally` counts the runs that this call has landed, which are none if nothing was left
    to do. `model` and `dtype_asked` are those of `sweep.json`.
    """

    config: SweepConfig
    out: str
    model: Mapping[str, Any]
    dtype_asked: str
    done: int
    errors: int
    tally: Tally

    @property
    def precision(self) -> str:
        """What the model computes in, as users see it."""
        return precision(self.model, self.dtype_asked)

    def figures(self) -> list[dict[str, Any]]:
        """The runs, different runs, errors and mean measures of each configuration, read from the results.

        `by_kind` has, for each kind of prompt, accuracy, disagreement, and what is saved and lost beside `normal`.
        """
        prompts = [asdict(prompt) for prompt in self.config.prompts]
        planned, same = configurations(self.config), same_for_every_seed(self.config)
        return figures(open_store(self.out), planned, same, prompts)


@dataclass(frozen=True)
class _Prepared:
    """What is known of a sweep before anything is written. A sweep of which runs have landed has no session yet."""

    manifest: Manifest
    dtype_here: str  # what `config.dtype` is on this machine
    memory: Memory | None  # of an actor
    session: Session | None


def run_sweep(
    config: SweepConfig,
    out: str | Path,
    *,
    device: Device = "auto",
    actors: int | None = None,
    cpus_per_actor: float | None = None,
    gpus_per_actor: float | None = None,
    accelerator_type: tuple[str, ...] | None = None,
    timeout: float | None = None,
    rows_per_shard: int = 128,
    display: Display | None = None,
    make_generator: MakeGenerator = model_generator,
    look: Callable[[SweepConfig, int], ModelFacts] = look_at_model,
) -> Summary:
    """Do every run of `config` that has not landed in `out` yet; returns once all have.

        from cluster.sweep import run_sweep
        from eexit.plan.config import Prompt, SweepConfig

        prompt = Prompt(id="recursion", prompt="Explain recursion.")
        summary = run_sweep(SweepConfig(prompts=(prompt,), kl_factors=(0.5, 1)), "results/one")
        for row in summary.figures():
            print(row["configuration"], row["means"]["mean_depth"])

    `out` is a folder, or a URI that all nodes reach. Calling again goes on where the last call stopped, and tries runs
    again that ended in errors. The keywords up to `rows_per_shard` are the flags of `jobs/sweep.py` (`--help` describes
    them). Ray is the one that this process has joined, else the cluster that RAY_ADDRESS names, else one that is
    started for this call. `display` shows progress: by default on standard error, `Silence()` shows none.

    With `make_generator`, the actors run another generator than the model's. `look` says what is written of its model
    in `sweep.json`, at which layers it may exit and what memory an actor needs; it is given `config` and
    `rows_per_shard`. By default it looks at the model that `config` names.

    Raises `UsageError` for what can't be used: arguments, a model, or an `out` that holds another sweep, is in use or
    can't be written to. Raises `SweepStopped` when going on would only fail, and `OSError` where a disk is full before
    anything has landed; what has landed stays.
    """
    display = display or open_display()
    try:
        job = SweepJob(
            config=config,
            out=str(out),
            device=device,
            actors=actors,
            cpus_per_actor=cpus_per_actor,
            gpus_per_actor=gpus_per_actor,
            accelerator_type=accelerator_type,
            timeout=timeout,
            rows_per_shard=rows_per_shard,
        )
    except ValidationError as error:
        raise UsageError(explain(error, set(), Path("run_sweep"), FIELDS)) from error
    location = location_for_all(job.out)
    store, n_planned = open_store(location), count_runs(config)
    with ExitStack() as on_ray:
        prepared = _prepare(job, store, look, display, on_ray)
        manifest, session = prepared.manifest, prepared.session
        config = config.model_copy(update={"dtype": manifest.config["dtype"]})
        with hold(store) as lease, written(store, manifest):
            found, said = _look_through(store, [])
            tally = Tally()
            if len(found.done) == n_planned:
                display.say(f"nothing is left to do: {counted(n_planned, 'run')} landed in {shown(job.out)}")
            else:
                if session is None:
                    session = on_ray.enter_context(ray_session(display.say))
                    auto = _dtype(job, prepared.dtype_here, prepared.memory, session, display)
                    refuse_other_dtype(store, config.dtype, auto)
                job = job.model_copy(update={"config": config})
                assigned = Assignment(job, location, lease, display, make_generator)
                tally = _drive(assigned, found, prepared.memory, session)
                on_ray.close()
                found, _ = _look_through(store, said)
        missing = n_planned - len(found.done) - found.n_errors
        if missing:
            raise SweepStopped(f"{missing:,} runs that had landed are damaged or gone")
    return Summary(config, location, manifest.model, manifest.dtype_asked, len(found.done), found.n_errors, tally)


def _prepare(
    job: SweepJob, store: Store, look: Callable[[SweepConfig, int], ModelFacts], display: Display, on_ray: ExitStack
) -> _Prepared:
    """Refuse what can't work before anything is loaded or written.

    Where nothing has landed yet, Ray starts while another process looks at the model: each takes seconds. `on_ray`
    then holds that session. Raises `UsageError`.
    """
    if not store.is_local:
        store.probe()  # first, since whatever else asks a place that is out of reach waits for a minute
    refuse_inside(store, f"--out {shown(job.out)}", *FOR_RESULTS)
    if store.is_local:
        store.probe()
    _refuse_foreign_report(store)
    held = _read_held(store, job.config)
    if held:
        refuse_other_config(store, held, job.config)
    with looking(look, job.config, job.rows_per_shard) as facts:
        display.say("looking at the model")
        session = None if held else on_ray.enter_context(ray_session(display.say))
        model, exitable_layers, memory = facts()
    # A sweep that goes on has a dtype, with which that of its actors is compared where any run is left to do.
    dtype = _dtype(job, model["dtype"], memory, session, display) if session else held.config["dtype"] if held else ""
    config = job.config.model_copy(update={"dtype": dtype})
    manifest = make_manifest(config, {**model, "dtype": dtype}, exitable_layers, job.config.dtype)
    if held:
        refuse_other_model(store, held, manifest)
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


def _refuse_foreign_report(store: Store) -> None:
    """Raises `UsageError` if the report or a side file would replace a file that this program did not write."""
    beside = [name for name in store.names(side_folder_name(REPORT)) if PurePosixPath(name).match(SIDE_FILES)]
    for name, is_ours in ((REPORT, is_report), *((name, is_side_file) for name in beside)):
        head = store.read(name, REPORT_HEAD_BYTES)
        if head is not None and not is_ours(head):
            raise UsageError(f"{store.path(name)} is not a report's file: choose another --out, or move it elsewhere")


def _read_held(store: Store, config: SweepConfig) -> Manifest | None:
    """The manifest of what has landed, or None if there is none or it is lost and can be written again.

    Raises `UsageError`.
    """
    try:
        return read_manifest(store)
    except LostManifestError as lost:
        print(refuse_other_runs(store, lost, config), file=sys.stderr)
        return None


def _look_through(store: Store, said: Sequence[str]) -> tuple[Survey, Sequence[str]]:
    """What has landed undamaged, and messages about repairs; prints those that were not printed before."""
    found, lines = take_stock(store)
    for line in lines:
        if line not in said:
            print(line, file=sys.stderr)
    return found, lines


def _drive(assigned: Assignment, found: Survey, memory: Memory | None, session: Session) -> Tally:
    """Do the runs that have not landed, on Ray."""
    job, display, store = assigned.job, assigned.display, open_store(assigned.location)
    n_planned, n_done = count_runs(job.config), len(found.done)
    clear_debris(store)
    with display:
        pools = plan_pools(job, session.nodes, memory, nodes_may_come=not session.is_own)
        retried = remove_errors(store, found.with_errors)
        if n_done or retried:
            display.say(
                f"{n_done:,} of {n_planned:,} runs are in {shown(job.out)}; {counted(retried, 'error')} tried again"
            )
        display.say(f"{counted(n_planned - n_done, 'run')} to do, {', '.join(map(str, pools))}")
        for line in shortages(pools, session.nodes, memory):
            display.say(line)
        rows = rows_for(n_planned, sum(pool.actors for pool in pools), job.rows_per_shard)
        shards = cut(plan_runs(job.config), found.done, rows)
        return Driver(assigned, shards, n_done, pools, own_ray=session.is_own).drive()
