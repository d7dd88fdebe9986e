"""Intervals have the definitions of those who published them."""

import numpy as np
import pytest
from scipy import stats

from eexit.quality.estimates import ValueKind, estimate_columns
from eexit.quality.intervals import bonett_price, mcnemar, of_difference, of_median, share_interval


@pytest.mark.parametrize("level", [0.8, 0.95, 0.998])
def test_intervals_are_those_that_were_published_at_any_level(level: float) -> None:
    for k, n in ((0, 5), (1, 45), (6, 20), (90, 90)):
        [found] = estimate_columns((np.arange(n)[:, None] < k).astype(float), [ValueKind.SHARE], level)
        exact = stats.binomtest(k, n).proportion_ci(level, "exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    # Bonett and Price 2012: 1 is added to each of the two cells, and 2 to n.
    up, down, z = 4 / 22, 2 / 22, stats.norm.ppf((1 + level) / 2)
    [found] = estimate_columns(np.array([[1.0]] * 3 + [[-1.0]] + [[0.0]] * 16), [ValueKind.DIFFERENCE], level)
    half = z * np.sqrt((up + down - (up - down) ** 2) / 22)
    assert (found.low, found.high) == pytest.approx((up - down - half, up - down + half))
    [found] = estimate_columns(np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]), [ValueKind.NUMBER], level)
    student = stats.t.interval(level, 4, 3, np.sqrt(2.5 / 5))
    assert (found.low, found.high) == pytest.approx((max(student[0], 1), min(student[1], 5)))


def test_nothing_is_certain_where_no_difference_was_seen_or_there_is_one_prompt() -> None:
    assert bonett_price(0, 0, 100)[0] < -0.02
    assert (share_interval(np.array([0.15])), of_difference(np.array([0.15]))) == ((0, 1), (-1, 1))
    assert [mcnemar(*differ) for differ in ((0, 0), (1, 5), (8, 8))] == pytest.approx([1, 2 * (1 + 6) / 2**6, 1])


def test_the_interval_of_a_median_covers_it_at_least_as_often_as_stated() -> None:
    for n in (6, 7, 9, 20, 51):
        found = of_median(np.arange(n, dtype=float))
        assert found is not None
        rank = int(found[0]) + 1  # the order statistics of rank and n + 1 − rank
        assert found[1] == n - rank
        covers = 1 - 2 * stats.binom.cdf(rank - 1, n, 0.5)
        assert covers >= 0.95 > 1 - 2 * stats.binom.cdf(rank, n, 0.5), "and the next narrower pair does not"
    assert of_median(np.arange(5.0)) is None, "the range of five covers it at 94 %"
