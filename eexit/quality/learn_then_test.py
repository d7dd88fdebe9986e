"""Choosing a setting whose risk is bounded with a confidence that holds: Learn-then-Test (Angelopoulos, Bates, Candès,
Jordan and Lei 2021, arXiv 2110.01052).

The *risk* of a setting is its expected loss over prompts, and the loss of a prompt lies in [0, 1]. For each setting,
the hypothesis that its risk is above a bound is tested (`eexit.quality.risk_tests`), and a setting whose hypothesis is
rejected is *certified*. What has to be small is the chance that any setting is certified whose risk is above the bound
(the family-wise error δ, one minus the confidence). Then it does not matter how one of the certified settings is
picked: with confidence 1 − δ the bound holds for all of them, and so for the cheapest too. Picking the cheapest of
those whose mean loss happens to be below the bound has no such guarantee.

*Fixed-sequence testing* takes settings in an order and stops at the first that is not rejected. No correction for their
number is needed: a false certificate needs the first setting of the sequence that is above the bound to be rejected,
which happens with chance δ at most. That holds if the order does not depend on the losses, so that it has to be fixed
before they are seen. There are two ways (`ORDERS`):

- `pareto`: one sequence over all modes and rules, which gets the whole δ. Its order comes from other prompts, the
  pilot: the settings that no other one beats in mean loss at no more cost, from safe to bold (Pareto testing,
  Laufer-Goldshtein, Fisch, Barzilay and Jaakkola 2023, arXiv 2210.07913). Those that cost more than full depth there
  are left out where any costs less. Of settings drawn like those of a study of 200 prompts, thirty of them, it saves as
  much as `passed-on` or more at bounds of 10 and 20 %, whence it is the default.
- `passed-on`: a sequence for each mode and rule, from the conservative end of the parameter to the bold one; they share
  δ in equal parts, and a sequence that is through passes its part on to the others (Bretz, Maurer, Brannath and Posch
  2009).

Prompts can be asked more than once. *Asks* of the same prompts share δ (`error_of_ask`), so that the chance that any of
them makes a false certificate is δ at most, however many there are: the shares add up to one. Whether one more is made
may depend on how those before it ended. What it asks has to come from elsewhere, such as a pilot: what looked best on
these prompts would be certified too often.

The p-values hold for any distribution of losses, if prompts are independent draws from those that the setting will
meet. Tokens of a text depend on each other and are no such draws.

Shapes: S settings, in the order of their testing; F sequences; … any axes before, such as repeated draws.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

PARETO, PASSED_ON = ORDERS = ("pareto", "passed-on")
FULL_DEPTH: Final = 1.0  # its cost
KEPT: Final = 0.05  # share of the error that is kept for asks that were not planned


def error_of_ask(confidence: float, number: int = 1, planned: int = 1) -> float:
    """What an ask, counted from 1, may err with, so that all asks of the same prompts err with 1 − confidence at most.

    Those that were planned have equal parts of all but `KEPT` of it. Of what is kept, the next one has all but `KEPT`,
    and so on: (1 − KEPT)·(1 + KEPT + KEPT² + …) = 1.
    """
    share = (1 - KEPT) / planned if number <= planned else (1 - KEPT) * KEPT ** (number - planned)
    return (1 - confidence) * share


def fixed_sequence(p_values: np.ndarray, error: float | np.ndarray) -> np.ndarray:
    """Which hypotheses are rejected, (…, S): those before the first whose p-value is above `error`."""
    rejected: np.ndarray = np.logical_and.accumulate(np.asarray(p_values) <= error, axis=-1)
    return rejected


def certify(p_values: Sequence[np.ndarray], confidence: float) -> list[np.ndarray]:
    """Which settings are certified, for each sequence (…, S) from its p-values (…, S): with this confidence, the risk
    of all of them is within the bound. Those that are not through share the error in equal parts.
    """
    certified = [fixed_sequence(values, (1 - confidence) / len(p_values)) for values in p_values]
    for _ in p_values:  # each time, another one may be through
        n_left = sum(~rejected.all(axis=-1) for rejected in certified)
        error = (1 - confidence) / np.maximum(n_left, 1)
        certified = [fixed_sequence(values, error[..., None]) for values in p_values]
    return certified


def pareto_sequence(risks: np.ndarray, costs: np.ndarray) -> list[int]:
    """The order of testing that a pilot's mean losses and costs give, as indices into S, from safe to bold.

    A setting that another one beats, with less loss at no more cost, is left out. Of those with the same mean loss,
    which few prompts can't tell apart, the most expensive one comes first. NaN and infinity stand for what isn't known,
    which is not tested.
    """
    known = np.isfinite(risks) & np.isfinite(costs)
    if (known & (costs < FULL_DEPTH)).any():
        known &= costs < FULL_DEPTH
    indices = np.flatnonzero(known)
    beaten = [((risks[indices] < risks[at]) & (costs[indices] <= costs[at])).any() for at in indices]
    front = indices[~np.array(beaten, dtype=bool)]
    return [int(at) for at in front[np.lexsort((-costs[front], risks[front]))]]
