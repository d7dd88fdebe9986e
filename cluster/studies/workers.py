"""Doing a study with a pool of actors: units are done in any order, and one that fails does not stop the others."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster import interruption
from cluster.failures import failure_of_actor, failure_of_call
from cluster.pool import Pool
from cluster.session import Liveness
from cluster.studies.actor import StudyActor
from cluster.studies.run import Call
from cluster.worker import as_actor
from eexit.errors import SweepStopped, UsageError
from eexit.output.progress import Display, Progress
from eexit.studies.study import Done, Unit

SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(eq=False)
class _Hand:
    """An actor, and what it is doing."""

    handle: Any
    pool: Pool
    unit: Unit | None = None  # None while it loads
    began: datetime = datetime.min
    asked: Any = None  # reference to the answer of progress()
    progress: tuple[float, int] = (0.0, 0)


@dataclass
class Workers:
    """Gives units to actors until none is left, and publishes what they have done."""

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
