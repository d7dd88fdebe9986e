"""Which batch sizes and rounds of a timing there is time for, by how long those before them took."""

import math
import time
from dataclasses import dataclass, field


@dataclass
class TimeLeft:
    """Of so many seconds, from the first question on. The first batch size is always timed, in one round at least.

    A larger batch takes at most as much longer as it has more rows. All parts of one batch size in a round come one
    after the other; round 0 warms up.
    """

    seconds: float = math.inf
    _end: float = math.nan
    _took: dict[int, float] = field(default_factory=dict)  # seconds of a round by batch size, of those that fit
    _is_over: bool = False  # whether no further round fits
    _at: tuple[int, int] | None = None  # the batch size and the round of the part before
    _since: float = 0.0

    def has_time_for(self, batch: int, number: int) -> bool:
        """Whether a part of this batch size in this round is to be done: to be asked before each of them, in order."""
        if self._at != (batch, number):
            self._begin(batch, number, time.monotonic())
        return batch in self._took and (number < 2 or not self._is_over)

    def _begin(self, batch: int, number: int, now: float) -> None:
        if math.isnan(self._end):
            self._end = now + self.seconds
        if self._at and self._at[0] in self._took and not self._is_over:
            self._took[self._at[0]] = now - self._since
        left, round_of_all = self._end - now, sum(self._took.values())
        if number == 0 and (not self._took or 2 * self._at_most(batch) + round_of_all <= left):  # to warm up, and once
            self._took[batch] = 0.0
        if number > 1 and (not self._at or self._at[1] < number):
            self._is_over = self._is_over or round_of_all > left
        self._at, self._since = (batch, number), now

    def _at_most(self, batch: int) -> float:
        nearest = max(self._took)
        return self._took[nearest] * max(1.0, batch / nearest)
