"""The queue of a sweep's remaining shards, and its reaction to failures, in this process or on a cluster."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from eexit.errors import SweepStopped, first_line
from eexit.output.events import log
from eexit.output.locations import without_secrets
from eexit.output.text import pluralize
from eexit.plan.sweep_config import SweepConfig
from eexit.results.shard_tables import error_results
from eexit.results.store.commit import CommitError, RunCounts, clear_debris, commit
from eexit.results.store.folder import Store
from eexit.results.store.lease import Lease
from eexit.sweeps.retry import CircuitBreaker, FailureKind, ShardFailure, next_tries
from eexit.sweeps.shards import Shard, halve

REHEARSAL_TRIES = 3  # since an actor can die of another cause than the rehearsal


class ShardQueue:
    """Queue of shards until every run is committed; `tally` counts runs committed since it was created."""

    def __init__(
        self, store: Store, config: SweepConfig, lease: Lease, shards: Iterator[Shard], n_to_do: int,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Queue `shards` with the `n_to_do` runs that are not committed yet, consuming them as needed.

        `say` receives the reason of the first failure.
        """
        self._store, self._config, self._lease, self._say = store, config, lease, say
        self._has_said = False
        self._shards = shards
        self._to_do = n_to_do
        self._most = n_to_do  # runs per shard; lowered when a shard runs out of memory
        self._again: deque[Shard] = deque()
        self._breaker = CircuitBreaker()
        self._rehearsing = 0
        self.tally = RunCounts()

    @property
    def n_left(self) -> int:
        """Number of runs that are not committed."""
        return self._to_do - self.tally.runs

    @property
    def has_worked(self) -> bool:
        """True if a run was committed without an error."""
        return self._breaker.known_good is not None

    def next(self) -> Shard | None:
        """Remove and return the next shard; None if no shard is waiting."""
        # New shards come before failed shards. But until a run has succeeded, failed shards show if any can.
        if self._again and (self._again[0].rehearsal or not self.has_worked):
            return self._again.popleft()
        shard = next(self._shards, None) or (self._again.popleft() if self._again else None)
        while shard and len(shard.runs) > self._most:
            shard, rest = halve(shard)
            self._again.append(rest)
        return shard

    def record_commit(self, shard: Shard, tally: RunCounts) -> None:
        """Record that a shard was committed or, if it was a rehearsal, has succeeded."""
        if shard.rehearsal:
            self._rehearsing = 0
            self._breaker.reset()
            return
        self.tally += tally
        if tally.errors:
            self._breaker.environment_worked()
            self._say_first(f"{tally.errors:,} of {pluralize(tally.runs, 'run')} failed", tally.reason)
        else:
            self._breaker.record_success(shard.runs[0])

    def again(self, shard: Shard) -> None:
        """Requeue a shard that was not executed, through no fault of its runs."""
        self._again.append(shard)

    def not_committed(self, shard: Shard, error: CommitError) -> None:
        """Requeue a shard whose results could not be written. Raise `SweepStopped` if that continues."""
        log("commit failed", logging.ERROR, reason=str(error), run_ids=ids_of(shard))
        self._lease.check()
        self._breaker.environment_failed("commit", str(error))
        self.again(shard)

    def not_loaded(self, reason: str) -> None:
        """Record that a model could not be loaded. Raise `SweepStopped` if that continues."""
        self._breaker.environment_failed("load", reason)

    def failed(self, shard: Shard, failure: ShardFailure, hope: bool = False) -> None:
        """Retry a shard, then parts of it; in the end, commit its only run as an error.

        There is `hope` while a shard that has not failed before is executed elsewhere. Raise `SweepStopped`.
        """
        log("failed", logging.WARNING, kind=failure.kind, reason=failure.reason, run_ids=ids_of(shard))
        self._say_first(f"{pluralize(len(shard.runs), 'run')} failed, and will be tried again", failure.reason)
        if shard.rehearsal:
            self._rehearse(shard, failure)
            return
        clear_debris(self._store, shard.runs)
        if failure.kind is FailureKind.MEMORY:
            self._most = min(self._most, max(1, len(shard.runs) // 2))
        tries = next_tries(shard, failure.kind, self.has_worked)
        if self.has_worked:
            self._again.extend(tries)
        else:
            self._again.extendleft(reversed(tries))
        if len(shard.runs) == 1:
            self._breaker.run_failed(shard.runs[0], failure.reason, hope)
            if self._breaker.doubtful and not self._rehearsing and self._breaker.known_good:
                self._again.appendleft(Shard((self._breaker.known_good,), rehearsal=True))
                self._rehearsing = 1
        if not tries:
            self._give_up(shard, failure)

    def _say_first(self, what: str, reason: str) -> None:
        """Report the first failure's reason at once, so that users need not wait for the end of a failing sweep."""
        if not self._has_said:
            self._has_said = True
            self._say(without_secrets(f"{what}: {first_line(reason)}"))

    def _rehearse(self, shard: Shard, failure: ShardFailure) -> None:
        if self._rehearsing >= REHEARSAL_TRIES:
            self._breaker.rehearsal_failed(failure.reason)
        self._rehearsing += 1
        self._again.appendleft(shard)

    def _give_up(self, shard: Shard, failure: ShardFailure) -> None:
        self._lease.check()
        try:
            self.tally += commit(self._store, shard.runs, error_results(shard.runs, self._config, failure.reason))
        except CommitError as error:
            raise SweepStopped(str(error)) from error


def ids_of(shard: Shard) -> Sequence[str]:
    return [run.run_id for run in shard.runs]
