"""The loop that gives shards to actors until every planned run is committed, even if actors die.

Actors write a shard's Parquet files themselves and return only counts. The driver never waits for a single actor: it
gives shards to actors that are ready, and replaces actors that die.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster import signals
from cluster.actor import MakeGenerator
from cluster.actor_client import SECONDS_BETWEEN_LOOKS, ActorClient, start_actor
from cluster.actor_resources import PoolSpec
from cluster.custom_exits import CustomExits
from cluster.ray_errors import failure_of_actor, failure_of_call
from cluster.session import RayHealth
from cluster.sweep_job import SweepJob
from eexit.errors import UsageError
from eexit.output.events import log
from eexit.output.progress import Display, Progress
from eexit.output.text import pluralize
from eexit.plan.runs import count_runs
from eexit.results.layout import MANIFEST
from eexit.results.store.commit import CommitError, RunCounts, clear_debris, landed_tally
from eexit.results.store.folder import open_store
from eexit.results.store.lease import Lease
from eexit.sweeps.lifecycle import put_manifest_back
from eexit.sweeps.retry import FailureKind, ShardFailure
from eexit.sweeps.shard_queue import ShardQueue
from eexit.sweeps.shard_runner import ShardProgress, sweep_progress
from eexit.sweeps.shards import Shard

SHARDS_PER_ACTOR = 2  # the current one and the next one
RUNS_LEFT_PER_RUN_GIVEN = 4  # while at least as many remain, actors get their next shard early


@dataclass(frozen=True)
class DriverInputs:
    """Arguments of a driver; `location` is the job's `out` as a path or URI that is the same for every process."""

    job: SweepJob
    location: str
    lease: Lease
    display: Display
    make_generator: MakeGenerator


