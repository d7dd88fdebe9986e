"""Speed-ups and savings from timings: ratios within a round, medians and intervals over rounds."""

import math
from typing import Any

import pytest

from eexit.studies.timing.speedups import speedups


def measured(configuration: str, batch: int, number: int, seconds: float, run: float | None = None) -> dict[str, Any]:
    """Twelve tokens; of full depth's 100 multiply-adds, `run` are run and half of that are needed."""
    needed = None if run is None else run / 2
    return {
        **{"configuration": configuration, "batch": batch, "round": number, "tokens": 12, "seconds": seconds},
        **{"cost_full": None if run is None else 100.0, "cost_needed": needed, "cost_run": run},
    }


def test_seconds_are_compared_within_a_round_only() -> None:
    """The machine is ten times as slow from the second round on, which changes no ratio."""
    rows = [
        *(measured("normal", 1, number, seconds, 100.0) for number, seconds in ((1, 2.0), (2, 20.0), (3, 20.0))),
        *(
            measured("unfrozen/fixed/10", 1, number, seconds, 40.0)
            for number, seconds in ((1, 1.6), (2, 16.0), (3, 16.0))
        ),
        *(measured("generate", 1, number, seconds) for number, seconds in ((1, 2.5), (2, 25.0), (3, 25.0))),
    ]
    normal, fixed, generate = speedups(rows)
    assert (normal.speedup, normal.realised, normal.tokens_per_second) == (1.0, 0.0, 0.6)
    assert (fixed.configuration, fixed.batch, fixed.rounds) == ("unfrozen/fixed/10", 1, 3)
    assert (fixed.speedup, fixed.tokens_per_second) == (1.25, 0.75)
    assert fixed.realised == pytest.approx(0.2)
    assert (fixed.theoretical, fixed.run) == (0.8, 0.6)
    assert fixed.shortfall == pytest.approx(0.4)
    assert generate.speedup == 0.8
    assert generate.realised == pytest.approx(-0.25), "what takes longer is shown as that"
    assert (generate.theoretical, generate.run, generate.shortfall) == (None, None, None)


def test_intervals_are_over_rounds_and_need_six_of_them() -> None:
    ratios = [0.5, 0.75, 1.0, 1.0, 1.25, 2.0]
    rows = [
        *(measured("normal", 8, number, 1.0) for number in range(6)),
        *(measured("generate", 8, number, 1 / ratio) for number, ratio in enumerate(ratios)),
    ]
    normal, generate = speedups(rows)
    assert math.isnan(normal.ratio.low), "it is compared with itself"
    assert generate.speedup == 1.0
    assert (generate.ratio.low, generate.ratio.high) == (0.5, 2.0), "which contain the median in 96.9 %"
    assert speedups(rows)[1] == generate, "equal timings give equal intervals"
    few = speedups([row for row in rows if row["round"] < 5])[1]
    assert math.isnan(few.ratio.low)
    assert math.isnan(few.ratio.high)
    assert few.rounds == 5


def test_batch_sizes_are_apart_and_rounds_without_normal_are_left_out() -> None:
    rows = [
        *(measured("generate", batch, number, 1.0) for batch in (8, 1) for number in (1, 2)),
        *(measured("normal", batch, 1, float(batch)) for batch in (8, 1)),
    ]
    assert [(its.batch, its.configuration, its.speedup, its.rounds) for its in speedups(rows)] == [
        *((1, "generate", 1.0, 1), (1, "normal", 1.0, 1)),
        *((8, "generate", 8.0, 1), (8, "normal", 1.0, 1)),
    ]
