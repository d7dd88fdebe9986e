"""Evaluating a grid of configurations on tasks of the lm-evaluation-harness: `evaluate_on_tasks`.

Each evaluation is one task under one configuration and seed. Actors that each hold the model take one after the other;
what has landed is not done again. An evaluation that fails is told, and the others go on.
"""

from collections import deque
from collections.abc import Callable

from cluster.console.display import open_display
from cluster.job import SweepJob, location_for_all
from cluster.pool import plan_pools
from cluster.session import Liveness, ray_session
from cluster.studies.run import Call, Studied
from cluster.studies.workers import Workers
from eexit.errors import UsageError
from eexit.output.locations import shown
from eexit.output.progress import Display
from eexit.output.text import counted
from eexit.plan.config import SweepConfig
from eexit.plan.model_facts import ModelFacts, look_at_model
from eexit.results.layout import MANIFEST, Manifest
from eexit.results.store.finished_sweep import manifest_of
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import first_difference
from eexit.results.whereabouts import FOR_RESULTS, refuse_inside
from eexit.studies.harness.plan import Find, TasksAsked, evaluations_of, look_at_tasks, need_harness
from eexit.studies.harness.study import HarnessStudy


def evaluate_on_tasks(
    job: SweepJob,
    asked: TasksAsked,
    display: Display | None = None,
    look: Callable[[SweepConfig, int], ModelFacts] = look_at_model,
    find: Find = look_at_tasks,
) -> Studied[HarnessStudy]:
    """Evaluate every configuration and seed of `job.config` on the tasks, into `job.out`: the rows of all of them.

    `look` is as in `run_sweep`; `find` finds the tasks. Raises `UsageError` for what can't be used, and `SweepStopped`
    or `OSError` when going on would only fail.
    """
    display = display or open_display()
    need_harness()
    out = location_for_all(job.out)
    store = open_store(out)
    refuse_inside(store, f"--out {shown(job.out)}", *FOR_RESULTS)
    store.probe()
    beside = _sweep_beside(store, job)
    model, layers, memory = look(job.config, 1)
    if beside and (difference := first_difference(beside.model, model, "model")):
        raise UsageError(
            f"--out {shown(job.out)} holds a sweep of this model as it was before ({difference}): give another folder"
        )
    display.say("looking for the tasks and their data")
    found, folders = find(asked)
    study = HarnessStudy(job.config, asked, evaluations_of(job.config, asked, model, layers, found), folders, out)
    call = Call(study, store)
    left = call.left(study.units(), display)
    if n_done := len(study.evaluations) - len(left):
        display.say(f"{counted(n_done, study.noun)} landed before: going on")
    if left:
        with ray_session() as session:
            pools = plan_pools(job, session.nodes, memory, nodes_may_come=not session.is_own)
            display.say(f"{counted(len(left), study.noun)} to do, {', '.join(map(str, pools))}")
            liveness = Liveness(session.is_own, pools, display.say)
            with display:
                Workers(call, job.device, pools, liveness, display, deque(left)).run()
    return Studied(study, call.landed(study.units()), call.failures)


def _sweep_beside(store: Store, job: SweepJob) -> Manifest | None:
    """The sweep in `--out`, if there is one. Raises `UsageError` if it is of a model of another name."""
    if not store.has(MANIFEST):
        return None
    manifest = manifest_of(store, f"--out {shown(job.out)}")
    if (model := manifest.config.get("model")) != job.config.model:
        raise UsageError(
            f"--out {shown(job.out)} holds a sweep of {model}, and --model is {job.config.model}: give another folder"
        )
    return manifest
