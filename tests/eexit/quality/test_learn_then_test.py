"""Certified settings: p-values against sums of binomial terms, and coverage by simulation.

Shapes: D repeated draws, P prompts, S settings, T tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from eexit.quality.learn_then_test import (
    certify,
    cheapest,
    fixed_sequence,
    hoeffding_bentkus,
    prompts_needed,
    prompts_without_loss,
    upper_bound,
)

AT_MOST, CONFIDENCE = 0.05, 0.95
DRAWS, PROMPTS = 1000, 120


def p_value(mean_loss: float, n: int, at_most: float = AT_MOST) -> float:
    return float(hoeffding_bentkus(np.array(mean_loss), np.array(n), at_most))


def by_sums(k: int, n: int, at_most: float) -> float:
    """The p-value for k losses of 1 among n, from the definitions."""
    mean = k / n
    if mean >= at_most:
        hoeffding = 1.0
    else:
        h = (mean * math.log(mean / at_most) if mean else 0) + (1 - mean) * math.log((1 - mean) / (1 - at_most))
        hoeffding = math.exp(-n * h)
    return min(hoeffding, math.e * below(k, n, at_most), 1.0)


def below(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) ≤ k)."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize(("n", "at_most"), [(1, 0.05), (29, 0.3), (59, 0.05), (60, 0.02), (257, 0.1)])
def test_p_values_are_those_of_the_definition(n: int, at_most: float) -> None:
    k = np.arange(n + 1)
    assert hoeffding_bentkus(k / n, np.array(n), at_most) == pytest.approx(
        [by_sums(i, n, at_most) for i in range(n + 1)], rel=1e-9
    )


def test_losses_between_0_and_1_count_as_the_next_whole_number_of_losses() -> None:
    """In Bentkus's inequality, which is the tighter one here."""
    assert p_value(5.9 / 400, 400) == pytest.approx(math.e * below(6, 400, AT_MOST), rel=1e-9)


def test_a_mean_that_is_off_by_a_rounding_error_is_not_one_more_loss() -> None:
    assert 25 * (7 / 25) > 7
    assert p_value(7 / 25, 25, 0.5) == pytest.approx(by_sums(7, 25, 0.5), rel=1e-9)


@pytest.mark.parametrize(("at_most", "needed"), [(0.05, 59), (0.02, 149), (0.5, 5)])
def test_how_many_prompts_are_needed_without_any_loss(at_most: float, needed: int) -> None:
    assert prompts_without_loss(at_most, 0.05) == prompts_needed(0.0, at_most, 0.05) == needed
    assert (1 - at_most) ** needed <= 0.05 < (1 - at_most) ** (needed - 1)
    assert p_value(0.0, needed, at_most) == pytest.approx((1 - at_most) ** needed)
    assert p_value(0.0, needed - 1, at_most) > 0.05


@pytest.mark.parametrize("mean_loss", [0.01, 0.03, 0.045])
def test_how_many_prompts_are_needed_if_the_loss_stays_as_it_is(mean_loss: float) -> None:
    needed = prompts_needed(mean_loss, AT_MOST, 0.05)
    assert needed is not None
    assert p_value(mean_loss, needed) <= 0.05
    assert all(p_value(mean_loss, n) > 0.05 for n in range(1, needed))


def test_no_number_of_prompts_helps_where_the_loss_is_not_below_the_bound() -> None:
    assert prompts_needed(0.05, 0.05, 0.05) is None
    assert prompts_needed(0.2, 0.05, 0.05) is None
    assert (prompts_needed(0.0499, 0.05, 0.05) or 0) > 10**7, "next to it, many do"


@pytest.mark.parametrize("mean_loss", [0.0, 0.03, 0.5, 1.0])
def test_the_upper_bound_is_where_the_p_value_reaches_the_error(mean_loss: float) -> None:
    upper = upper_bound(mean_loss, 40, 0.95)
    assert mean_loss <= upper <= 1
    if upper < 1:
        assert p_value(mean_loss, 40, upper + 1e-9) <= 0.05 < p_value(mean_loss, 40, upper - 1e-9)


