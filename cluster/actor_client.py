"""The driver's view of an actor."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError

from cluster import signals
from cluster.actor import SweepActor
from cluster.actor_resources import ACCELERATOR, PoolSpec
from cluster.custom_exits import CustomExits
from eexit.sweeps.shard_runner import ShardProgress
from eexit.sweeps.shards import Shard

SECONDS_BETWEEN_POLLS = 1.0
SECONDS_TO_DIE = 10.0  # to wait for a killed actor's calls to end
ACCELERATOR_SHARE = 0.001  # of a node's `accelerator_type:…` resource, as Ray itself requests to place an actor there


@dataclass(eq=False)
class ActorClient:
    """An actor's pending calls, and the state of its current shard. Times are monotonic seconds."""

    handle: Any
    pool: PoolSpec
    token: str  # for fencing it off by the lease
    loading: Any  # reference to the answer of load(); None once that has come
    shards: dict[Any, Shard] = field(default_factory=dict)  # by reference to the answer of do(), in order
    asked: Any = None  # reference to the answer of progress(); None if not requested
    is_up: bool = False  # True once it has answered; until then it may be waiting for resources
    in_flight: ShardProgress = field(default_factory=ShardProgress)  # progress of the current shard
    began: float = 0.0  # when the current shard, or loading, was started
    last_progress: float = 0.0  # when progress last changed

    def loaded(self) -> None:
        self._is_up()
        self.loading = None

    def assign(self, shard: Shard) -> None:
        if not self.shards:
            self._begin()
        method = self.handle.rehearse if shard.rehearsal else self.handle.do
        self.shards[method.remote(shard.runs)] = shard

    def take(self, ref: Any) -> Shard:
        """Remove and return the shard whose call was answered, and start timing the next one."""
        self._begin()
        self.asked = None  # the answer may concern the previous shard
        return self.shards.pop(ref)

    @property
    def does_runs(self) -> bool:
        """True if the current shard's runs are to be committed, and not only rehearsed."""
        return any(not shard.rehearsal for shard in islice(self.shards.values(), 1))

    def poll(self) -> None:
        """Read the answer of progress(), if it has come, and request it again, without waiting."""
        if self.asked is not None and ray.wait([self.asked], timeout=0)[0]:
            try:
                in_flight = ray.get(self.asked)
            except RayError:
                in_flight = self.in_flight  # the other calls raise the cause
            else:
                self._is_up()
            if in_flight != self.in_flight:
                self.in_flight, self.last_progress = in_flight, time.monotonic()
            self.asked = None
        if self.asked is None and self.shards:
            self.ask()

    def ask(self) -> None:
        self.asked = self.handle.progress.options(concurrency_group="progress").remote()

    def hangs(self, timeout: float) -> bool:
        """Return True if the current shard has had no new token for `timeout` seconds, or took longer for each run.

        While the actor loads, return True if loading has taken longer than `timeout`.
        """
        now = time.monotonic()
        if self.loading is not None:
            return self.is_up and now - self.began > timeout
        shard = next(iter(self.shards.values()), None)
        if shard is None:
            return False
        return now - self.last_progress > timeout or now - self.began > timeout * len(shard.runs)

    def kill(self) -> None:
        """Kill the actor's process, and wait until it can commit nothing more."""
        ray.kill(self.handle)
        if self.shards:
            ray.wait(list(self.shards), num_returns=len(self.shards), timeout=SECONDS_TO_DIE)

    def _is_up(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._begin()

    def _begin(self) -> None:
        self.began = self.last_progress = time.monotonic()
        self.in_flight = ShardProgress()


def ask(pool: PoolSpec, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process with a pool's resources; return a reference to its result."""
    return _remote(pool)(function).remote(*arguments)


def wait_for_result(ref: Any, check: Callable[[], None]) -> Any:
    """Return a call's result; while waiting, call `check` about once a second, which may raise."""
    while not ray.wait([ref], timeout=SECONDS_BETWEEN_POLLS)[0]:
        signals.check()
        check()
    return ray.get(ref)


def _remote(pool: PoolSpec, **options: Any) -> Any:
    remote: Any = ray.remote  # its type stubs lack concurrency groups
    return remote(
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        memory=pool.memory,
        resources={f"{ACCELERATOR}{pool.accelerator}": ACCELERATOR_SHARE} if pool.accelerator else None,
        **options,
    )


def start_actor(pool: PoolSpec, arguments: tuple[Any, ...], custom: CustomExits) -> ActorClient:
    """Request one more actor of `pool` from Ray, with these custom rules and modes; it starts when there is room.

    A second thread of the actor answers calls of the group `progress`.
    """
    token = uuid4().hex
    actor_class = _remote(pool, max_restarts=0, max_task_retries=0, concurrency_groups={"progress": 1})(SweepActor)
    handle = actor_class.remote(*arguments, token)
    client = ActorClient(handle, pool, token, loading=handle.load.remote(custom))
    client.ask()
    return client
