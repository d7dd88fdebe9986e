"""The ledger of time: what batches take of what fewer layers would save, and what the clock takes of the rest.

All of it is shares of full depth's time. What steps of so many rows and layers allow is measured (`timing.steps`), at
most: if all rows left at the same steps, and deciding were free.

Shapes: G exitable layers and then the final one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eexit.quality.estimates import MIN_ROUNDS, NOTHING, Estimate
from eexit.studies.assessment.ledger import Cause
from eexit.studies.assessment.times import half_width
from eexit.studies.assessment.verdict import BATCHES, OF_TIME, OVERHEAD
from eexit.studies.timing.steps import step_times

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TimeLedger:
    """What is saved of the time: as steps of one row allow, as those of so many rows do, and by the clock."""

    of_one_row: Estimate = NOTHING
    of_rows: Estimate = NOTHING
    by_clock: Estimate = NOTHING

    @property
    def batches(self) -> Estimate:
        return difference(self.of_one_row, self.of_rows)

    @property
    def overhead(self) -> Estimate:
        return difference(self.of_rows, self.by_clock)

    @property
    def cause(self) -> Cause:
        """Which of both certainly takes more than the other one, and than nothing."""
        one, rows, clock = self.of_one_row, self.of_rows, self.by_clock
        twice = Estimate(2 * rows.mean, 2 * rows.low, 2 * rows.high, rows.n)
        more = difference(one, difference(twice, clock))  # batches less overhead
        if more.low > 0 and self.batches.low > 0:
            return Cause(BATCHES)
        if more.high < 0 and self.overhead.low > 0:
            return Cause(OVERHEAD)
        return Cause(None, () if math.isnan(more.mean) else OF_TIME)


def allowed(timings: Sequence[Row], batch: int, share: Mapping[int, float], n_layers: int) -> Estimate:
    """What steps of so many rows allow exits to save of the time, which leave at each layer in such shares, over
    rounds. Nothing is known where steps were not timed at these layers.
    """
    rounds: dict[tuple[str, int], list[Row]] = {}
    for row in timings:
        rounds.setdefault((row["timing_id"], row["round"]), []).append(row)
    saved = []
    for times in (step_times(rows, n_layers) for rows in rounds.values()):
        if times is None or batch not in times.seconds:
            continue
        if {layer for layer, part in share.items() if part} <= {*times.layers}:
            seconds_G = np.array(times.seconds[batch])
            saved.append(1 - seconds_G @ [share.get(layer, 0.0) for layer in times.layers] / seconds_G[-1])
    if not saved:
        return NOTHING
    mean, half = float(np.mean(saved)), half_width(np.array(saved)) if len(saved) >= MIN_ROUNDS else math.nan
    return Estimate(mean, mean - half, mean + half, len(saved))


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Of two independent estimates, whose intervals need not be symmetric (Zou and Donner 2008)."""
    if one is other:
        return Estimate(0.0, 0.0, 0.0, one.n) if one.n else NOTHING
    mean = one.mean - other.mean
    low = mean - math.hypot(one.mean - one.low, other.high - other.mean)
    high = mean + math.hypot(one.high - one.mean, other.mean - other.low)
    return Estimate(mean, low, high, min(one.n, other.n))
