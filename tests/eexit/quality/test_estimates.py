"""Means with intervals over prompts, column by column."""

import math

import numpy as np
import pytest
import scipy.stats

from eexit.quality.estimates import MIN_SAMPLES, ValueKind, estimate_columns


def test_no_interval_below_five_prompts() -> None:
    (found,) = estimate_columns(np.array([[0.1], [0.2], [0.3], [0.4], [np.nan]]), [ValueKind.SHARE])
    assert MIN_SAMPLES == 5
    assert math.isnan(found.low)
    assert found.n == 4
    assert found.mean == pytest.approx(0.25)


def test_the_interval_of_numbers_is_students() -> None:
    values = np.random.default_rng(3).normal(10, 2, size=40)
    (found,) = estimate_columns(values[:, None], [ValueKind.NUMBER])
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(values.mean())


def test_columns_have_their_own_n() -> None:
    values = np.array([[1.0, np.nan], [2.0, 2.0], [3.0, np.nan], [4.0, 4.0], [5.0, np.nan]])
    first, second = estimate_columns(values, [ValueKind.NUMBER] * 2)
    assert (first.mean, second.mean, first.n, second.n) == (3.0, 3.0, 5, 2)
    assert first.low < 3.0 < first.high
    assert math.isnan(second.low)
