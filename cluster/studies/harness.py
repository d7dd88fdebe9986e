"""Evaluating a grid of configurations on tasks of the lm-evaluation-harness: `evaluate_on_tasks`.

Each evaluation is one task under one configuration and seed. A pool of actors that each hold the model take one after
the other (`Workers`, which could do so with the units of any study); what has landed is not done again. An evaluation
that fails is told, and the others go on.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster import interruption
from cluster.console.display import open_display
from cluster.failed_shards import failure_of_actor, failure_of_call
from cluster.job import SweepJob, location_for_all
from cluster.pool import Pool, plan_pools
from cluster.session import Liveness, ray_session
from cluster.studies.actors import StudyActor
from cluster.studies.run import Call, Studied
from cluster.worker import SECONDS_BETWEEN_LOOKS, as_actor
from eexit.errors import SweepStopped, UsageError
from eexit.output.locations import shown
from eexit.output.progress import Display, Progress
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
from eexit.studies.study import Done, Unit


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


@dataclass(eq=False)
class _Hand:
    """An actor of a pool, and what it is doing."""

    handle: Any
    pool: Pool
    unit: Unit | None = None  # None while it loads
    began: datetime = datetime.min
    asked: Any = None  # reference to the answer of progress()
    progress: tuple[float, int] = (0.0, 0)


@dataclass
class Workers:
    """Gives units to a pool of actors, in any order, until none is left, and publishes what they have done."""

    call: Call
    device: str
    pools: Sequence[Pool]
    liveness: Liveness
    display: Display
    left: deque[Unit]
    hands: dict[Any, _Hand] = field(default_factory=dict)  # by reference to what they were called for
    idle: list[_Hand] = field(default_factory=list)
    done: int = 0
    tokens: int = 0

    def run(self) -> None:
        """Do all units. Raises `UsageError`, `OSError` or `SweepStopped`."""
        self.planned = len(self.left)
        wanted = [pool for pool in self.pools for _ in range(pool.actors)][: self.planned]
        try:
            for pool in wanted:
                self._hire(pool)
            while self.left or any(hand.unit for hand in self.hands.values()):
                self._feed()
                ready, _ = ray.wait(list(self.hands), timeout=SECONDS_BETWEEN_LOOKS)
                interruption.check()
                self.liveness.check(at_work=self._has_begun)
                for ref in ready:
                    self._settle(self.hands.pop(ref), ref)
                self._show()
            self._show(last=True)
        finally:
            for hand in (*self.hands.values(), *self.idle):
                ray.kill(hand.handle)

    @property
    def _has_begun(self) -> bool:
        return bool(self.done or self.idle or any(hand.unit for hand in self.hands.values()))

    def _hire(self, pool: Pool) -> None:
        handle = as_actor(pool)(StudyActor).remote(self.call.study)
        loading = handle.load.remote(self.device, max(1, int(pool.cpus)), min(1.0, pool.gpus or 1.0))
        self.hands[loading] = _Hand(handle, pool)

    def _feed(self) -> None:
        while self.left and self.idle:
            hand, unit = self.idle.pop(), self.left.popleft()
            hand.unit, hand.began, hand.progress, hand.asked = unit, datetime.now(UTC), (0.0, 0), None
            self.hands[hand.handle.do_all.remote(unit.parts)] = hand

    def _settle(self, hand: _Hand, ref: Any) -> None:
        """An actor has loaded, or a unit is done or has failed."""
        unit, hand.unit = hand.unit, None
        try:
            parts: Sequence[Done] = ray.get(ref)  # or what there is to know once it has loaded
        except RayTaskError as error:
            if isinstance(error.cause, UsageError | OSError):
                raise error.cause from error
            raise SweepStopped(failure_of_call(error).reason) from error
        except RayError as error:
            reason = failure_of_actor(error).reason
            if unit is None:
                raise SweepStopped(f"the model can't be loaded: {reason}") from error
            self.done += 1
            self.call.fail(unit, reason, self.display)
            if self.left:
                self._hire(hand.pool)
            return
        self.idle.append(hand)
        if unit is not None:
            self.done, self.tokens = self.done + 1, self.tokens + sum(part.tokens for part in parts)
            self.call.settle(unit, parts, hand.began, self.display)

    def _show(self, last: bool = False) -> None:
        at_work = [hand for hand in self.hands.values() if hand.unit]
        for hand in at_work:
            self._look(hand)
        share = (self.done + sum(hand.progress[0] for hand in at_work)) / self.planned
        tokens = self.tokens + sum(hand.progress[1] for hand in at_work)
        doing, failed = f"{self.done}/{self.planned} {self.call.study.noun}s", f"{len(self.call.failures)} failed"
        self.display.show(Progress(doing, tokens, share, self._has_begun, with_rate=True, ending=failed), last)

    def _look(self, hand: _Hand) -> None:
        """Read the answer of progress(), if it has come, and ask again, without waiting."""
        if hand.asked is not None and ray.wait([hand.asked], timeout=0)[0]:
            try:
                hand.progress = ray.get(hand.asked)
            except RayError:
                return  # the other calls show what happened
            hand.asked = None
        if hand.asked is None:
            hand.asked = hand.handle.progress.options(concurrency_group="progress").remote()
