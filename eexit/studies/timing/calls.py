"""Times over calls of `jobs/timings.py`, as multiples of full depth's in the same round.

The state of a machine, which the rounds of a call share, differs between calls: so the call is the random effect. The
first call has most contenders, and picks the fastest of them; since the fastest of several equally fast ones looks
faster than it is, only further calls on other prompts say how fast it is.

Shapes: R rounds.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from eexit.plan.configuration import DRAFT, GENERATE, NORMAL, mode_of
from eexit.quality.estimates import MIN_CALLS, NOTHING, Estimate, estimate_over_calls

Row = Mapping[str, Any]


def calls_of(timings: Sequence[Row], beside: str = NORMAL) -> dict[str, dict[str, np.ndarray]]:
    """Return by call and configuration its time as a multiple of another's in the same round, (R,)."""
    seconds: dict[str, dict[str, dict[int, float]]] = {}
    for row in timings:
        of_call = seconds.setdefault(row["timing_id"], {})
        of_call.setdefault(row["configuration"], {})[row["round"]] = row["seconds"] / row["tokens"]
    return {
        call: {
            key: np.array([taken / base[number] for number, taken in by_round.items() if number in base])
            for key, by_round in of_call.items()
            if base.keys() & by_round.keys()
        }
        for call, of_call in seconds.items()
        if (base := of_call.get(beside))
    }


def whole_calls(timings: Sequence[Row], keys: Collection[str], batches: Collection[int], n_rounds: int) -> set[str]:
    """Return the calls in which all of these were timed at all of these batch sizes, in so many rounds or more."""
    found: dict[str, set[tuple[str, int, int]]] = {}
    for row in timings:
        found.setdefault(row["timing_id"], set()).add((row["configuration"], row["batch"], row["round"]))
    wanted = {(key, batch, number) for key in keys for batch in batches for number in range(1, n_rounds + 1)}
    return {call for call, timed in found.items() if wanted <= timed}


def calls_like(call: Sequence[Row], timings: Sequence[Row]) -> set[str]:
    """Return the calls in which the same was timed as in one call, and nothing else, in as many rounds."""

    def timed(rows: Sequence[Row]) -> set[tuple[Any, ...]]:
        return {tuple(row[name] for name in ("configuration", "batch", "round")) for row in rows}

    by_call: dict[str, list[Row]] = {}
    for row in timings:
        by_call.setdefault(row["timing_id"], []).append(row)
    return {timing_id for timing_id, rows in by_call.items() if timed(rows) == timed(call)}


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
        """The times of what loses nothing beyond the bound: full depth's own or verified, and the setting."""
        lossless = {key for key in call if mode_of(key) in (GENERATE, DRAFT)} | {self.setting}
        return {key: float(np.median(time_R)) for key, time_R in call.items() if key in lossless}

    @cached_property
    def first_call(self) -> Mapping[str, float]:
        return self._contenders(calls_of(self.rows)[self._first]) if self._first else {}

    @property
    def fastest(self) -> str | None:
        """The fastest contender of the first call beside the setting; None: full depth is."""
        others = {key: time for key, time in self.first_call.items() if key != self.setting and time < 1}
        return min(others, key=lambda key: others[key], default=None)

    @property
    def are_whole(self) -> bool:
        """True if the contenders were timed together, and those that are told of in further calls."""
        if not self.first_call or (self.setting and self.setting not in self.first_call):
            return False
        return all(self.of(key).n for key in {self.setting, self.fastest} - {None} if key)

    def of(self, key: str, beside: str = NORMAL) -> Estimate:
        """The time in further calls, whose prompts have no part in the first one; no interval below `MIN_CALLS`."""
        known = {prompt for row in self.rows if row["timing_id"] == self._first for prompt in row["prompt_ids"]}
        shared = {row["timing_id"] for row in self.rows if known & {*row["prompt_ids"]}}
        further = calls_of([row for row in self.rows if row["timing_id"] not in shared], beside)
        ratios = [call[key] for call in further.values() if key in call]
        if not ratios:
            return NOTHING
        found = replace(estimate_over_calls(ratios), n=len(ratios))
        return found if len(ratios) >= MIN_CALLS else replace(found, low=math.nan, high=math.nan)
