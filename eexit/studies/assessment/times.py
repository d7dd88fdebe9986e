"""What takes least time of all that may be taken in place of full depth, exits or not.

Of several contenders that are equally fast, the fastest by a few rounds looks faster than it is. So it is timed again,
in calls of its own whose prompts are others, and only these calls are told of. The state of a machine, which the rounds
of a call share, differs between calls. So the call is a random effect: a contender's times of two calls differ by a
standard deviation of `BETWEEN_CALLS` at least, and by what calls were seen to differ by where there are `MIN_CALLS` or
more. Times are multiples of full depth's in the same round, by seconds per token that was kept.

Shapes: R rounds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from eexit.plan.configuration import DRAFT, GENERATE, NORMAL, mode_of
from eexit.quality.estimates import MIN_ROUNDS, NOTHING, Estimate
from eexit.quality.intervals import NORMAL_TAIL, student

BETWEEN_CALLS: Final = 0.05 * math.sqrt(2)  # of the logarithm of a ratio of two times, each of which differs by 5 %
MIN_CALLS: Final = 3
Row = Mapping[str, Any]
Call = Mapping[str, np.ndarray]  # of each contender: the logarithm of its time as a multiple of another's, (R,)


def calls_of(timings: Sequence[Row], beside: str = NORMAL) -> dict[str, Call]:
    """By call, in their order, what was timed at one batch size, as multiples of `beside` in the same round."""
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


def fastest(first: Call) -> str | None:
    """The contender that is fastest by the rounds of the first call; None: full depth is."""
    means = {key: float(log_R.mean()) for key, log_R in first.items()}
    best = min(means, key=lambda key: means[key], default=None)
    return best if best is not None and means[best] < 0 else None


def over_calls(calls: Sequence[np.ndarray]) -> Estimate:
    """The time over calls, each with the logarithms of its rounds (R,); no interval below `MIN_ROUNDS` rounds in all.

    The interval has what calls differ by and what rounds of a call do, whose half widths are added as independent.
    """
    if not calls:
        return NOTHING
    mean, n = float(np.mean([log_R.mean() for log_R in calls])), sum(map(len, calls))
    if n < MIN_ROUNDS:
        return Estimate(math.exp(mean), math.nan, math.nan, n)
    within = math.hypot(*map(half_width, calls)) / len(calls)
    between = NORMAL_TAIL * BETWEEN_CALLS / math.sqrt(len(calls))
    if len(calls) >= MIN_CALLS:
        between = max(between, half_width(np.array([log_R.mean() for log_R in calls])))
    half = math.hypot(within, between)
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def half_width(values: np.ndarray) -> float:
    """Half of Student's interval of a mean; infinite of one value."""
    if len(values) < 2:
        return math.inf
    return student(0.0, float(values.var(ddof=1)), len(values))[1]


@dataclass(frozen=True)
class Times:
    """The timings at one batch size, and the setting that may be taken, if there is one."""

    rows: Sequence[Row]
    setting: str | None

    @cached_property
    def _first(self) -> str | None:
        """The call in which most contenders were timed and, of several, in most rounds: the earliest of them."""
        sizes = {
            call: [len(log_R) for log_R in self._contenders(of).values()] for call, of in calls_of(self.rows).items()
        }
        return max(sizes, key=lambda call: (len(sizes[call]), sum(sizes[call])), default=None)

    def _contenders(self, call: Call) -> Call:
        """What keeps the bound: what full depth says itself or verifies, and the setting."""
        return {key: log_R for key, log_R in call.items() if mode_of(key) in (GENERATE, DRAFT) or key == self.setting}

    @cached_property
    def first_rounds(self) -> Call:
        return self._contenders(calls_of(self.rows)[self._first]) if self._first else {}

    @property
    def fastest(self) -> str | None:
        return fastest(self.first_rounds)

    @property
    def are_whole(self) -> bool:
        """Whether all contenders were timed together, and the fastest of them again."""
        if not self.first_rounds or (self.setting and self.setting not in self.first_rounds):
            return False
        return self.fastest is None or self.again(self.fastest).n > 0

    def again(self, key: str, beside: str = NORMAL) -> Estimate:
        """Its time in further calls, whose prompts have no part in the first one."""
        known = {prompt for row in self.rows if row["timing_id"] == self._first for prompt in row["prompt_ids"]}
        shared = {row["timing_id"] for row in self.rows if known & {*row["prompt_ids"]}}
        later = calls_of([row for row in self.rows if row["timing_id"] not in shared], beside)
        return over_calls([call[key] for call in later.values() if key in call])

    def of(self, key: str) -> Estimate:
        """Its time in further calls or, if it was not the fastest of the first one, so that it was not picked for its
        rounds there, in that one.
        """
        again = self.again(key)
        if again.n or key == self.fastest or key not in self.first_rounds:
            return again
        return over_calls([self.first_rounds[key]])
