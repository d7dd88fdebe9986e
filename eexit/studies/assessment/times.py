"""What batches and overhead take of full depth's time, beside the time of a setting, which is over calls.

Shapes: G exitable layers and then the final one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eexit.quality.estimates import MIN_CALLS, NOTHING, Estimate
from eexit.quality.intervals import t_interval
from eexit.studies.assessment.verdict import BATCHES, OVERHEAD
from eexit.studies.timing.step_times import step_times

Row = Mapping[str, Any]


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
    ends = t_interval(mean, float(np.var(saved, ddof=1)), n) if n >= MIN_CALLS else (math.nan, math.nan)
    return Estimate(mean, *ends, n)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Return that of two independent estimates, whose intervals need not be symmetric (Zou and Donner 2008)."""
    mean = one.mean - other.mean
    low = mean - math.hypot(one.mean - one.low, other.high - other.mean)
    high = mean + math.hypot(one.high - one.mean, other.mean - other.low)
    return Estimate(mean, low, high, min(one.n, other.n))