class Driver:
    """Driver of one sweep, whose `drive` feeds shards to actors until every run is committed."""

    def __init__(
        self, assigned: DriverInputs, shards: Iterator[Shard], n_done: int, pools: Sequence[PoolSpec], own_ray: bool
    ) -> None:
        """Set up the driver of a sweep with `n_done` committed runs.

        Args:
            shards: The uncommitted runs; the driver consumes shards as actors need them.
            own_ray: True if Ray was started for this sweep only, so that no nodes will join.
        """
        job, self._lease, self._display = assigned.job, assigned.lease, assigned.display
        self._config, self._timeout = job.config, job.timeout
        self._store = open_store(assigned.location)
        self._manifest = self._store.read(MANIFEST)
        self._planned, self._done_before = count_runs(job.config), n_done
        self._queue = ShardQueue(
            self._store, job.config, assigned.lease, shards, self._planned - n_done, self._display.say
        )
        self._pools = pools
        self._own_ray = own_ray
        self._workers: list[ActorClient] = []
        self._vacant: list[PoolSpec] = []  # pools of actors that could not load; refilled after the next commit
        self._looked = 0.0
        # Runs include their prompts, so that actors need no other prompts of the sweep.
        lean = job.config.model_copy(update={"prompts": job.config.prompts[:1]})
        self._own = CustomExits.among(job.config.exits)
        self._arguments = (assigned.make_generator, lean, assigned.location, job.device, assigned.lease.token)

    def drive(self) -> RunCounts:
        """Commit every run; return the number of committed runs, errors and tokens.

        Raise `UsageError` if the model can't be loaded, and `SweepStopped` if all further runs would be errors.
        """
        liveness = RayHealth(self._own_ray, self._pools, self._display.say)
        try:
            wanted = [pool for pool in self._pools for _ in range(pool.actors)][: self._queue.n_left]
            self._workers = [start_actor(pool, self._arguments, self._own) for pool in wanted]
            self._display.say(f"loading the model on {pluralize(len(self._workers), 'actor')}")
            while self._queue.n_left:
                self._feed()
                self._handle_answers(liveness)
                self._supervise(liveness)
            self._display.show(self._progress(), last=True)
        finally:
            for worker in self._workers:
                worker.kill()
            with suppress(OSError, pa.ArrowException, UsageError):  # the next driver clears the rest
                clear_debris(self._store)
        return self._queue.tally

    def _feed(self) -> None:
        """Give every ready actor a shard, and a second one while many runs remain."""
        for depth in range(SHARDS_PER_ACTOR):
            given = sum(len(shard.runs) for worker in self._workers for shard in worker.shards.values())
            if depth and self._queue.n_left < RUNS_LEFT_PER_RUN_GIVEN * given:
                return
            for worker in self._workers:
                if worker.loading is None and len(worker.shards) == depth:
                    shard = self._queue.next()
                    if shard is None:
                        return
                    worker.assign(shard)

    def _handle_answers(self, liveness: RayHealth) -> None:
        """Wait for answers of actors, for SECONDS_BETWEEN_LOOKS at most, and handle them."""
        owners = {ref: worker for worker in self._workers for ref in (worker.loading, *worker.shards) if ref}
        answered, _ = ray.wait(list(owners), timeout=SECONDS_BETWEEN_LOOKS)
        for ref in answered:
            worker = owners[ref]
            try:
                answer = ray.get(ref)
            except RayTaskError as error:
                self._raised(worker, ref, error)
            except RayError as error:
                liveness.check_raylet()
                self._lost(worker, failure_of_actor(error), isinstance(error, RayActorError) and error.preempted)
            else:
                self._answered(worker, ref, answer)

    def _answered(self, worker: ActorClient, ref: Any, tally: RunCounts) -> None:
        if ref == worker.loading:
            worker.loaded()
        else:
            self._record_commit(worker.take(ref), tally)

    def _record_commit(self, shard: Shard, tally: RunCounts) -> None:
        self._queue.record_commit(shard, tally)
        while self._vacant and not shard.rehearsal:
            self._workers.append(start_actor(self._vacant.pop(), self._arguments, self._own))

    def _raised(self, worker: ActorClient, ref: Any, error: RayTaskError) -> None:
        """Handle an exception of a call, whose actor is alive."""
        failure = failure_of_call(error)
        if ref == worker.loading:
            if self._queue.has_worked:  # the model loaded elsewhere: this node is at fault
                self._lost(worker, failure)
                return
            cause = error.cause
            raise cause if isinstance(cause, UsageError) else UsageError(f"model can't be loaded: {failure.reason}")
        shard = worker.take(ref)
        if isinstance(error.cause, CommitError):
            self._queue.not_landed(shard, error.cause)
        elif not shard.rehearsal and (tally := landed_tally(self._store, shard.runs)):
            self._record_commit(shard, tally)  # the exception came after the commit
        else:
            self._failed(shard, failure)

    def _lost(self, worker: ActorClient, failure: ShardFailure, preempted: bool = False) -> None:
        """Replace an actor that is gone, unreachable or hanging, and find out which of its shards are committed.

        No run is blamed if the machine was preempted.
        """
        self._lease.fence(worker.token)
        worker.kill()
        self._workers.remove(worker)
        log("actor lost", logging.WARNING, reason=failure.reason, preempted=preempted)
        if worker.loading and not preempted:
            self._not_loaded(worker, failure)
            return
        blamed = preempted
        for shard in worker.shards.values():
            tally = None if shard.rehearsal else landed_tally(self._store, shard.runs)
            if tally:
                self._record_commit(shard, tally)
            elif blamed:
                self._queue.again(shard)
            else:
                # Shards are done in order, so that only the first can have caused the death.
                blamed = True
                self._failed(shard, failure)
        if self._queue.n_left:
            self._workers.append(start_actor(worker.pool, self._arguments, self._own))

    def _not_loaded(self, worker: ActorClient, failure: ShardFailure) -> None:
        reason = f"an actor could not load the model: {failure.reason}"
        if self._queue.has_worked and any(other.loading is None for other in self._workers):
            # A bad node must not end the sweep, nor be tried again in a tight loop.
            self._display.say(f"{reason}; the others go on")
            self._vacant.append(worker.pool)
        else:
            self._queue.not_loaded(reason)
            self._workers.append(start_actor(worker.pool, self._arguments, self._own))

    def _failed(self, shard: Shard, failure: ShardFailure) -> None:
        hope = any(not given.failures for worker in self._workers for given in worker.shards.values())
        self._queue.failed(shard, failure, hope)

    def _supervise(self, liveness: RayHealth) -> None:
        """Show progress, replace hanging actors, and stop if the sweep can't go on; about once a second."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        signals.check()
        self._lease.check()
        put_manifest_back(self._store, self._manifest, self._display.say)
        for worker in list(self._workers):
            worker.poll()
            if self._timeout and worker.hangs(self._timeout):
                reason = f"timed out: not done after {self._timeout:g} seconds (--timeout)"
                self._lost(worker, ShardFailure(FailureKind.HUNG, reason))
        liveness.check(any(worker.is_up for worker in self._workers))
        self._display.show(self._progress())

    def _progress(self) -> Progress:
        busy = [worker for worker in self._workers if worker.shards]
        observed = [worker.in_flight.observed for worker in busy]
        in_flight = ShardProgress(
            tokens=sum(worker.in_flight.tokens for worker in busy),
            runs=sum(worker.in_flight.runs for worker in busy if worker.does_runs),
            observed=sum(observed) if all(observed) else 0,  # else some actors still generate tokens
        )
        ready = sum(worker.loading is None for worker in self._workers)
        actors = (ready, len(self._workers) + len(self._vacant))
        most, tally = self._config.max_new_tokens, self._queue.tally
        return sweep_progress(self._planned, self._done_before, tally, in_flight, most, actors)
