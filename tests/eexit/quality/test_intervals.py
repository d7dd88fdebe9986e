"""Intervals: their definitions, and their coverage by simulation.

Shapes: D repeated draws, P prompts, R rounds.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from eexit.quality.estimates import ValueKind, estimate_columns, estimate_over_calls, estimate_ratios
from eexit.quality.intervals import bonett_price, clopper_pearson, mcnemar, of_difference, of_median, share_interval

DRAWS: Final = 400


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 45), (7, 90), (90, 90)])
def test_the_interval_of_a_share_is_that_of_clopper_and_pearson(k: int, n: int) -> None:
    low, high = clopper_pearson(k, n)
    expected = binomtest(k, n).proportion_ci(0.95, "exact")
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_a_paired_difference_has_the_published_formula() -> None:
    """Bonett and Price 2012: 1 is added to each of the two cells, and 2 to n."""
    low, high = bonett_price(5, 12, 80)
    p, q = 6 / 82, 13 / 82
    half = 1.959964 * np.sqrt((p + q - (p - q) ** 2) / 82)
    assert (float(low), float(high)) == pytest.approx((p - q - half, p - q + half), abs=1e-6)
    assert bonett_price(0, 0, 100)[0] < -0.02, "no difference seen is no certainty"


@pytest.mark.parametrize("n", [6, 7, 9, 20, 51])
def test_the_interval_of_a_median_covers_it_at_least_as_often_as_stated(n: int) -> None:
    found = of_median(np.arange(n, dtype=float))
    assert found is not None
    rank = int(found[0]) + 1  # the order statistics of rank and n + 1 − rank
    assert found[1] == n - rank
    covers = 1 - 2 * binom.cdf(rank - 1, n, 0.5)
    assert covers >= 0.95 > 1 - 2 * binom.cdf(rank, n, 0.5), "and the next narrower pair does not"


def test_the_range_of_five_rounds_is_no_interval() -> None:
    assert 1 - 2 * 0.5**5 == 0.9375
    assert of_median(np.arange(5.0)) is None


def test_a_part_of_one_prompt_says_nothing_of_how_sure_it_is() -> None:
    assert share_interval(np.array([0.15])) == (0, 1)
    assert of_difference(np.array([0.15])) == (-1, 1)


def test_mcnemar_is_the_sign_test_of_what_differs() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(1, 5) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(8, 8) == 1


Draw = Callable[[np.random.Generator, int], np.ndarray]  # generator, n → (D, P)


def zero_inflated(generator: np.random.Generator, n: int) -> np.ndarray:
    """Draw the disagreement of a conservative setting: nothing for most prompts, mean 4 · 0.4 / 14.2 %."""
    found: np.ndarray = np.where(generator.random((DRAWS, n)) < 0.4, generator.beta(1.2, 13, (DRAWS, n)), 0.0)
    return found


def pairs(gained: float, lost: float) -> Draw:
    def draw(generator: np.random.Generator, n: int) -> np.ndarray:
        return generator.choice([1.0, -1.0, 0.0], (DRAWS, n), p=[gained, lost, 1 - gained - lost])

    return draw


CASES: Final[dict[str, tuple[Draw, float, ValueKind]]] = {
    "2 % of prompts": (lambda g, n: (g.random((DRAWS, n)) < 0.02).astype(float), 0.02, ValueKind.SHARE),
    "98 % of prompts": (lambda g, n: (g.random((DRAWS, n)) < 0.98).astype(float), 0.98, ValueKind.SHARE),
    "half of them": (lambda g, n: (g.random((DRAWS, n)) < 0.5).astype(float), 0.5, ValueKind.SHARE),
    "disagreement": (zero_inflated, 0.4 * 1.2 / 14.2, ValueKind.SHARE),
    "depth": (lambda g, n: g.beta(20, 3, (DRAWS, n)), 20 / 23, ValueKind.SHARE),
    "rarely differs": (pairs(0.0, 0.02), -0.02, ValueKind.DIFFERENCE),
    "often differs": (pairs(0.05, 0.15), -0.1, ValueKind.DIFFERENCE),
    "two seeds differ": (
        lambda g, n: (pairs(0.02, 0.1)(g, n) + pairs(0.02, 0.1)(g, n)) / 2,
        -0.08,
        ValueKind.DIFFERENCE,
    ),
    "rare and partial": (
        lambda g, n: np.where(g.random((DRAWS, n)) < 0.1, g.beta(2, 2, (DRAWS, n)), 0.0),
        0.05,
        ValueKind.SHARE,
    ),
    "tokens": (lambda g, n: g.poisson(20, (DRAWS, n)).astype(float), 20.0, ValueKind.NUMBER),
}


def coverage(case: str, n: int, interval: Callable[[np.ndarray, ValueKind], tuple[float, float]]) -> float:
    draw, mean, kind = CASES[case]
    ends = [interval(values_P, kind) for values_P in draw(np.random.default_rng(0), n)]
    return float(np.mean([low <= mean + 1e-12 and mean - 1e-12 <= high for low, high in ends]))


def ours(values_P: np.ndarray, kind: ValueKind) -> tuple[float, float]:
    (found,) = estimate_columns(values_P[:, None], [kind])
    return found.low, found.high


def percentile_bootstrap(values_P: np.ndarray, kind: ValueKind) -> tuple[float, float]:
    drawn = np.random.default_rng(0).integers(len(values_P), size=(400, len(values_P)))
    low, high = np.quantile(values_P[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


@pytest.mark.parametrize("n", [12, 45, 183])
@pytest.mark.parametrize("case", CASES)
def test_intervals_contain_the_mean_about_as_often_as_stated(case: str, n: int) -> None:
    assert coverage(case, n, ours) >= 0.92, "0.95, less three standard errors of 400 draws"


@pytest.mark.parametrize("case", ["2 % of prompts", "98 % of prompts", "rarely differs"])
def test_the_percentile_bootstrap_does_not(case: str) -> None:
    assert coverage(case, 45, percentile_bootstrap) < 0.7


def test_ratios_of_sums_are_covered_too() -> None:
    """Multiply-adds run over those of full depth, where long texts exit earlier."""
    generator = np.random.default_rng(0)
    full = generator.integers(8, 64, (DRAWS, 60)).astype(float)
    run = full * (0.9 - 0.002 * full + 0.05 * generator.standard_normal((DRAWS, 60)))
    tokens = np.arange(8, 64)
    truth = float((tokens * (0.9 - 0.002 * tokens)).sum() / tokens.sum())
    found = [estimate_ratios(above[:, None], below[:, None])[0] for above, below in zip(run, full, strict=True)]
    assert 0.92 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98


def test_a_share_of_sums_that_is_1_is_not_certain() -> None:
    (found,) = estimate_ratios(np.full((20, 1), 4.0), np.full((20, 1), 4.0), ValueKind.SHARE)
    assert (found.mean, found.high) == (1, 1)
    assert found.low == pytest.approx(binomtest(20, 20).proportion_ci(0.95).low)


@pytest.mark.parametrize("n_calls", [2, 6, 24])
def test_the_interval_over_calls_covers_what_is_true(n_calls: int) -> None:
    """However many rounds a call has: one call has none."""
    random = np.random.default_rng(n_calls)
    of_calls = np.exp(random.normal(0, 0.07, (1500, n_calls, 1)) + random.normal(0, 0.01, (1500, n_calls, 8)))
    found = [estimate_over_calls([*ratios]) for ratios in of_calls]
    assert np.mean([each.low <= 1 <= each.high for each in found]) >= 0.93
    assert all(np.isnan(estimate_over_calls([ratios[0]]).low) for ratios in of_calls)
