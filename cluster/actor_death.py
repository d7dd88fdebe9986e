"""Death of a sweep's actors: each dead actor is replaced, and its uncommitted shards are queued again."""

import logging
from collections.abc import Callable

from cluster.actor_client import ActorClient
from cluster.actor_resources import PoolSpec
from eexit.output.events import log
from eexit.results.store.commit import RunCounts, committed_tally
from eexit.results.store.folder import Store
from eexit.results.store.lease import Lease
from eexit.sweeps.retry import ShardFailure
from eexit.sweeps.shard_queue import ShardQueue
from eexit.sweeps.shards import Shard


class LiveActors:
    """Live actors of a sweep. A dead actor is replaced, and its uncommitted shards are queued again."""

    def __init__(
        self, start: Callable[[PoolSpec], ActorClient], queue: ShardQueue, store: Store, lease: Lease,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._start, self._queue, self._store, self._lease, self._say = start, queue, store, lease, say
        self.actors: list[ActorClient] = []
        self._vacant: list[PoolSpec] = []  # pools of actors that could not load; refilled after the next commit

    @property
    def n_planned(self) -> int:
        """Number of live actors, and of actors that could not load and are started again later."""
        return len(self.actors) + len(self._vacant)

    def start(self, pool: PoolSpec) -> None:
        self.actors.append(self._start(pool))

    def record_commit(self, shard: Shard, tally: RunCounts) -> None:
        """Record that a shard was committed or, for a rehearsal, that its run succeeded; `tally` has its counts.

        After a commit, actors that failed to load the model are started again.
        """
        self._queue.record_commit(shard, tally)
        while self._vacant and not shard.rehearsal:
            self.start(self._vacant.pop())

    def record_failure(self, shard: Shard, failure: ShardFailure) -> None:
        """Queue a failed shard again, in parts, or give up on its run."""
        hope = any(not given.failures for actor in self.actors for given in actor.shards.values())
        self._queue.failed(shard, failure, hope)

    def handle_death(self, actor: ActorClient, failure: ShardFailure, preempted: bool = False) -> None:
        """Replace an actor that is gone, unreachable or hanging, and queue its uncommitted shards again.

        Only its first uncommitted shard counts as failed, and none if the machine was preempted.
        """
        self._lease.fence(actor.token)
        actor.kill()
        self.actors.remove(actor)
        log("actor lost", logging.WARNING, reason=failure.reason, preempted=preempted)
        if actor.loading and not preempted:
            self._handle_failed_load(actor.pool, failure)
            return
        blamed = preempted
        for shard in actor.shards.values():
            tally = None if shard.rehearsal else committed_tally(self._store, shard.runs)
            if tally:
                self.record_commit(shard, tally)
            elif blamed:
                self._queue.again(shard)
            else:
                # Shards are done in order, so that only the first can have caused the death.
                blamed = True
                self.record_failure(shard, failure)
        if self._queue.n_left:
            self.start(actor.pool)

    def _handle_failed_load(self, pool: PoolSpec, failure: ShardFailure) -> None:
        reason = f"an actor could not load the model: {failure.reason}"
        if self._queue.has_worked and any(other.loading is None for other in self.actors):
            # A bad node must not end the sweep, nor be tried again in a tight loop.
            self._say(f"{reason}; the others go on")
            self._vacant.append(pool)
        else:
            self._queue.not_loaded(reason)
            self.start(pool)
