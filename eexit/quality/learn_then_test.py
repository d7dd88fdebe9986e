"""Selection of a setting whose risk is bounded with a guaranteed confidence: Learn-then-Test (Angelopoulos, Bates,
Candès, Jordan and Lei 2021, arXiv 2110.01052).

The *risk* of a setting is its expected loss over prompts, and the loss of a prompt lies in [0, 1]. For each setting,
the hypothesis that its risk exceeds a bound is tested (`eexit.quality.risk_tests`). A setting whose hypothesis is
rejected is *certified*. The family-wise error δ, one minus the confidence, limits the probability that any certified
setting exceeds the bound. So with confidence 1 − δ, the bound holds for all certified settings, however one of them is
picked, and also for the cheapest. Picking the cheapest of the settings whose mean loss is below the bound has no such
guarantee.

*Fixed-sequence testing* takes settings in an order and stops at the first that is not rejected. It needs no correction
for the number of settings. A false certificate requires that the first setting above the bound is rejected, which has
probability δ at most. The order is fixed beforehand, since it must not depend on the losses. There are two (`ORDERS`):

- `pareto`: one sequence over all modes and rules, with the whole δ. Other prompts, the pilot, give its order: the
  Pareto front of mean loss and cost, from safe to bold. This is Pareto testing (Laufer-Goldshtein, Fisch, Barzilay and
  Jaakkola 2023, arXiv 2210.07913). Settings that cost more than full depth on the pilot are left out if any cost less.
  It is the default. With thirty settings drawn like those of a study of 200 prompts, it saves at least as much as
  `passed-on` at bounds of 10 and 20 %.
- `passed-on`: one sequence for each mode and rule, from the conservative end of the parameter to the bold one. The
  sequences share δ equally, and a completed sequence passes its share to the others (Bretz, Maurer, Brannath and Posch
  2009).

The same calibration prompts can be used several times. All uses share δ as an error budget (`alpha_share`). So the
probability that any of them makes a false certificate is δ at most, however many there are: the shares add up to one.
The decision on a further use may depend on the results of earlier ones. The settings that it tests have to come from
other data, such as a pilot: settings selected on these prompts would be certified too often.

The p-values hold for any distribution of losses, if prompts are independent draws from the distribution that the
setting will meet. Tokens of a text depend on each other and are no such draws.

Shapes: S settings in the order of testing; F sequences; … any leading axes, such as repeated draws.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

PARETO, PASSED_ON = ORDERS = ("pareto", "passed-on")
FULL_DEPTH: Final = 1.0  # cost of full depth
KEPT: Final = 0.05  # share of the error budget that is reserved for unplanned uses


def alpha_share(confidence: float, number: int = 1, planned: int = 1) -> float:
    """Return the error budget of the n-th use of the same prompts (`number`); all uses err with 1 − confidence at most.

    The planned uses share all but `KEPT` of it equally. The next use has all but `KEPT` of this reserve, and so on:
    (1 − KEPT)·(1 + KEPT + KEPT² + …) = 1.
    """
    share = (1 - KEPT) / planned if number <= planned else (1 - KEPT) * KEPT ** (number - planned)
    return (1 - confidence) * share


def fixed_sequence(p_values: np.ndarray, error: float | np.ndarray) -> np.ndarray:
    """Return which hypotheses are rejected, (…, S): all before the first p-value above `error`."""
    rejected: np.ndarray = np.logical_and.accumulate(np.asarray(p_values) <= error, axis=-1)
    return rejected


def certify(p_values: Sequence[np.ndarray], confidence: float) -> list[np.ndarray]:
    """Return which settings of each sequence are certified, (…, S), given its p-values (…, S).

    With this confidence, all their risks are within the bound. Uncompleted sequences share the error equally.
    """
    certified = [fixed_sequence(values, (1 - confidence) / len(p_values)) for values in p_values]
    for _ in p_values:  # each time, another sequence may be completed
        n_left = sum(~rejected.all(axis=-1) for rejected in certified)
        error = (1 - confidence) / np.maximum(n_left, 1)
        certified = [fixed_sequence(values, error[..., None]) for values in p_values]
    return certified


def pareto_sequence(risks: np.ndarray, costs: np.ndarray) -> list[int]:
    """Return the order of testing, as indices into S, by a pilot's mean losses and costs, from safe to bold.

    A setting is left out if another one has less loss at no more cost. Of settings with the same mean loss, which few
    prompts can't distinguish, the most expensive one comes first. Settings with an unknown value (NaN or infinity) are
    not tested.
    """
    known = np.isfinite(risks) & np.isfinite(costs)
    if (known & (costs < FULL_DEPTH)).any():
        known &= costs < FULL_DEPTH
    indices = np.flatnonzero(known)
    beaten = [((risks[indices] < risks[at]) & (costs[indices] <= costs[at])).any() for at in indices]
    front = indices[~np.array(beaten, dtype=bool)]
    return [int(at) for at in front[np.lexsort((-costs[front], risks[front]))]]
