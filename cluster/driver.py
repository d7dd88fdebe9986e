"""The loop that gives shards to actors until every planned run is committed, even if actors die.

Actors write a shard's Parquet files themselves and return only counts. The driver never waits for a single actor: it
gives shards to actors that are ready; `cluster.actor_death` replaces actors that die.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster import signals
from cluster.actor import MakeGenerator
from cluster.actor_client import SECONDS_BETWEEN_POLLS, ActorClient, start_actor
from cluster.actor_death import LiveActors
from cluster.actor_resources import PoolSpec
from cluster.custom_exits import CustomExits
from cluster.ray_errors import failure_of_actor, failure_of_call
from cluster.session import RayHealth
from cluster.sweep_job import SweepJob
from eexit.errors import UsageError
from eexit.output.progress import Display, Progress
from eexit.output.text import pluralize
from eexit.plan.runs import count_runs
from eexit.results.layout import MANIFEST
from eexit.results.store.commit import CommitError, RunCounts, clear_debris, committed_tally
from eexit.results.store.folder import open_store
from eexit.results.store.lease import Lease
from eexit.results.store.manifest import put_manifest_back
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
    """Driver of one sweep, which gives shards to actors until every run is committed."""

    def __init__(
        self, assigned: DriverInputs, shards: Iterator[Shard], n_done: int, pools: Sequence[PoolSpec], is_own_ray: bool
    ) -> None:
        """Set up the driver of a sweep with `n_done` committed runs.

        Args:
            shards: The uncommitted runs; the driver consumes shards as actors need them.
            is_own_ray: True if Ray was started for this sweep only, so that no nodes will join.
        """
        job, self._lease, self._display = assigned.job, assigned.lease, assigned.display
        self._config, self._timeout = job.config, job.timeout
        self._store = open_store(assigned.location)
        self._manifest = self._store.read(MANIFEST)
        self._planned, self._done_before = count_runs(job.config), n_done
        self._queue = ShardQueue(
            self._store, job.config, assigned.lease, shards, self._planned - n_done, self._display.say
        )
        self._pools, self._own_ray, self._supervised = pools, is_own_ray, 0.0
        # Runs include their prompts, so that actors need no other prompts of the sweep.
        lean = job.config.model_copy(update={"prompts": job.config.prompts[:1]})
        arguments = (assigned.make_generator, lean, assigned.location, job.device, assigned.lease.token)
        start = partial(start_actor, arguments=arguments, custom=CustomExits.among(job.config.exits))
        self._live = LiveActors(start, self._queue, self._store, assigned.lease, self._display.say)

    def drive(self) -> RunCounts:
        """Execute every uncommitted run on the actors and commit it, or its error; return the counts of this call.

        Raise `UsageError` if the model can't be loaded, and `SweepStopped` if all further runs would be errors.
        """
        liveness = RayHealth(self._own_ray, self._pools, self._display.say)
        try:
            places = [pool for pool in self._pools for _ in range(pool.actors)]
            for pool in places[: self._queue.n_left]:
                self._live.start(pool)
            self._display.say(f"loading the model on {pluralize(len(self._live.actors), 'actor')}")
            while self._queue.n_left:
                self._feed()
                self._handle_answers(liveness)
                self._supervise(liveness)
            self._display.show(self._progress(), last=True)
        finally:
            for actor in self._live.actors:
                actor.kill()
            with suppress(OSError, pa.ArrowException, UsageError):  # the next driver clears the rest
                clear_debris(self._store)
        return self._queue.tally

    def _feed(self) -> None:
        """Give every ready actor a shard, and a second one while many runs remain."""
        for depth in range(SHARDS_PER_ACTOR):
            given = sum(len(shard.runs) for actor in self._live.actors for shard in actor.shards.values())
            if depth and self._queue.n_left < RUNS_LEFT_PER_RUN_GIVEN * given:
                return
            for actor in self._live.actors:
                if actor.loading is None and len(actor.shards) == depth:
                    shard = self._queue.next()
                    if shard is None:
                        return
                    actor.assign(shard)

    def _handle_answers(self, liveness: RayHealth) -> None:
        """Handle results and errors of actors' calls, waiting SECONDS_BETWEEN_POLLS at most; `liveness` checks Ray."""
        owners = {ref: actor for actor in self._live.actors for ref in (actor.loading, *actor.shards) if ref}
        answered, _ = ray.wait(list(owners), timeout=SECONDS_BETWEEN_POLLS)
        for ref in answered:
            actor = owners[ref]
            try:
                answer = ray.get(ref)
            except RayTaskError as error:
                self._raised(actor, ref, error)
            except RayError as error:
                liveness.check_raylet()
                self._live.handle_death(
                    actor, failure_of_actor(error), isinstance(error, RayActorError) and error.preempted
                )
            else:
                if ref == actor.loading:
                    actor.loaded()
                else:
                    self._live.record_commit(actor.take(ref), answer)

    def _raised(self, actor: ActorClient, ref: Any, error: RayTaskError) -> None:
        """Handle an exception of a call, whose actor is alive."""
        failure = failure_of_call(error)
        if ref == actor.loading:
            if self._queue.has_worked:  # the model loaded elsewhere: this node is at fault
                self._live.handle_death(actor, failure)
                return
            cause = error.cause
            raise cause if isinstance(cause, UsageError) else UsageError(f"model can't be loaded: {failure.reason}")
        shard = actor.take(ref)
        if isinstance(error.cause, CommitError):
            self._queue.not_committed(shard, error.cause)
        elif not shard.rehearsal and (tally := committed_tally(self._store, shard.runs)):
            self._live.record_commit(shard, tally)  # the exception came after the commit
        else:
            self._live.record_failure(shard, failure)

    def _supervise(self, liveness: RayHealth) -> None:
        """Show progress, replace hanging actors, and stop if the sweep can't go on; about once a second."""
        if time.monotonic() - self._supervised < SECONDS_BETWEEN_POLLS:
            return
        self._supervised = time.monotonic()
        signals.check()
        self._lease.check()
        put_manifest_back(self._store, self._manifest, self._display.say)
        for actor in list(self._live.actors):
            actor.poll()
            if self._timeout and actor.hangs(self._timeout):
                reason = f"timed out: not done after {self._timeout:g} seconds (--timeout)"
                self._live.handle_death(actor, ShardFailure(FailureKind.HUNG, reason))
        liveness.check(any(actor.is_up for actor in self._live.actors))
        self._display.show(self._progress())

    def _progress(self) -> Progress:
        busy = [actor for actor in self._live.actors if actor.shards]
        observed = [actor.in_flight.observed for actor in busy]
        in_flight = ShardProgress(
            tokens=sum(actor.in_flight.tokens for actor in busy),
            runs=sum(actor.in_flight.runs for actor in busy if actor.does_runs),
            observed=sum(observed) if all(observed) else 0,  # else some actors still generate tokens
        )
        ready = sum(actor.loading is None for actor in self._live.actors)
        actors = (ready, self._live.n_planned)
        most, tally = self._config.max_new_tokens, self._queue.tally
        return sweep_progress(self._planned, self._done_before, tally, in_flight, most, actors)
