"""Times over calls, as multiples of full depth's in the same round: of the setting, `generate` and what is fastest.

The state of a machine, which the rounds of a call share, differs between calls: so the call is the random effect, and
an interval is Student's over calls, of logarithms. The first call has most contenders, and picks the fastest of them;
since the fastest of several equally fast ones looks faster than it is, only further calls on other prompts say how fast
it is.

Shapes: R rounds, G exitable layers and then the final one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from eexit.plan.configuration import DRAFT, GENERATE, NORMAL, mode_of
from eexit.quality.estimates import MIN_ROUNDS, NOTHING, Estimate
from eexit.quality.intervals import student
from eexit.studies.assessment.verdict import BATCHES, OVERHEAD
from eexit.studies.timing.steps import step_times

MIN_CALLS: Final = 6  # with fewer, a time has no interval
Row = Mapping[str, Any]


def calls_of(timings: Sequence[Row], beside: str = NORMAL) -> dict[str, dict[str, np.ndarray]]:
    """Return by call and configuration the logarithm of its time as a multiple of another's in the same round, (R,)."""
    seconds: dict[str, dict[str, dict[int, float]]] = {}
    for row in timings:
        of_call = seconds.setdefault(row["timing_id"], {})
        of_call.setdefault(row["configuration"], {})[row["round"]] = row["seconds"] / row["tokens"]
    return {
        call: {
            key: np.log([taken / base[number] for number, taken in by_round.items() if number in base])
            for key, by_round in of_call.items()
            if base.keys() & by_round.keys()
        }
        for call, of_call in seconds.items()
        if (base := of_call.get(beside))
    }


def over_calls(log_of_calls: Sequence[float]) -> Estimate:
    """Return the time over calls, by the mean logarithm of each; no interval below `MIN_CALLS` calls."""
    n = len(log_of_calls)
    if not n:
        return NOTHING
    mean = float(np.mean(log_of_calls))
    low, high = student(mean, float(np.var(log_of_calls, ddof=1)), n) if n >= MIN_CALLS else (math.nan, math.nan)
    return Estimate(math.exp(mean), math.exp(low), math.exp(high), n)


@dataclass(frozen=True)
class Times:
    """The timings at one batch size, and the setting that may be used, if there is one."""

    rows: Sequence[Row]
    setting: str | None

    @cached_property
    def _first(self) -> str | None:
        """The call in which most contenders were timed; of several, the earliest."""
        calls = calls_of(self.rows)
        return max(calls, key=lambda call: len(self._contenders(calls[call])), default=None)

    def _contenders(self, call: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The mean logarithm of what loses nothing beyond the bound: full depth's own or verified, and the setting."""
        lossless = {key for key in call if mode_of(key) in (GENERATE, DRAFT)} | {self.setting}
        return {key: float(log_R.mean()) for key, log_R in call.items() if key in lossless}

    @cached_property
    def first_call(self) -> Mapping[str, float]:
        return self._contenders(calls_of(self.rows)[self._first]) if self._first else {}

    @property
    def fastest(self) -> str | None:
        """The fastest contender of the first call; None: full depth is."""
        best = min(self.first_call, key=lambda key: self.first_call[key], default=None)
        return best if best is not None and self.first_call[best] < 0 else None

    @property
    def are_whole(self) -> bool:
        """True if the contenders were timed together, and those that are told of in further calls."""
        if not self.first_call or (self.setting and self.setting not in self.first_call):
            return False
        return all(self.of(key).n for key in {self.setting, self.fastest} - {None} if key)

    def of(self, key: str, beside: str = NORMAL) -> Estimate:
        """The time in further calls, whose prompts have no part in the first one."""
        known = {prompt for row in self.rows if row["timing_id"] == self._first for prompt in row["prompt_ids"]}
        shared = {row["timing_id"] for row in self.rows if known & {*row["prompt_ids"]}}
        further = calls_of([row for row in self.rows if row["timing_id"] not in shared], beside)
        return over_calls([float(call[key].mean()) for call in further.values() if key in call])


def time_gaps(
    timings: Sequence[Row], batch: int, share: Mapping[int, float], n_layers: int, time: Estimate
) -> Mapping[str, Estimate]:
    """Return what batches and overhead take of full depth's time, by what steps of one row and of so many allow."""
    one_row, rows = (allowed(timings, n, share, n_layers) for n in (1, batch))
    batches = Estimate(0.0, 0.0, 0.0, rows.n) if batch == 1 and rows.n else difference(one_row, rows)
    return {BATCHES: batches, OVERHEAD: difference(rows, time.complement)}


def allowed(timings: Sequence[Row], batch: int, share: Mapping[int, float], n_layers: int) -> Estimate:
    """Return what steps of so many rows allow exits to save of the time if deciding were free and all rows exited at
    the same steps, over rounds; nothing is known where steps were not timed at these layers.
    """
    rounds: dict[tuple[str, int], list[Row]] = {}
    for row in timings:
        rounds.setdefault((row["timing_id"], row["round"]), []).append(row)
    saved = []
    for times in (step_times(rows, n_layers) for rows in rounds.values()):
        if times is None or batch not in times.seconds:
            continue
        if {layer for layer, part in share.items() if part} <= {*times.layers}:
            saved.append(times.allowed(batch, [share.get(layer, 0.0) for layer in times.layers]))
    if not saved:
        return NOTHING
    n, mean = len(saved), float(np.mean(saved))
    ends = student(mean, float(np.var(saved, ddof=1)), n) if n >= MIN_ROUNDS else (math.nan, math.nan)
    return Estimate(mean, *ends, n)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Return that of two independent estimates, whose intervals need not be symmetric (Zou and Donner 2008)."""
    mean = one.mean - other.mean
    low = mean - math.hypot(one.mean - one.low, other.high - other.mean)
    high = mean + math.hypot(one.high - one.mean, other.mean - other.low)
    return Estimate(mean, low, high, min(one.n, other.n))
