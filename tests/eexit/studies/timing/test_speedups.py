"""Speed-ups and savings from timings: ratios within a round, medians over rounds, and intervals over calls."""

import math
from typing import Any

import pytest

from eexit.studies.timing.speedups import speedups, speedups_of, timings_table


def measured(configuration: str, batch: int, number: int, seconds: float, run: float | None = None) -> dict[str, Any]:
    """Twelve tokens; of full depth's 100 multiply-adds, `run` are run and half of that are needed."""
    needed, full = (None, None) if run is None else (run / 2, 100.0)
    costs = {"macs_full": full, "macs_required": needed, "macs_executed": run}
    return {"configuration": configuration, "batch": batch, "round": number, "tokens": 12, "seconds": seconds, **costs}


def test_seconds_are_compared_within_a_round_only() -> None:
    """The machine is ten times as slow from the second round on, which changes no ratio."""
    rows = [
        measured(key, 1, number, seconds * speed, run)
        for number, speed in ((1, 1), (2, 10), (3, 10))
        for key, seconds, run in (("normal", 2.0, 100.0), ("unfrozen/fixed/10", 1.6, 40.0), ("generate", 2.5, None))
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
    # A draft's first round gave four of the twelve tokens, before the clock started.
    _, draft = speedups([measured("normal", 1, 1, 3.0), {**measured("draft/2:3", 1, 1, 1.6), "tokens": 8}])
    assert draft.speedup == pytest.approx(3.0 / 12 / (1.6 / 8))
    assert draft.tokens_per_second == pytest.approx(5.0)


def calls_of(*medians: float, rounds: int = 6, machine: str = "here") -> list[dict[str, Any]]:
    """A call for each median time of `fixed`, as a multiple of full depth's, with rounds 1 % above and below it."""
    wide = [1 + (number - (rounds - 1) / 2) / 50 / rounds for number in range(rounds)]
    return [
        {**measured(key, 1, number, seconds), "timing_id": f"call {call}", "machine": machine, "prompt_ids": ["a"]}
        for call, median in enumerate(medians)
        for number in range(rounds)
        for key, seconds in (("normal", 1.0), ("fixed", median * wide[number]))
    ]


def test_several_calls_have_an_interval_over_calls_and_only_they_are_compared() -> None:
    [one] = speedups_of(calls_of(0.8), "fixed")
    [two] = speedups_of(calls_of(0.8, 1.25), "fixed")
    assert (one.calls, one.rounds, two.calls, two.rounds) == (1, 6, 2, 12)
    assert (one.speedup, two.speedup) == pytest.approx((1.25, 1.0), rel=1e-3)
    assert math.isnan(one.ratio.low), "the rounds of one call share the state of the machine"
    assert two.ratio.low < 0.1, "two calls that differ by half: Student's with one degree of freedom"
    assert two.ratio.high > 10
    [six] = speedups_of(calls_of(*[0.8, 0.82, 0.84] * 2), "fixed")
    assert six.time.mean == pytest.approx(0.82, rel=1e-3)
    assert six.time.low < 0.82 < six.time.high < 0.85
    assert speedups_of(calls_of(*[0.8, 0.82, 0.84] * 2), "fixed") == [six], "equal timings give equal intervals"
    lone, both = (timings_table(calls_of(*times)).columns for times in ((0.8,), (0.8, 0.81)))
    assert [next(reversed([*each.cells])) for each in lone[3:]] == ["–"] * len(lone[3:])
    assert next(reversed([*both[3].cells])) == "0.80"


def test_short_calls_count_and_those_of_other_machines_and_rounds_without_normal_do_not() -> None:
    [found] = speedups_of([*calls_of(0.8, 0.8), *calls_of(*[0.8] * 3, 0.5, rounds=2)[12:]], "fixed")
    assert found.calls == 3
    [here] = speedups_of([*calls_of(2.0, machine="elsewhere"), *calls_of(0.8)], "fixed")
    assert here.speedup == pytest.approx(1.25, rel=1e-3)
    rows = [
        *(measured("generate", batch, number, 1.0) for batch in (8, 1) for number in (1, 2)),
        *(measured("normal", batch, 1, float(batch)) for batch in (8, 1)),
    ]
    assert [(its.batch, its.configuration, its.speedup, its.rounds) for its in speedups(rows)] == [
        *((1, "generate", 1.0, 1), (1, "normal", 1.0, 1)),
        *((8, "generate", 8.0, 1), (8, "normal", 1.0, 1)),
    ]
