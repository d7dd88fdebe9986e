"""Choosing a setting whose risk is bounded with a confidence that holds: Learn-then-Test (Angelopoulos, Bates, Candès,
Jordan and Lei 2021, arXiv 2110.01052).

The *risk* of a setting is its expected loss over prompts, and the loss of a prompt lies in [0, 1]. For each setting,
the hypothesis that its risk is above a bound is tested, and a setting whose hypothesis is rejected is *certified*. What
has to be small is the chance that any setting is certified whose risk is above the bound (the family-wise error δ, one
minus the confidence). Then it does not matter how one of the certified settings is picked: with confidence 1 − δ the
bound holds for all of them, and so for the cheapest too. Picking the cheapest of those whose mean loss happens to be
below the bound has no such guarantee.

*Fixed-sequence testing* takes the settings of a family in an order and stops at the first that is not rejected. No
correction for their number is needed: a false certificate needs the first setting of the sequence that is above the
bound to be rejected, which happens with chance δ at most. That holds for one particular setting only if the order does
not depend on the losses, so that it has to be fixed before they are seen. Here it goes from the conservative end of a
rule's parameter to the bold one; that the risk rises along it makes the test powerful, but is not needed for it to
hold. Several families share δ in equal parts (Bonferroni).

The p-values hold for any distribution of losses, if prompts are independent draws from those that the setting will
meet. Tokens of a text depend on each other and are no such draws.

Shapes: P prompts, S settings, in the order of their testing; … any axes before, such as repeated draws.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.special import bdtr, xlogy

MOST_SEARCHED: Final = 100_000  # prompts up to which the smallest sufficient number is searched for
BISECTIONS: Final = 60


def hoeffding_bentkus(mean_loss: np.ndarray, n: np.ndarray, at_most: np.ndarray | float) -> np.ndarray:
    """p-values of the hypotheses that a risk is above `at_most`, given the mean losses of `n` prompts.

    min(exp(−n·h(min(R̂, α), α)), e·P(Bin(n, α) ≤ ⌈n·R̂⌉)), at most 1, with h(a, b) = a·log(a/b) + (1−a)·log((1−a)/(1−b)):
    the tighter one of the inequalities of Hoeffding and of Bentkus (Bates et al. 2021, arXiv 2101.02703). Arguments
    broadcast.
    """
    mean_loss, n, at_most = np.broadcast_arrays(*map(np.asarray, (mean_loss, n, at_most)))
    lower = np.minimum(mean_loss, at_most)
    divergence = xlogy(lower, lower / at_most) + xlogy(1 - lower, (1 - lower) / (1 - at_most))
    # A mean of k losses of 1, times n, may come out as k + 1e-16, of which the ceiling would be k + 1.
    successes = np.ceil(np.round(n * mean_loss, 9))
    p_values: np.ndarray = np.minimum(np.exp(-n * divergence), math.e * bdtr(successes, n, at_most)).clip(max=1)
    return p_values


def fixed_sequence(p_values: np.ndarray, error: float) -> np.ndarray:
    """Which hypotheses are rejected, (…, S): those before the first whose p-value is above `error`."""
    rejected: np.ndarray = np.logical_and.accumulate(np.asarray(p_values) <= error, axis=-1)
    return rejected


def error_of_each(confidence: float, n_families: int) -> float:
    """The part of the error that each family may make (Bonferroni)."""
    return (1 - confidence) / n_families


def certify(p_values: Sequence[np.ndarray], confidence: float) -> list[np.ndarray]:
    """Which settings are certified, for each family (…, S) from its p-values (…, S): with this confidence, the risk of
    all of them is within the bound.
    """
    error = error_of_each(confidence, len(p_values))
    return [fixed_sequence(p_values_S, error) for p_values_S in p_values]


def cheapest(costs: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The index of the cheapest allowed setting, (…) of (…, S); −1 where none is. Of equal costs, the first.

    A setting whose cost is not known, which is infinite then, is not chosen.
    """
    cost = np.where(allowed, costs, math.inf)
    found: np.ndarray = np.where(np.isfinite(cost).any(axis=-1), cost.argmin(axis=-1), -1)
    return found


def upper_bound(mean_loss: float, n: int, confidence: float) -> float:
    """What the risk is at most, with this confidence, given the mean loss of `n` prompts: the p-value's inverse."""
    low, high = mean_loss, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rejected = middle < 1 and hoeffding_bentkus(np.array(mean_loss), np.array(n), middle) <= 1 - confidence
        low, high = (low, middle) if rejected else (middle, high)
    return high


def prompts_without_loss(at_most: float, error: float) -> int:
    """The least number of prompts that certify `at_most` if none of them has a loss: (1 − α)ⁿ ≤ δ."""
    return math.ceil(math.log(error) / math.log1p(-at_most))


def prompts_needed(mean_loss: float, at_most: float, error: float) -> int | None:
    """How many prompts would certify `at_most` if the mean loss stayed as it is; None if no number would.

    The smallest number up to `MOST_SEARCHED`; beyond, the smallest by Hoeffding's inequality alone.
    """
    if mean_loss >= at_most:
        return None
    divergence = xlogy(mean_loss, mean_loss / at_most) + xlogy(1 - mean_loss, (1 - mean_loss) / (1 - at_most))
    by_hoeffding = math.ceil(-math.log(error) / divergence)
    searched = np.arange(1, min(by_hoeffding, MOST_SEARCHED) + 1)
    enough = hoeffding_bentkus(np.array(mean_loss), searched, at_most) <= error
    return int(searched[enough.argmax()]) if enough.any() else by_hoeffding
