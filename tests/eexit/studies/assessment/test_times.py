"""Times over calls: what is announced as the fastest, how often wrongly, and what takes the rest."""

import math

import numpy as np
import pytest

from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import Estimate
from eexit.studies.assessment.times import MIN_CALLS, Times, calls_of, difference, over_calls

KEYS = ("generate", "generate/lookup", "draft/10:4", "draft/20:4", "frozen_residual/confidence/0.9")


@pytest.mark.parametrize("n_calls", [MIN_CALLS, 12, 24])
def test_the_interval_over_calls_covers_what_is_true(n_calls: int) -> None:
    random = np.random.default_rng(n_calls)
    found = [over_calls(random.normal(0, 0.07, n_calls).tolist()) for _ in range(1500)]
    assert np.mean([each.low <= 1 <= each.high for each in found]) >= 0.93
    assert over_calls([math.log(0.7)] * n_calls).high < 0.71


def test_few_calls_have_no_interval() -> None:
    assert math.isnan(over_calls([0.0] * (MIN_CALLS - 1)).high)
    assert over_calls([]).n == 0


def timed(call: str, times: dict[str, float], prompts: str) -> list[dict[str, object]]:
    return [
        {"timing_id": call, "configuration": key, "round": number, "seconds": 10 * seconds, "tokens": 10,
         "prompt_ids": [f"{prompts}{number}"]}
        for number in range(8)
        for key, seconds in {NORMAL: 1.0, **times}.items()
    ]  # fmt: skip


def test_only_further_calls_with_other_prompts_count() -> None:
    first = timed("1", {"generate": 0.9, "generate/lookup": 0.5, KEYS[-1]: 0.8, "unfrozen/fixed/5": 0.1}, "a")
    assert calls_of(first)["1"]["generate"].mean() == pytest.approx(math.log(0.9))
    times = Times(first, KEYS[-1])
    assert times.fastest == "generate/lookup", "what doesn't keep the bound is no contender"
    assert Times(first, None).first_call.keys() == {"generate", "generate/lookup"}
    assert not times.are_whole
    same = Times([*first, *timed("2", {"generate/lookup": 0.6, KEYS[-1]: 0.8}, "a")], KEYS[-1])
    assert not same.are_whole, "these prompts had a part in the first call"
    further = timed("2", {"generate/lookup": 0.6, "generate": 1.2, KEYS[-1]: 0.9}, "b")
    again = Times([*first, *further], KEYS[-1])
    assert again.are_whole
    assert again.of("generate/lookup").mean == pytest.approx(0.6)
    assert again.of("generate/lookup", "generate").mean == pytest.approx(0.5)
    assert (again.of(KEYS[-1]).mean, again.of(KEYS[-1]).n) == pytest.approx((0.9, 1)), "n counts calls"
    assert Times(timed("1", {"generate": 1.1}, "a"), None).fastest is None, "full depth is the fastest"
    assert Times(timed("1", {"generate": 1.1}, "a"), None).are_whole
    assert not Times(timed("1", {"generate": 0.9}, "a"), KEYS[-1]).are_whole, "the setting was not timed"
    assert not Times([], None).are_whole


def test_a_difference_has_both_intervals() -> None:
    found = difference(Estimate(0.1, 0.07, 0.13, 8), Estimate(0.05, 0.01, 0.09, 24))
    assert (found.mean, found.low, found.n) == pytest.approx((0.05, 0.05 - math.hypot(0.03, 0.04), 8))
