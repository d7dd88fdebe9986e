"""Certified settings: their order, and the coverage of procedures by simulation (D: draws, P: prompts, S: settings)."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import pytest

from eexit.quality.learn_then_test import ORDERS, PARETO, alpha_share, certify, fixed_sequence, pareto_sequence
from eexit.quality.risk_tests import betting

AT_MOST, CONFIDENCE = 0.05, 0.95
DRAWS, PROMPTS = 1000, 120


def test_a_sequence_stops_at_the_first_that_is_not_rejected_or_passes_its_error_on() -> None:
    p_values = np.array([[0.01, 0.05, 0.06, 0.001], [0.2, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert fixed_sequence(p_values, 0.05).tolist() == [[True, True, False, False], [False] * 4, [True] * 4]
    for families, n_rejected in (
        ([[0.001, 0.02], [0.01, 0.04], [0.06]], [1, 1, 0]),  # at 1.67 % each
        ([[0.001, 0.015], [0.01, 0.04], [0.06]], [2, 1, 0]),  # 2.5 % for two
        ([[0.001, 0.015], [0.01, 0.024], [0.049]], [2, 2, 1]),  # 5 % for the last
    ):
        passed = certify([np.array(p_values_S) for p_values_S in families], 0.95)
        assert [rejected.sum() for rejected in passed] == n_rejected


def test_asks_share_the_error_however_many_they_are() -> None:
    for planned in (1, 2, 4):
        shares = [alpha_share(0.95, number, planned) for number in range(1, 60)]
        assert math.fsum(shares) == pytest.approx(0.05)
        assert sum(shares) <= 0.05 + 1e-12
        assert shares[:planned] == pytest.approx([0.95 * 0.05 / planned] * planned)
        assert shares[planned] == pytest.approx(0.05 * 0.95 * 0.05), "of what was kept, all but its twentieth"
    assert alpha_share(0.9) == pytest.approx(0.095)


def test_the_order_of_a_pilot_leaves_out_what_another_setting_beats() -> None:
    some_risks, some_costs = [0.2, 0.01, 0.05, 0.05, 0.0, np.nan, 0.1], [0.5, 0.9, 0.7, 0.8, 0.95, 0.1, 0.75]
    for risks, costs, order in (
        (some_risks, some_costs, [4, 1, 3, 2, 0]),  # from safe to bold, and of equal losses the dearer first
        ([0.0, 0.01, 0.3], [1.9, 0.99, 0.9], [1, 2]),  # none above full depth
        ([0.0, 0.01], [1.9, 1.2], [0, 1]),  # but where all are
        ([np.nan, 0.1], [0.9, math.inf], []),
    ):
        assert pareto_sequence(np.array(risks), np.array(costs)) == order


JUST_ABOVE = np.array([0.002, 0.01, *[0.0501] * 8, 0.2])
POPULATIONS: Final = {  # risks, from conservative to bold settings; dependent ones lose what more conservative ones do
    "0 or 1": JUST_ABOVE,
    "dependent": JUST_ABOVE,
    "all above": np.full(8, 0.0501),
    "up and down": np.array([0.02, 0.08, 0.01, 0.0501, 0.03, 0.2]),
}


def pareto(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Return which settings of all families, (D, P, S) each, are certified, (D, S), by one sequence.

    Its order is that of the first prompts, and bold settings are cheap.
    """
    together_DPS, n_pilot = np.concatenate(losses, axis=2), PROMPTS // 4
    costs = np.concatenate([np.linspace(0.9, 0.5, each.shape[2]) - 0.001 * f for f, each in enumerate(losses)])
    p_values_DS = betting(np.swapaxes(together_DPS[:, n_pilot:], 1, 2), AT_MOST)
    found_DS = np.zeros(p_values_DS.shape, dtype=bool)
    for draw, p_values_S in enumerate(p_values_DS):
        order = pareto_sequence(together_DPS[draw, :n_pilot].mean(axis=0), costs)
        found_DS[draw, order] = fixed_sequence(p_values_S[order], 1 - CONFIDENCE)
    return found_DS


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize(("order", "n_families"), [("passed-on", 1), *((order, 4) for order in ORDERS)])
def test_nothing_above_the_bound_is_certified_more_than_stated(order: str, population: str, n_families: int) -> None:
    """Losses are 0 or 1. The p-values of other losses are those of `test_risk_tests.py`."""
    generator, risk_S = np.random.default_rng(0), POPULATIONS[population]
    shape = DRAWS, PROMPTS, 1 if population == "dependent" else len(risk_S)
    losses = [(generator.random(shape) < risk_S).astype(float) for _ in range(n_families)]
    of_families = certify([betting(np.swapaxes(loss_DPS, 1, 2), AT_MOST) for loss_DPS in losses], CONFIDENCE)
    certified_DS = pareto(losses) if order == PARETO else np.concatenate(of_families, axis=1)
    is_above_S = np.tile(risk_S > AT_MOST, n_families)
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)  # three standard errors above the stated one
    assert (certified_DS & is_above_S).any(axis=1).mean() <= most
    assert certified_DS.any(axis=1).mean() > 0.5 or population in ("all above", "up and down")