def test_a_sequence_stops_at_the_first_that_is_not_rejected() -> None:
    p_values = np.array([[0.01, 0.05, 0.06, 0.001], [0.2, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert fixed_sequence(p_values, 0.05).tolist() == [[True, True, False, False], [False] * 4, [True] * 4]


def test_the_cheapest_is_the_first_of_the_lowest_known_cost_among_those_allowed() -> None:
    costs = np.array([3.0, 2.0, 1.0, 2.0, math.inf])
    allowed = np.array([[True, True, False, True, False], [False] * 5, [False, False, False, False, True]])
    assert cheapest(costs, allowed).tolist() == [1, -1, -1]


@dataclass(frozen=True)
class Population:
    """Settings with known risks, from the conservative end to the bold one, and how to draw their losses (D, P, S)."""

    risk_S: np.ndarray
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]


def ones(generator: np.random.Generator, risk_S: np.ndarray) -> np.ndarray:
    """A prompt is lost or not."""
    return (generator.random((DRAWS, PROMPTS, len(risk_S))) < risk_S).astype(float)


def shares(generator: np.random.Generator, risk_S: np.ndarray) -> np.ndarray:
    """Beta-distributed: nothing of most prompts is lost, and much of some."""
    return generator.beta(0.2 * risk_S, 0.2 * (1 - risk_S), (DRAWS, PROMPTS, len(risk_S)))


def shares_that_rise(generator: np.random.Generator, risk_S: np.ndarray) -> np.ndarray:
    """What a conservative setting loses is lost by a bold one too: settings depend on each other."""
    hard = generator.random((DRAWS, PROMPTS, 1))
    lost: np.ndarray = (hard < risk_S).astype(float)
    return lost


JUST_ABOVE = np.array([0.002, 0.01, *[0.0501] * 8, 0.2])
ALL_ABOVE = np.full(8, 0.0501)
POPULATIONS = {
    "0 or 1": Population(JUST_ABOVE, ones),
    "shares": Population(JUST_ABOVE, shares),
    "dependent": Population(JUST_ABOVE, shares_that_rise),
    "all above": Population(ALL_ABOVE, ones),
}
Procedure = Callable[[Sequence[np.ndarray]], list[np.ndarray]]  # losses (D, P, S) per family → certified (D, S) each


def p_values(losses: Sequence[np.ndarray], n: int = PROMPTS) -> list[np.ndarray]:
    return [hoeffding_bentkus(loss_DPS.mean(axis=1), np.array(n), AT_MOST) for loss_DPS in losses]


def valid(losses: Sequence[np.ndarray]) -> list[np.ndarray]:
    return certify(p_values(losses), CONFIDENCE)


def naive(losses: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Whatever has a mean within the bound."""
    return [loss_DPS.mean(axis=1) <= AT_MOST for loss_DPS in losses]


def uncorrected(losses: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every setting is tested as if it were the only one."""
    return [its <= 1 - CONFIDENCE for its in p_values(losses)]


def unshared(losses: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each family makes the whole error."""
    return [certified for loss_DPS in losses for certified in valid([loss_DPS])]


def counting_tokens(losses: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The 40 tokens of a prompt are counted as if they were independent, where they are lost together."""
    return certify(p_values(losses, 40 * PROMPTS), CONFIDENCE)


def assert_covers(procedure: Procedure, population: Population, n_families: int) -> float:
    """The share of draws in which the cheapest certified setting, the boldest, has a risk above the bound is at most
    δ, but for three standard errors. Returns how often a setting was chosen at all.
    """
    generator = np.random.default_rng(0)
    certified = procedure([population.draw(generator, population.risk_S) for _ in range(n_families)])
    costs = np.tile(-np.arange(len(population.risk_S)), n_families).astype(float)
    chosen_D = cheapest(costs, np.concatenate(certified, axis=1))
    risk_D = np.where(chosen_D < 0, 0.0, np.tile(population.risk_S, n_families)[chosen_D])
    error = 1 - CONFIDENCE
    missed, most = (risk_D > AT_MOST).mean(), error + 3 * math.sqrt(error * (1 - error) / DRAWS)
    assert missed <= most, f"misses the bound in {missed:.1%} of the draws"
    return float((chosen_D >= 0).mean())


@pytest.mark.parametrize("n_families", [1, 4])
@pytest.mark.parametrize("population", POPULATIONS)
def test_the_chosen_setting_is_above_the_bound_no_more_often_than_stated(population: str, n_families: int) -> None:
    chosen = assert_covers(valid, POPULATIONS[population], n_families)
    assert chosen > 0.9 or population == "all above", "it chooses something, too"


@pytest.mark.parametrize(
    ("procedure", "population", "n_families"),
    [
        (naive, "0 or 1", 1),
        (naive, "shares", 1),
        (uncorrected, "0 or 1", 1),
        (unshared, "all above", 8),
        (counting_tokens, "0 or 1", 1),
    ],
)
def test_what_is_not_valid_misses_the_bound_more_often(procedure: Procedure, population: str, n_families: int) -> None:
    with pytest.raises(AssertionError, match="misses the bound in"):
        assert_covers(procedure, POPULATIONS[population], n_families)
