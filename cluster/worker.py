"""An actor as the driver sees it."""

import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError

from cluster.actor import SweepActor
from cluster.pool import ACCELERATOR, Pool
from cluster.shards import Shard

SECONDS_TO_DIE = 10.0
ACCELERATOR_SHARE = 0.001  # what Ray itself asks for of a node's `accelerator_type:…`, to be placed there


@dataclass(eq=False)
class Worker:
    """Its calls that haven't been answered, and how the shard at hand is going. Times are monotonic seconds."""

    handle: Any
    pool: Pool
    token: str  # what the lease fences it off by
    loading: Any  # what its load() will answer; None once it has
    shards: dict[Any, Shard] = field(default_factory=dict)  # by what its do() will answer; in the order it does them
    asked: Any = None  # what its progress() will answer; None when it wasn't asked
    is_up: bool = False  # whether it has answered anything: until then it may wait for room
    in_flight: int = 0  # tokens of the shard at hand
    began: float = 0.0  # when that was begun, or loading
    moved: float = 0.0  # when it last made a token

    def loaded(self) -> None:
        self._is_up()
        self.loading = None

    def give(self, shard: Shard) -> None:
        if not self.shards:
            self._begin()
        method = self.handle.rehearse if shard.rehearsal else self.handle.do
        self.shards[method.remote(shard.runs)] = shard

    def take(self, ref: Any) -> Shard:
        """The shard whose call was answered; the next one begins."""
        self._begin()
        return self.shards.pop(ref)

    def look(self) -> None:
        """See how far it is, without waiting, and ask again."""
        if self.asked is not None and ray.wait([self.asked], timeout=0)[0]:
            try:
                in_flight = ray.get(self.asked)
            except RayError:
                in_flight = self.in_flight  # its other calls tell what happened
            else:
                self._is_up()
            if in_flight != self.in_flight:
                self.in_flight, self.moved = in_flight, time.monotonic()
            self.asked = None
        if self.asked is None and self.shards:
            self.ask()

    def ask(self) -> None:
        self.asked = self.handle.progress.options(concurrency_group="progress").remote()

    def hangs(self, timeout: float) -> bool:
        """Whether the shard at hand made no token for `timeout` seconds, or took that long for each of its runs.

        As long as it loads, whether it has done so for longer.
        """
        now = time.monotonic()
        if self.loading is not None:
            return self.is_up and now - self.began > timeout
        shard = next(iter(self.shards.values()), None)
        if shard is None:
            return False
        return now - self.moved > timeout or now - self.began > timeout * len(shard.runs)

    def kill(self) -> None:
        """End its process, and wait for that: what is dead lands nothing any more."""
        ray.kill(self.handle)
        if self.shards:
            ray.wait(list(self.shards), num_returns=len(self.shards), timeout=SECONDS_TO_DIE)

    def _is_up(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._begin()

    def _begin(self) -> None:
        self.began = self.moved = time.monotonic()
        self.in_flight = 0


def hire(pool: Pool, arguments: tuple[Any, ...]) -> Worker:
    """Ask Ray for one more actor of `pool`; where there is no room for it, it comes when there is."""
    remote: Any = ray.remote  # its type knows no concurrency groups
    as_actor = remote(
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        memory=pool.memory,
        resources={f"{ACCELERATOR}{pool.accelerator}": ACCELERATOR_SHARE} if pool.accelerator else None,
        max_restarts=0,
        max_task_retries=0,
        concurrency_groups={"progress": 1},
    )
    token = uuid4().hex
    handle = as_actor(SweepActor).remote(*arguments, token)
    worker = Worker(handle, pool, token, loading=handle.load.remote())
    worker.ask()
    return worker
