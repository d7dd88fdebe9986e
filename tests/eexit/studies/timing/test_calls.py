"""Times over calls: what is announced as the fastest, which calls count, and what is whole."""

import pytest

from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import MIN_CALLS
from eexit.studies.timing.calls import BatchTimings, calls_like, calls_of, whole_calls

SETTING, STEP = "frozen_residual/confidence/0.9", "unfrozen/fixed/5"


def timed(call: str, times: dict[str, float], prompts: str, batch: int = 1, rounds: int = 8) -> list[dict[str, object]]:
    return [
        {"timing_id": call, "configuration": key, "round": number, "seconds": 10 * seconds, "tokens": 10 * batch,
         "batch": batch, "rule": "fixed" if key == STEP else None, "parameter": 5.0,
         "prompt_ids": [f"{prompts}{number}"]}
        for number in range(rounds)
        for key, seconds in {NORMAL: 1.0, **times}.items()
    ]  # fmt: skip


def test_only_further_calls_with_other_prompts_count_and_few_have_no_interval() -> None:
    first = timed("1", {"generate": 0.9, "generate/lookup": 0.5, SETTING: 0.8, STEP: 0.1}, "a")
    assert calls_of(first)["1"]["generate"].mean() == pytest.approx(0.9)
    times = BatchTimings(first, 1, SETTING)
    assert times.fastest == "generate/lookup", "what doesn't keep the bound is no alternative"
    assert BatchTimings(first, 1, None).first_call.keys() == {"generate", "generate/lookup"}
    assert not times.are_whole
    same = BatchTimings([*first, *timed("2", {"generate/lookup": 0.6, SETTING: 0.8}, "a")], 1, SETTING)
    assert not same.are_whole, "these prompts had a part in the first call"
    further = timed("2", {"generate/lookup": 0.6, "generate": 1.2, SETTING: 0.9}, "b")
    again = BatchTimings([*first, *further], 1, SETTING)
    assert again.are_whole
    assert again.relative_time("generate/lookup").mean == pytest.approx(0.6)
    assert again.relative_time("generate/lookup", "generate").mean == pytest.approx(0.5)
    setting = again.relative_time(SETTING)
    assert (setting.mean, setting.n) == pytest.approx((0.9, 1)), "n counts calls"
    assert BatchTimings(timed("1", {"generate": 0.9, SETTING: 0.8}, "a"), 1, SETTING).fastest == "generate"
    assert BatchTimings(timed("1", {"generate": 1.1}, "a"), 1, None).fastest is None, "full depth is the fastest"
    assert BatchTimings(timed("1", {"generate": 1.1}, "a"), 1, None).are_whole
    assert not BatchTimings(timed("1", {"generate": 0.9}, "a"), 1, SETTING).are_whole, "the setting was not timed"
    assert not BatchTimings([], 1, None).are_whole
    first = timed("0", {"generate": 0.9, "generate/lookup": 0.5}, "a")
    further = [row for call in range(MIN_CALLS) for row in timed(f"{call + 1}", {"generate": 0.9 + call / 100}, "b")]
    few = BatchTimings([*first, *further[:-16]], 1, None).relative_time("generate")
    assert (few.n, few.low == few.low) == (MIN_CALLS - 1, False)
    assert BatchTimings([*first, *further], 1, None).relative_time("generate").high < 1


def stepped(call: str, time: float, steps: tuple[float, float], prompts: str = "b") -> list[dict[str, object]]:
    """A round with a setting of two exit layers at two rows, and steps of one row and of two, beside full depth."""
    alone = timed(call, {STEP: steps[0]}, prompts, batch=1, rounds=1)
    return alone + timed(call, {STEP: steps[1], SETTING: time}, prompts, batch=2, rounds=1)


def test_gaps_are_of_the_same_call_and_have_an_interval_over_further_calls() -> None:
    """Half of the tokens exit at a layer whose steps take 0.4 of full depth's with one row, and 0.8 with two."""
    first = stepped("0", 0.5, (0.1, 0.1), "a")
    further = [row for call in range(8) for row in stepped(f"{call + 1}", 0.95 + call / 100, (0.4, 0.8))]
    share = {5: 0.5, 9: 0.5}
    found = BatchTimings([*first, *further], 2, SETTING).gaps(share, 10)
    assert (found.batches.mean, found.batches.low, found.batches.n) == pytest.approx((0.2, 0.2, 8))
    assert found.overhead.mean == pytest.approx(0.1 - (1 - 0.985))
    assert found.difference.mean == pytest.approx(found.batches.mean - found.overhead.mean)
    assert found.overhead.low < found.overhead.mean < found.overhead.high
    few = BatchTimings([*first, *further[: -5 * 3]], 2, SETTING).gaps(share, 10)
    assert (few.overhead.n, few.overhead.low == few.overhead.low) == (MIN_CALLS - 1, False), "not told apart"
    other = BatchTimings([*first, *further], 2, SETTING).gaps({5: 0.5, 7: 0.5}, 10)
    assert other.batches.n == 0, "no steps were timed at layer 7"
    assert BatchTimings([*first, *further], 2, "unfrozen/confidence/0.5").gaps(share, 10).overhead.n == 0


def test_a_call_is_whole_with_all_rounds_of_all_at_all_sizes() -> None:
    rows = [row for call in "12" for row in timed(call, {"generate": 0.9}, "a")]
    cut = [row for row in rows if (row["timing_id"], row["round"]) != ("2", 7)]
    assert whole_calls(rows, {NORMAL, "generate"}, {1}, 7) == {"1", "2"}
    assert whole_calls(cut, {NORMAL, "generate"}, {1}, 7) == {"1"}
    assert whole_calls(rows, {NORMAL}, {1, 8}, 7) == set()
    more = [*cut, *timed("3", {"generate": 0.9, "generate/lookup": 0.8}, "a")]
    assert calls_like([row for row in cut if row["timing_id"] == "1"], more) == {"1"}
