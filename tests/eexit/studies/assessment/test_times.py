"""What is announced as the fastest: how often wrongly, and by which calls."""

import math
from dataclasses import replace

import numpy as np
import pytest

from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import Estimate
from eexit.studies.assessment.time_ledger import TimeLedger, difference
from eexit.studies.assessment.times import Times, calls_of, fastest, over_calls

KEYS = ("generate", "generate/lookup", "draft/10:4", "draft/20:4", "frozen_residual/confidence/0.9")


def call(random: np.random.Generator, n: int, rounds: int, of_rounds: float) -> np.ndarray:
    """Log times of n contenders, beside full depth's, (n, R): all are equal, and each differs by 5 % between calls."""
    of_call = random.normal(0, 0.05, (n + 1, 1))
    times = of_call + random.normal(0, of_rounds, (n + 1, rounds))
    ratios: np.ndarray = times[1:] - times[0]
    return ratios


@pytest.mark.parametrize("of_rounds", [0.01, 0.05, 0.15])
@pytest.mark.parametrize("n", [2, 5])
def test_where_all_take_equally_long_one_is_hardly_ever_announced(n: int, of_rounds: float) -> None:
    random, announced, by_first = np.random.default_rng(n), 0, 0
    n_drawn = 2000
    for _ in range(n_drawn):
        first = dict(zip(KEYS, call(random, n, 8, of_rounds), strict=False))
        key = fastest(first)
        if key is None:
            continue
        by_first += over_calls([first[key]]).high < 1
        announced += over_calls([call(random, 1, 8, of_rounds)[0]]).high < 1
    assert announced <= 0.05 * n_drawn
    assert n == 2 or by_first > 2 * announced, "the first rounds alone would have announced more"


@pytest.mark.parametrize("n_calls", [1, 2, 3, 6])
def test_the_interval_over_calls_covers_what_is_true(n_calls: int) -> None:
    random = np.random.default_rng(n_calls)
    found = [over_calls([call(random, 1, 8, 0.05)[0] for _ in range(n_calls)]) for _ in range(1500)]
    assert np.mean([each.low <= 1 <= each.high for each in found]) >= 0.93
    assert over_calls([np.full(8, math.log(0.7))] * n_calls).high < 0.83


def test_few_rounds_have_no_interval() -> None:
    assert math.isnan(over_calls([np.zeros(5)]).high)
    assert over_calls([]).n == 0


def timed(call: str, times: dict[str, float], prompts: str) -> list[dict[str, object]]:
    return [
        {"timing_id": call, "configuration": key, "round": number, "seconds": 10 * seconds, "tokens": 10,
         "prompt_ids": [f"{prompts}{number}"]}
        for number in range(8)
        for key, seconds in {NORMAL: 1.0, **times}.items()
    ]  # fmt: skip


def test_only_further_calls_with_other_prompts_count_for_the_fastest() -> None:
    first = timed("1", {"generate": 0.9, "generate/lookup": 0.5, KEYS[-1]: 0.8, "unfrozen/fixed/5": 0.1}, "a")
    assert calls_of(first)["1"]["generate"].mean() == pytest.approx(math.log(0.9))
    times = Times(first, KEYS[-1])
    assert times.fastest == "generate/lookup", "what doesn't keep the bound is no contender"
    assert Times(first, None).first_rounds.keys() == {"generate", "generate/lookup"}
    assert not times.are_whole
    same = Times([*first, *timed("2", {"generate/lookup": 0.6}, "a")], KEYS[-1])
    assert not same.are_whole, "these prompts had a part in the first call"
    again = Times([*first, *timed("2", {"generate/lookup": 0.6, "generate": 1.2}, "b")], KEYS[-1])
    assert again.are_whole
    assert again.again("generate/lookup").mean == pytest.approx(0.6)
    assert again.again("generate/lookup", "generate").mean == pytest.approx(0.5)
    assert again.of("generate/lookup").mean == pytest.approx(0.6)
    assert again.of(KEYS[-1]).mean == pytest.approx(0.8), "it was not picked for its first rounds"
    assert Times(timed("1", {"generate": 1.1}, "a"), None).fastest is None, "full depth is the fastest"
    assert Times(timed("1", {"generate": 1.1}, "a"), None).are_whole
    assert not Times(timed("1", {"generate": 0.9}, "a"), KEYS[-1]).are_whole, "the setting was not timed"
    assert not Times([], None).are_whole


def test_times_take_from_times_alone() -> None:
    ledger = TimeLedger(Estimate(0.4, 0.38, 0.42, 8), Estimate(0.1, 0.07, 0.13, 8), Estimate(0.05, 0.01, 0.09, 8))
    assert (ledger.batches.mean, ledger.overhead.mean) == pytest.approx((0.3, 0.05))
    assert ledger.overhead.low == pytest.approx(0.05 - math.hypot(0.03, 0.04))
    assert ledger.cause.name == "batches"
    alone = replace(ledger, of_rows=ledger.of_one_row)
    assert alone.cause.name == "overhead"
    assert alone.batches == Estimate(0, 0, 0, 8)
    wide = TimeLedger(ledger.of_one_row, Estimate(0.2, 0.0, 0.4, 8), ledger.by_clock)
    assert (wide.cause.name, [*wide.cause.undecided]) == (None, ["batches", "overhead"])
    assert (TimeLedger().cause.name, [*TimeLedger().cause.undecided]) == (None, [])
    assert difference(ledger.of_rows, ledger.of_rows) == Estimate(0, 0, 0, 8)
