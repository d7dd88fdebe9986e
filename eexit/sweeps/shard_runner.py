"""Executing a shard with a loaded generator and committing it, and the progress of a shard and of a sweep."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from eexit.output.progress import Progress
from eexit.output.text import pluralize
from eexit.plan.runs import Run
from eexit.results.shard_tables import Generator, ShardTables
from eexit.results.store.commit import RunCounts, commit, tally_of
from eexit.results.store.folder import Store


class ShardProgress(NamedTuple):
    """Progress of the current shard."""

    tokens: int = 0  # generated so far
    runs: int = 0  # runs whose text has ended
    observed: int = 0  # tokens of finished texts observed at full depth since a token was generated


class ShardRunner:
    """Executor of one shard at a time. Another thread may read `in_flight`, the progress of the current shard.

    `refuse` is called before each write, and raises `CommitError` if this process may not commit. `inspect` receives
    results before they are committed, and `tell` the number of tokens generated since its last call.
    """

    def __init__(
        self,
        generator: Generator,
        store: Store,
        refuse: Callable[[], None] = lambda: None,
        inspect: Callable[[ShardTables], None] = lambda results: None,
        tell: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self._generator, self._store = generator, store
        self._refuse, self._inspect, self._tell = refuse, inspect, tell
        self.in_flight = ShardProgress()

    def do(self, runs: Sequence[Run]) -> RunCounts:
        """Execute a shard and commit it. Raise `CommitError` if its results can't be written."""
        attempt = time.time_ns()
        try:
            results = self._generate(runs)
            self._inspect(results)
            return commit(self._store, runs, results, attempt, self._refuse)
        finally:
            self.in_flight = ShardProgress()  # from now on, the committed runs are counted

    def rehearse(self, runs: Sequence[Run]) -> RunCounts:
        """Execute runs that were committed before, without committing them, to test if they still succeed."""
        try:
            return tally_of(self._generate(runs).generations)
        finally:
            self.in_flight = ShardProgress()

    def _generate(self, runs: Sequence[Run]) -> ShardTables:
        self.in_flight = ShardProgress()
        return self._generator.generate(runs, self._count)

    def _count(self, tokens: int, runs: int = 0, observed: int = 0) -> None:
        before = self.in_flight
        observed = 0 if tokens else before.observed + observed
        self.in_flight = ShardProgress(before.tokens + tokens, before.runs + runs, observed)
        self._tell(tokens)


def sweep_progress(
    planned: int,
    done_before: int,
    tally: RunCounts,
    in_flight: ShardProgress,
    max_new_tokens: int,
    actors: tuple[int, int] | None = None,
) -> Progress:
    """Return the progress of this start of the sweep, from committed shards and shards in flight.

    Runs in flight are runs of unfinished shards whose text has ended; they count as done, but are not committed. In the
    share that is done, unfinished runs count by their tokens. While finished texts are observed, which generates no
    tokens, this is shown in place of rate and remaining time. `actors` are the numbers of ready and of requested
    actors.
    """
    to_do = planned - done_before
    per_run = max(1.0, tally.tokens / tally.runs) if tally.tokens and tally.runs else max_new_tokens
    share = min(1.0, (tally.runs + in_flight.tokens / per_run) / to_do) if to_do else 1.0
    doing = f"{done_before + tally.runs + in_flight.runs:,}/{planned:,} runs"
    ready, wanted = actors or (1, 1)
    ending = pluralize(tally.errors, "error") + (f" · {ready}/{wanted} actors" if actors else "")
    if in_flight.observed:
        doing += f" · observing finished texts: {pluralize(in_flight.observed, 'token')}"
    return Progress(
        doing, tally.tokens + in_flight.tokens, share, ready > 0,
        with_rate=not in_flight.observed, ending=ending, open_ended=bool(in_flight.observed),
    )  # fmt: skip
