"""Estimates: how often their intervals contain what is true, by simulation (D: draws, P: prompts)."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import pytest

from eexit.quality.estimates import MIN_SAMPLES, ValueKind, estimate_columns, estimate_over_calls, estimate_ratios
from eexit.quality.intervals import clopper_pearson

DRAWS: Final = 400
Draw = Callable[[np.random.Generator, int], np.ndarray]  # generator, n → (D, P)


def pairs(gained: float, lost: float) -> Draw:
    p = [gained, lost, 1 - gained - lost]
    return lambda generator, n: generator.choice([1.0, -1.0, 0.0], (DRAWS, n), p=p)


def share(mean: float) -> tuple[Draw, float, ValueKind]:
    return lambda generator, n: (generator.random((DRAWS, n)) < mean).astype(float), mean, ValueKind.SHARE


CASES: Final[dict[str, tuple[Draw, float, ValueKind]]] = {
    "2 % of prompts": share(0.02),
    "98 % of prompts": share(0.98),
    "half of them": share(0.5),
    "disagreement": (  # of a conservative setting: none for most prompts
        lambda g, n: np.where(g.random((DRAWS, n)) < 0.4, g.beta(1.2, 13, (DRAWS, n)), 0.0), 0.4 * 1.2 / 14.2,
        ValueKind.SHARE,
    ),
    "depth": (lambda g, n: g.beta(20, 3, (DRAWS, n)), 20 / 23, ValueKind.SHARE),
    "rarely differs": (pairs(0.0, 0.02), -0.02, ValueKind.DIFFERENCE),
    "often differs": (pairs(0.05, 0.15), -0.1, ValueKind.DIFFERENCE),
    "two seeds differ": (
        lambda g, n: (pairs(0.02, 0.1)(g, n) + pairs(0.02, 0.1)(g, n)) / 2, -0.08, ValueKind.DIFFERENCE
    ),
    "rare and partial": (
        lambda g, n: np.where(g.random((DRAWS, n)) < 0.1, g.beta(2, 2, (DRAWS, n)), 0.0), 0.05, ValueKind.SHARE
    ),
    "tokens": (lambda g, n: g.poisson(20, (DRAWS, n)).astype(float), 20.0, ValueKind.NUMBER),
}  # fmt: skip


@pytest.mark.parametrize("n", [12, 45, 183])
@pytest.mark.parametrize("case", CASES)
def test_intervals_contain_the_mean_about_as_often_as_stated(case: str, n: int) -> None:
    draw, mean, kind = CASES[case]
    found = [estimate_columns(values_P[:, None], [kind])[0] for values_P in draw(np.random.default_rng(0), n)]
    covered = np.mean([each.low <= mean + 1e-12 and mean - 1e-12 <= each.high for each in found])
    assert covered >= 0.92, "0.95, less three standard errors of 400 draws"


def test_ratios_of_sums_are_covered_too() -> None:
    """Multiply-adds run over those of full depth, where long texts exit earlier."""
    generator = np.random.default_rng(0)
    full = generator.integers(8, 64, (DRAWS, 60)).astype(float)
    run = full * (0.9 - 0.002 * full + 0.05 * generator.standard_normal((DRAWS, 60)))
    tokens = np.arange(8, 64)
    truth = float((tokens * (0.9 - 0.002 * tokens)).sum() / tokens.sum())
    found = [estimate_ratios(above[:, None], below[:, None])[0] for above, below in zip(run, full, strict=True)]
    assert 0.92 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98
    [one] = estimate_ratios(np.full((20, 1), 4.0), np.full((20, 1), 4.0), ValueKind.SHARE)
    assert (one.mean, one.low, one.high) == (1, *clopper_pearson(20, 20)), "1 is not certain"


@pytest.mark.parametrize("n_calls", [2, 6, 24])
def test_the_interval_over_calls_covers_what_is_true(n_calls: int) -> None:
    """However many rounds a call has: one call has none."""
    random = np.random.default_rng(n_calls)
    of_calls = np.exp(random.normal(0, 0.07, (1500, n_calls, 1)) + random.normal(0, 0.01, (1500, n_calls, 8)))
    found = [estimate_over_calls([*ratios]) for ratios in of_calls]
    assert np.mean([each.low <= 1 <= each.high for each in found]) >= 0.93
    assert all(np.isnan(estimate_over_calls([ratios[0]]).low) for ratios in of_calls)


def test_a_mean_is_of_the_values_that_are_there_and_has_an_interval_from_five_on() -> None:
    values = np.array([[1.0, np.nan], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0], [5.0, 5.0]])
    first, second = estimate_columns(values, [ValueKind.NUMBER] * 2)
    assert (first.mean, second.mean, first.n, second.n) == (3.0, 3.5, 5, MIN_SAMPLES - 1)
    assert first.low < 3.0 < first.high
    assert math.isnan(second.low)
