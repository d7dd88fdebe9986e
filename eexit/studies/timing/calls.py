"""Times over calls of `eexit timings`, as multiples of full depth's time in the same round.

The rounds of a call share the state of the machine, which differs between calls: so the call is the random effect. The
first call has most alternatives (configurations, and variants of transformers' `generate`), and finds the fastest.
Since the fastest of several equally fast alternatives looks faster than it is, only further calls on other prompts
measure its time.

Shapes: R rounds.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from eexit.plan.configuration import DRAFT, GENERATE, NORMAL, mode_of
from eexit.quality.estimates import MIN_CALLS, NOTHING, Estimate, estimate_over_calls
from eexit.quality.intervals import t_interval
from eexit.studies.timing.step_times import step_times

Row = Mapping[str, Any]


def calls_of(timings: Sequence[Row], beside: str = NORMAL) -> dict[str, dict[str, np.ndarray]]:
    """Return the time by call and configuration, as a multiple of configuration `beside`'s in the same round, (R,)."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for call, rows in by_call(timings).items():
        seconds: dict[str, dict[int, float]] = {}
        for row in rows:
            seconds.setdefault(row["configuration"], {})[row["round"]] = row["seconds"] / row["tokens"]
        if base := seconds.get(beside):
            found[call] = {
                key: np.array([taken / base[number] for number, taken in by_round.items() if number in base])
                for key, by_round in seconds.items()
                if base.keys() & by_round.keys()
            }
    return found


def whole_calls(timings: Sequence[Row], keys: Collection[str], batches: Collection[int], n_rounds: int) -> set[str]:
    """Return the calls that timed all these configurations at all these batch sizes, in at least `n_rounds` rounds."""
    wanted = {(key, batch, number) for key in keys for batch in batches for number in range(1, n_rounds + 1)}
    return {call for call, rows in by_call(timings).items() if wanted <= _timed(rows)}


def calls_like(call: Sequence[Row], timings: Sequence[Row]) -> set[str]:
    """Return the calls with exactly the configurations, batch sizes and rounds of another call."""
    return {timing_id for timing_id, rows in by_call(timings).items() if _timed(rows) == _timed(call)}


def by_call(timings: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each call."""
    found: dict[str, list[Row]] = {}
    for row in timings:
        found.setdefault(row["timing_id"], []).append(row)
    return found


def _timed(rows: Sequence[Row]) -> set[tuple[str, int, int]]:
    return {(row["configuration"], row["batch"], row["round"]) for row in rows}


class TimeGaps(NamedTuple):
    """Shares of full depth's time that savings lose to batches and to overhead, and their difference, over calls."""

    batches: Estimate
    overhead: Estimate
    difference: Estimate


@dataclass(frozen=True)
class BatchTimings:
    """Timings at a batch size, with the certified setting, if any."""

    timings: Sequence[Row]
    batch: int
    setting: str | None

    @cached_property
    def _rows(self) -> Sequence[Row]:
        return [row for row in self.timings if row["batch"] == self.batch]

    @cached_property
    def _first(self) -> str | None:
        """The earliest call that timed the most alternatives."""
        calls = calls_of(self._rows)
        return max(calls, key=lambda call: len(self._lossless(calls[call])), default=None)

    def _lossless(self, call: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the times of `generate`, drafts and the setting, which lose nothing beyond the bound."""
        lossless = {key for key in call if mode_of(key) in (GENERATE, DRAFT)} | {self.setting}
        return {key: float(np.median(time_R)) for key, time_R in call.items() if key in lossless}

    @cached_property
    def first_call(self) -> Mapping[str, float]:
        """Times by configuration, in the call that timed the most alternatives."""
        return self._lossless(calls_of(self._rows)[self._first]) if self._first else {}

    @property
    def fastest(self) -> str | None:
        """Fastest alternative to the setting in the first call; None if full depth is faster than all."""
        others = {key: time for key, time in self.first_call.items() if key != self.setting and time < 1}
        return min(others, key=lambda key: others[key], default=None)

    @property
    def are_whole(self) -> bool:
        """True if one call has all alternatives, and further calls have the setting and the fastest alternative."""
        if not self.first_call or (self.setting and self.setting not in self.first_call):
            return False
        return all(self.relative_time(key).n for key in {self.setting, self.fastest} - {None} if key)

    @cached_property
    def _further(self) -> Mapping[str, Sequence[Row]]:
        """Rows of the further calls by call, at all batch sizes; they share no prompt with the first call."""
        known = {prompt for row in self._rows if row["timing_id"] == self._first for prompt in row["prompt_ids"]}
        shared = {row["timing_id"] for row in self.timings if known & {*row["prompt_ids"]}}
        return by_call(row for row in self.timings if row["timing_id"] not in shared)

    def _ratios(self, key: str, beside: str = NORMAL) -> dict[str, np.ndarray]:
        """Return a configuration's time in each further call, as a multiple of configuration `beside`'s, (R,)."""
        rows = [row for of_call in self._further.values() for row in of_call if row["batch"] == self.batch]
        return {call: times[key] for call, times in calls_of(rows, beside).items() if key in times}

    def relative_time(self, key: str, beside: str = NORMAL) -> Estimate:
        """Return `key`'s time as a multiple of `beside`'s, over further calls; fewer than `MIN_CALLS`: no interval."""
        ratios = [*self._ratios(key, beside).values()]
        if not ratios:
            return NOTHING
        found = replace(estimate_over_calls(ratios), n=len(ratios))
        return found if len(ratios) >= MIN_CALLS else replace(found, low=math.nan, high=math.nan)

    def gaps(self, exit_share: Mapping[int, float], n_layers: int) -> TimeGaps:
        """Return the gaps between the savings allowed by steps of one slot and of all slots, and the measured saving.

        Step times by layers allow a saving if deciding were free and all slots exited at the same steps. The gap
        `batches` is between the savings allowed with one slot and with all; `overhead` is between the latter and the
        measured saving. The means are over further calls with step times at the setting's exit layers.
        """
        found: list[tuple[float, float, float]] = []
        for call, time_R in self._ratios(self.setting or "").items():
            steps = step_times(self._further[call], n_layers)
            layers = {layer for layer, share in exit_share.items() if share}
            if steps and {1, self.batch} <= steps.seconds.keys() and layers <= {*steps.layers}:
                share_G = [exit_share.get(layer, 0.0) for layer in steps.layers]
                single, slots = (steps.allowed(batch, share_G) for batch in (1, self.batch))
                batches, overhead = single - slots, slots - 1 + float(np.median(time_R))
                found.append((batches, overhead, batches - overhead))
        return TimeGaps(*map(_over_calls, np.reshape(found, (-1, 3)).T))


def _over_calls(values: np.ndarray) -> Estimate:
    if not len(values):
        return NOTHING
    n, mean = len(values), float(values.mean())
    ends = t_interval(mean, float(values.var(ddof=1)), n) if n >= MIN_CALLS else (math.nan, math.nan)
    return Estimate(mean, *ends, n)
