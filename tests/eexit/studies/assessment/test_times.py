"""What takes the rest of the time: batches and overhead."""

import math

import pytest

from eexit.quality.estimates import Estimate
from eexit.studies.assessment.times import difference


def test_a_difference_has_both_intervals() -> None:
    found = difference(Estimate(0.1, 0.07, 0.13, 8), Estimate(0.05, 0.01, 0.09, 24))
    assert (found.mean, found.low, found.n) == pytest.approx((0.05, 0.05 - math.hypot(0.03, 0.04), 8))
