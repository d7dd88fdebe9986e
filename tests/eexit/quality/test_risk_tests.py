"""p-values against binomial sums and a bet computed by hand, and procedures with them, by simulation."""

import math
from typing import Final

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from eexit.quality import risk_tests
from eexit.quality.risk_tests import BETTING, EXACT, POWER, RISK_TESTS, betting, exact_binomial, prompts_needed

AT_MOST: Final = 0.05


def lost(k: int, n: int) -> np.ndarray:
    """Return losses of n prompts, k of which are 1, in an uninformative order."""
    return np.random.default_rng(0).permutation(np.arange(n) < k).astype(float)


def test_p_values_are_those_of_the_definition() -> None:
    for n, at_most in ((1, 0.05), (29, 0.3), (59, 0.05), (60, 0.02), (257, 0.1)):
        found = [float(exact_binomial(lost(k, n), at_most)) for k in range(n + 1)]
        assert found == pytest.approx([binomtest(k, n, at_most, "less").pvalue for k in range(n + 1)], rel=1e-9)


def test_a_bet_is_won_and_lost_prompt_by_prompt() -> None:
    losses, error = np.random.default_rng(1).beta(1, 20, 60), 0.05
    capital, most, total, squares = 1.0, 1.0, 0.5, 0.25
    for t, loss in enumerate(losses, start=1):
        variance = squares / t if t > 1 else 0.25
        stake = min(1.0, math.sqrt(2 * math.log(1 / error) / (60 * variance)))
        capital *= 1 - stake * (loss - 0.1)
        most = max(most, capital)
        total += loss
        squares += (loss - total / (t + 1)) ** 2
    assert 1 > float(betting(losses, 0.1, error)) == pytest.approx(1 / most, rel=1e-9)


def test_how_many_prompts_are_needed_without_any_loss_and_fewer_certify_nothing() -> None:
    for at_most, needed in ((0.05, 59), (0.02, 149), (0.5, 5)):
        assert risk_tests.prompts_without_loss(at_most, 0.05) == needed
        assert prompts_needed(exact_binomial, np.zeros(9), at_most, 0.05) == needed
        assert exact_binomial(np.zeros(needed), at_most) <= 0.05 < exact_binomial(np.zeros(needed - 1), at_most)
    assert (int(risk_tests.most_losses(59, 0.05, 0.0475)), risk_tests.loss_certified(59, 0.05, 0.0475)) == (-1, None)
    assert [float(risk_tests.chance_of_certificate(0.0, n, 0.05, 0.0475)) for n in (59, 60)] == [0, 1]


@pytest.mark.parametrize("name", RISK_TESTS)
@pytest.mark.parametrize("share", [0.01, 0.03])
def test_so_many_prompts_would_do_with_the_chance_that_is_meant(name: str, share: float) -> None:
    test, losses = RISK_TESTS[name], lost(int(1000 * share), 1000)
    needed = prompts_needed(test, losses, AT_MOST, 0.05) or 0

    def power(n: int) -> float:
        drawn = np.random.default_rng(7).random((3000, n)) < share
        return float((test(drawn.astype(float), AT_MOST, 0.05) <= 0.05).mean())

    # Where few losses are allowed, the power jumps with n, and the least sufficient n may exceed it.
    assert POWER - 0.03 <= power(needed) <= POWER + 0.12, "and not 56 %, as if losses stayed exactly as they are"
    assert power(int(0.8 * needed)) < POWER
    for k, n in ((5, 100), (20, 100), (499, 10_000)):  # losses that are not below the bound, or next to it
        assert prompts_needed(test, lost(k, n), AT_MOST, 0.05) is None


@pytest.mark.parametrize("error", [0.05, 0.0475, 0.0024])
def test_the_least_number_of_prompts_is_the_first_that_counting_finds(error: float) -> None:
    n_N = np.arange(1, 6000)
    for mean, at_most in ((0, 0.02), (0.01, 0.02), (0.012, 0.02), (0.02, 0.05), (0.3, 0.5)):
        enough_N = risk_tests.chance_of_certificate(mean, n_N, at_most, error) >= POWER
        assert risk_tests.prompts_for_loss(mean, at_most, error) == n_N[enough_N.argmax()], mean


@pytest.mark.parametrize("n", [60, 151, 393, 975, 1158])
def test_what_may_be_lost_is_by_the_definition_and_certified_with_the_chance_that_is_said(n: int) -> None:
    at_most, error = 0.05, 0.0475
    most = int(risk_tests.most_losses(n, at_most, error))
    assert binom.cdf(most, n, at_most) <= error < binom.cdf(most + 1, n, at_most)
    loss = risk_tests.loss_certified(n, at_most, error) or 0.0
    assert binom.cdf(most, n, loss) == pytest.approx(POWER, rel=1e-9)
    drawn = np.random.default_rng(n).random((4000, n)) < loss
    assert (exact_binomial(drawn.astype(float), at_most) <= error).mean() == pytest.approx(POWER, abs=0.03)


@pytest.mark.parametrize("name", RISK_TESTS)
@pytest.mark.parametrize("k", [0, 3, 20, 40])
def test_the_upper_bound_is_where_the_p_value_reaches_the_error(name: str, k: int) -> None:
    test, losses = RISK_TESTS[name], lost(k, 40)
    upper = risk_tests.upper_bound(test, losses, 0.95)
    assert losses.mean() <= upper <= 1
    if upper < 1:
        assert float(test(losses, upper + 1e-9, 0.05)) <= 0.05 < float(test(losses, upper - 1e-6, 0.05))


DRAWS, PROMPTS = 2000, 100
SHAPES: Final = {
    "0 or 1": lambda generator, risk: (generator.random((DRAWS, PROMPTS)) < risk).astype(float),
    "skewed": lambda generator, risk: generator.beta(0.2 * risk, 0.2 * (1 - risk), (DRAWS, PROMPTS)),
    "ties": lambda generator, risk: 0.5 * (generator.random((DRAWS, PROMPTS)) < 2 * risk),
    "narrow": lambda generator, risk: generator.beta(50 * risk, 50 * (1 - risk), (DRAWS, PROMPTS)),
}


@pytest.mark.parametrize(("name", "shape"), [(EXACT, "0 or 1"), *((BETTING, shape) for shape in SHAPES)])
def test_no_test_certifies_what_is_above_the_bound_more_often_than_stated(name: str, shape: str) -> None:
    losses = SHAPES[shape](np.random.default_rng(0), 0.0501)
    certified = RISK_TESTS[name](losses, AT_MOST, 0.05) <= 0.05
    assert certified.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)
