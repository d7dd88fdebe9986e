"""Doing a shard with a loaded generator, and landing it; how far that is, and how far a sweep is."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from eexit.output.progress import Progress
from eexit.output.text import counted
from eexit.plan.runs import Run
from eexit.results.shard_tables import Generator, Results
from eexit.results.store.folder import Store
from eexit.results.store.writing_shards import Tally, land, tally_of


class InFlight(NamedTuple):
    """How far a shard is that is being done."""

    tokens: int = 0  # generated so far
    runs: int = 0  # whose text has ended
    observed: int = 0  # tokens of finished texts that full depth was asked about since a token was generated


class ShardRunner:
    """Does one shard at a time. `in_flight` says how far the current one is; another thread may read it.

    `refuse` is called before anything is written, and raises `LandingError` if this process may not land; `inspect`
    gets results before they land; `tell` is called with each number of tokens that were generated since the last call.
    """

    def __init__(
        self,
        generator: Generator,
        store: Store,
        refuse: Callable[[], None] = lambda: None,
        inspect: Callable[[Results], None] = lambda results: None,
        tell: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self._generator, self._store = generator, store
        self._refuse, self._inspect, self._tell = refuse, inspect, tell
        self.in_flight = InFlight()

    def do(self, runs: Sequence[Run]) -> Tally:
        """Do a shard and land it. Raises `LandingError` if its results can't be written."""
        attempt = time.time_ns()
        try:
            results = self._generate(runs)
            self._inspect(results)
            return land(self._store, runs, results, attempt, self._refuse)
        finally:
            self.in_flight = InFlight()  # from now on, what has landed is counted

    def rehearse(self, runs: Sequence[Run]) -> Tally:
        """Do runs that have landed before, without landing them, to see whether they still work."""
        try:
            return tally_of(self._generate(runs).generations)
        finally:
            self.in_flight = InFlight()

    def _generate(self, runs: Sequence[Run]) -> Results:
        self.in_flight = InFlight()
        return self._generator.generate(runs, self._count)

    def _count(self, tokens: int, runs: int = 0, observed: int = 0) -> None:
        before = self.in_flight
        observed = 0 if tokens else before.observed + observed
        self.in_flight = InFlight(before.tokens + tokens, before.runs + runs, observed)
        self._tell(tokens)


def sweep_progress(
    planned: int,
    done_before: int,
    tally: Tally,
    in_flight: InFlight,
    max_new_tokens: int,
    actors: tuple[int, int] | None = None,
) -> Progress:
    """Of what this start of the sweep has landed and has in flight, and of actors that are ready and wanted.

    Runs in flight are those of unfinished shards whose text has ended; they count as done, but have not landed. Of the
    share that is done, unfinished runs count by their tokens. While full depth is asked about finished texts, which
    makes no tokens, that is said in place of a rate and of the time left.
    """
    to_do = planned - done_before
    per_run = max(1.0, tally.tokens / tally.runs) if tally.tokens and tally.runs else max_new_tokens
    share = min(1.0, (tally.runs + in_flight.tokens / per_run) / to_do) if to_do else 1.0
    doing = f"{done_before + tally.runs + in_flight.runs:,}/{planned:,} runs"
    ready, wanted = actors or (1, 1)
    ending = counted(tally.errors, "error") + (f" · {ready}/{wanted} actors" if actors else "")
    if in_flight.observed:
        doing += f" · observing finished texts: {counted(in_flight.observed, 'token')}"
    return Progress(
        doing, tally.tokens + in_flight.tokens, share, ready > 0,
        with_rate=not in_flight.observed, ending=ending, open_ended=bool(in_flight.observed),
    )  # fmt: skip
