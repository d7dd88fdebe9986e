"""Evaluating a grid of configurations on tasks of the lm-evaluation-harness: `evaluate_on_tasks`.

Each evaluation is one task under one configuration and seed. Actors that each hold the model take one after the other
and land it; what has landed is not done again. An evaluation that fails is told, and the others go on.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.console import interruption
from cluster.console.display import open_display
from cluster.console.harness_job import (
    Asked,
    Evaluation,
    Find,
    HarnessPlan,
    look_at_tasks,
    make_harness_plan,
    need_harness,
)
from cluster.console.job import SweepJob
from cluster.failures import failure_of_actor, failure_of_call
from cluster.liveness import Liveness
from cluster.pool import Pool, plan_pools
from cluster.session import location_for_all, ray_session
from cluster.studies.harness_actor import Answer, HarnessActor
from cluster.worker import as_actor
from eexit.messages.errors import SweepStopped, UsageError
from eexit.messages.locations import shown
from eexit.messages.progress import Display
from eexit.messages.wording import counted
from eexit.plan.config import SweepConfig
from eexit.plan.model_facts import ModelFacts, look_at_model
from eexit.results.layout import MANIFEST, Manifest
from eexit.results.store.finished_sweep import manifest_of
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import first_difference
from eexit.results.store.whereabouts import refuse_for_results
from eexit.results.study_tables import SCORES

SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class EvaluationProgress:
    """Evaluations done and planned, parts of those at work included, and the tokens decided."""

    done: int
    planned: int
    failed: int
    share: float
    tokens: int
    has_begun: bool

    def describe(self, rate: float, left: str) -> str:
        return f"{self.done}/{self.planned} evaluations · {rate:,.0f} tokens/s · {left} · {self.failed} failed"


@dataclass(frozen=True)
class Evaluations:
    """The rows of `scores` of all evaluations that were asked for, in order, and why others failed, by name."""

    rows: Sequence[Mapping[str, Any]]
    failures: Mapping[str, str]


def evaluate_on_tasks(
    job: SweepJob,
    asked: Asked,
    display: Display | None = None,
    look: Callable[[SweepConfig, int], ModelFacts] = look_at_model,
    find: Find = look_at_tasks,
) -> Evaluations:
    """Evaluate every configuration and seed of `job.config` on the tasks, into `job.out`.

    `look` is as in `run_sweep`; `find` finds the tasks. Raises `UsageError` for what can't be used, and `SweepStopped`
    or `OSError` when going on would only fail.
    """
    display = display or open_display()
    need_harness()
    out = location_for_all(job.out)
    store = open_store(out)
    refuse_for_results(store, f"--out {shown(job.out)}")
    store.probe()
    beside = _sweep_beside(store, job)
    model, layers, memory = look(job.config, 1)
    if beside and (difference := first_difference(beside.model, model, "model")):
        raise UsageError(
            f"--out {shown(job.out)} holds a sweep of this model as it was before ({difference}): give another folder"
        )
    display.say("looking for the tasks and their data")
    plan = make_harness_plan(job, asked, model, layers, *find(asked))
    for name, aside in SCORES.set_damaged_aside(store):
        display.say(f"{name} is damaged: it is now in {aside}, and what it held is evaluated again")
    left = [each for each in plan.evaluations if not store.has(SCORES.file(each.evaluation_id))]
    failures: Mapping[str, str] = {}
    if n_done := len(plan.evaluations) - len(left):
        display.say(f"{counted(n_done, 'evaluation')} landed before: going on")
    if left:
        with ray_session() as session:
            pools = plan_pools(job, session.nodes, memory, nodes_may_come=not session.is_own)
            display.say(f"{counted(len(left), 'evaluation')} to do, {', '.join(map(str, pools))}")
            liveness = Liveness(session.is_own, pools, display.say)
            with display:
                failures = _Work(plan, out, job.device, pools, liveness, display, deque(left)).run()
    return Evaluations(_landed(store, plan), failures)


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


def _landed(store: Store, plan: HarnessPlan) -> list[Mapping[str, Any]]:
    order = {each.evaluation_id: rank for rank, each in enumerate(plan.evaluations)}
    rows = SCORES.read(store).to_pylist()
    return sorted(
        (row for row in rows if row["evaluation_id"] in order), key=lambda row: order[row["evaluation_id"]]
    )  # the sort is stable: metrics keep their order


@dataclass(eq=False)
class _Hand:
    """An actor, and what it is doing."""

    handle: Any
    pool: Pool
    evaluation: Evaluation | None = None  # None while it loads
    is_idle: bool = False
    asked: Any = None  # reference to the answer of progress()
    progress: tuple[float, int] = (0.0, 0)


@dataclass
class _Work:
    """Gives evaluations to actors until none is left."""

    plan: HarnessPlan
    out: str
    device: str
    pools: Sequence[Pool]
    liveness: Liveness
    display: Display
    left: deque[Evaluation]
    hands: dict[Any, _Hand] = field(default_factory=dict)  # by reference to what they were called for
    idle: list[_Hand] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    done: int = 0
    tokens: int = 0

    def run(self) -> Mapping[str, str]:
        """All evaluations; returns why some failed."""
        self.planned = len(self.left)
        wanted = [pool for pool in self.pools for _ in range(pool.actors)][: self.planned]
        try:
            for pool in wanted:
                self._hire(pool)
            while self.left or any(hand.evaluation for hand in self.hands.values()):
                self._feed()
                ready, _ = ray.wait(list(self.hands), timeout=SECONDS_BETWEEN_LOOKS)
                interruption.check()
                self.liveness.check(at_work=self.has_begun)
                for ref in ready:
                    self._settle(self.hands.pop(ref), ref)
                self._show()
            self._show(last=True)
        finally:
            for hand in (*self.hands.values(), *self.idle):
                ray.kill(hand.handle)
        return self.failures

    @property
    def has_begun(self) -> bool:
        return bool(self.done or self.idle or any(hand.evaluation for hand in self.hands.values()))

    def _hire(self, pool: Pool) -> None:
        handle = as_actor(pool)(HarnessActor).remote(self.out)
        self.hands[handle.load.remote(self.plan, self.device)] = _Hand(handle, pool)

    def _feed(self) -> None:
        while self.left and self.idle:
            hand, evaluation = self.idle.pop(), self.left.popleft()
            hand.evaluation, hand.progress, hand.asked = evaluation, (0.0, 0), None
            self.hands[hand.handle.evaluate.remote(evaluation)] = hand

    def _settle(self, hand: _Hand, ref: Any) -> None:
        """An actor has loaded, or an evaluation has landed or failed."""
        evaluation, hand.evaluation = hand.evaluation, None
        try:
            answer = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, UsageError | OSError):
                raise error.cause from error
            raise SweepStopped(failure_of_call(error).reason) from error
        except RayError as error:
            reason = failure_of_actor(error).reason
            if evaluation is None:
                raise SweepStopped(f"the model can't be loaded: {reason}") from error
            self._fail(evaluation, reason)
            if self.left:
                self._hire(hand.pool)
            return
        self.idle.append(hand)
        if evaluation is not None:
            self._count(evaluation, answer)

    def _count(self, evaluation: Evaluation, answer: Answer) -> None:
        self.tokens += answer.n_tokens
        if answer.error:
            self._fail(evaluation, answer.error)
        else:
            self.done += 1

    def _fail(self, evaluation: Evaluation, reason: str) -> None:
        self.failures[evaluation.name] = reason
        self.done += 1
        self.display.say(f"{evaluation.name} failed: {reason}")

    def _show(self, last: bool = False) -> None:
        at_work = [hand for hand in self.hands.values() if hand.evaluation]
        for hand in at_work:
            self._look(hand)
        share = (self.done + sum(hand.progress[0] for hand in at_work)) / self.planned
        tokens = self.tokens + sum(hand.progress[1] for hand in at_work)
        progress = EvaluationProgress(self.done, self.planned, len(self.failures), share, tokens, self.has_begun)
        self.display.show(progress, last)

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
