"""Certified settings: their order in sequences, and the coverage of each procedure by simulation.

Shapes: D repeated draws, P prompts, S settings, T tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest

from eexit.quality.learn_then_test import (
    ORDERS,
    PARETO,
    PASSED_ON,
    alpha_share,
    certify,
    fixed_sequence,
    pareto_sequence,
)
from eexit.quality.risk_tests import betting, exact_binomial

AT_MOST, CONFIDENCE = 0.05, 0.95
DRAWS, PROMPTS = 1000, 120


def test_a_sequence_stops_at_the_first_that_is_not_rejected() -> None:
    p_values = np.array([[0.01, 0.05, 0.06, 0.001], [0.2, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert fixed_sequence(p_values, 0.05).tolist() == [[True, True, False, False], [False] * 4, [True] * 4]


def test_a_sequence_that_is_through_passes_its_part_of_the_error_on() -> None:
    p_values = [np.array([0.001, 0.02]), np.array([0.01, 0.04]), np.array([0.06])]
    passed = certify(p_values, 0.95)
    assert [rejected.tolist() for rejected in passed] == [[True, False], [True, False], [False]], "at 1.67 % each"
    p_values[0][1] = 0.015
    passed = certify(p_values, 0.95)
    assert [rejected.tolist() for rejected in passed] == [[True, True], [True, False], [False]], "2.5 % for two"
    p_values[1][1] = 0.024
    passed = certify([*p_values[:2], np.array([0.049])], 0.95)
    assert [rejected.tolist() for rejected in passed] == [[True, True], [True, True], [True]], "5 % for the last"


def test_asks_share_the_error_however_many_they_are() -> None:
    for planned in (1, 2, 4):
        shares = [alpha_share(0.95, number, planned) for number in range(1, 60)]
        assert math.fsum(shares) == pytest.approx(0.05)
        assert sum(shares) <= 0.05 + 1e-12
        assert shares[:planned] == pytest.approx([0.95 * 0.05 / planned] * planned)
        assert shares[planned] == pytest.approx(0.05 * 0.95 * 0.05), "of what was kept, all but its twentieth"
    assert alpha_share(0.9) == pytest.approx(0.095)


def test_the_order_of_a_pilot_leaves_out_what_another_setting_beats() -> None:
    risks = np.array([0.2, 0.01, 0.05, 0.05, 0.0, np.nan, 0.1])
    costs = np.array([0.5, 0.9, 0.7, 0.8, 0.95, 0.1, 0.75])
    assert pareto_sequence(risks, costs) == [4, 1, 3, 2, 0], "from safe to bold, and of equal losses the dearer first"
    assert pareto_sequence(np.array([0.0, 0.01, 0.3]), np.array([1.9, 0.99, 0.9])) == [1, 2], "none above full depth"
    assert pareto_sequence(np.array([0.0, 0.01]), np.array([1.9, 1.2])) == [0, 1], "but where all are"
    assert pareto_sequence(np.array([np.nan, 0.1]), np.array([0.9, math.inf])) == []


@dataclass(frozen=True)
class Population:
    """Settings with known risks, from conservative to bold, and a function that draws losses (D, P, S)."""

    risk_S: np.ndarray
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]


def ones(generator: np.random.Generator, risk_S: np.ndarray) -> np.ndarray:
    """Draw losses of 0 or 1."""
    return (generator.random((DRAWS, PROMPTS, len(risk_S))) < risk_S).astype(float)


def shares(generator: np.random.Generator, risk_S: np.ndarray) -> np.ndarray:
    """Draw beta-distributed losses: 0 for most prompts, and large for some."""
    return generator.beta(0.2 * risk_S, 0.2 * (1 - risk_S), (DRAWS, PROMPTS, len(risk_S)))


def halves(generator: np.random.Generator, risk_S: np.ndarray) -> np.ndarray:
    """Draw losses of 0 or 0.5, where one of two seeds is lost."""
    lost: np.ndarray = 0.5 * (generator.random((DRAWS, PROMPTS, len(risk_S))) < 2 * risk_S)
    return lost


def shares_that_rise(generator: np.random.Generator, risk_S: np.ndarray) -> np.ndarray:
    """Draw dependent losses: a bold setting also loses what a conservative one does."""
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
    "ties": Population(JUST_ABOVE, halves),
    "up and down": Population(np.array([0.02, 0.08, 0.01, 0.0501, 0.03, 0.2]), ones),
}
Certified = list[np.ndarray]
Procedure = Callable[[Sequence[np.ndarray]], Certified]  # losses (D, P, S) per family → certified (D, S) each


def p_values(losses: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [betting(np.swapaxes(loss_DPS, 1, 2), AT_MOST) for loss_DPS in losses]


def passed_on(losses: Sequence[np.ndarray]) -> Certified:
    return certify(p_values(losses), CONFIDENCE)


def pareto(losses: Sequence[np.ndarray], n_pilot: int = PROMPTS // 4) -> Certified:
    """Test one sequence on the other prompts, in the order of the first ones; bolder settings are cheaper."""
    together = np.concatenate(losses, axis=2)
    n_settings = [loss_DPS.shape[2] for loss_DPS in losses]
    costs = np.concatenate([np.linspace(0.9, 0.5, n) - 0.001 * f for f, n in enumerate(n_settings)])
    pilot, tested = together[:, :n_pilot], together[:, n_pilot:]
    p_values_DS = betting(np.swapaxes(tested, 1, 2), AT_MOST)
    found = np.zeros(p_values_DS.shape, dtype=bool)
    for draw, p_values_S in enumerate(p_values_DS):
        order = pareto_sequence(pilot[draw].mean(axis=0), costs)
        found[draw, order] = fixed_sequence(p_values_S[order], 1 - CONFIDENCE)
    return np.split(found, np.cumsum(n_settings)[:-1], axis=1)


WAYS: Final[dict[str, Procedure]] = {PASSED_ON: passed_on, PARETO: pareto}


def assert_covers(procedure: Procedure, population: Population, n_families: int) -> float:
    """Return how often any setting was certified, and assert the coverage.

    Settings with a risk above the bound are certified in at most δ of the draws, up to three standard errors.
    """
    generator = np.random.default_rng(0)
    certified = procedure([population.draw(generator, population.risk_S) for _ in range(n_families)])
    certified_DS = np.concatenate(certified, axis=1)
    is_above_S = np.tile(population.risk_S > AT_MOST, n_families)
    error, draws = 1 - CONFIDENCE, len(certified_DS)
    missed, most = (certified_DS & is_above_S).any(axis=1).mean(), error + 3 * math.sqrt(error * (1 - error) / draws)
    assert missed <= most, f"misses the bound in {missed:.1%} of the draws"
    return float(certified_DS.any(axis=1).mean())


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize(("order", "n_families"), [(PASSED_ON, 1), *((order, 4) for order in ORDERS)])
def test_nothing_above_the_bound_is_certified_more_often_than_stated(
    order: str, population: str, n_families: int
) -> None:
    some = assert_covers(WAYS[order], POPULATIONS[population], n_families)
    assert some > 0.5 or population in ("all above", "up and down"), "it certifies something, too"


def asked_until_certified(shares: Sequence[float]) -> list[float]:
    """Return the share of draws with a false certificate so far, after each use of the same prompts.

    Each use has three settings, safe, just above the bound and bold, and loses other prompts than other uses. A draw
    ends when a setting above the bound is certified.
    """
    generator, draws, n = np.random.default_rng(5), 4000, 300
    certified_D, after = np.zeros(draws, dtype=bool), []
    for share in shares:
        settings = generator.binomial(n, [0.01, 0.0501, 0.1], (draws, 3))
        losses_DSP = np.arange(n) < settings[..., None]
        p_values_DS = exact_binomial(losses_DSP.astype(np.float32), AT_MOST)
        (passed_DS,) = certify([p_values_DS], 1 - share)
        certified_D |= passed_DS[:, 1:].any(axis=1)
        after.append(float(certified_D.mean()))
    return after


@pytest.mark.parametrize("planned", [1, 2, 4])
def test_however_often_the_same_prompts_are_asked_a_false_certificate_is_as_rare_as_stated(planned: int) -> None:
    """The prompts are used as often as planned, or four times where one use was planned."""
    n_asks = 4 if planned == 1 else planned
    first, *_, last = asked_until_certified([alpha_share(CONFIDENCE, n + 1, planned) for n in range(n_asks)])
    assert (first if planned == 1 else last) > 0.01
    assert last <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
