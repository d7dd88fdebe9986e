"""Power of prompts and calls: the effects that they detect with a chance of 80 %, and the number needed."""

import math
from typing import Final

from eexit.output.text import percent, pluralize, short_percent
from eexit.quality.estimates import Estimate
from eexit.quality.intervals import NORMAL_TAIL, t_interval
from eexit.quality.risk_tests import MOST_PROMPTS, chance_of_certificate, loss_certified

WITH_POWER: Final = (NORMAL_TAIL + 0.8416) / NORMAL_TAIL  # half widths that exclude a value
OF_CALLS: Final = 0.07  # standard deviation over calls of a time's logarithm, as measured


def certification_power(n: int, at_most: float, error: float) -> str:
    """Return a sentence on the power of the exact test of lost answers, with `n` prompts.

    `at_most` is the bound, and `error` the error budget.
    """
    half, bound = short_percent(at_most / 2), short_percent(at_most)
    chance, loss = float(chance_of_certificate(at_most / 2, n, at_most, error)), loss_certified(n, at_most, error)
    certain = "" if loss is None else f", and one that loses {short_percent(loss)} with probability 80%"
    return (
        f"{pluralize(n, 'calibration prompt')} certify a setting that loses {half} at a bound of {bound} "
        f"with probability {percent(chance, 0)}{certain}"
    )


def gain_told(n: int) -> float:
    """Return the lead over other gains by which n prompts of an assessment name a cause, as a share of full depth.

    In simulations, 1,700 prompts need six points: a margin of one, and five that shrink with the root of n.
    """
    return 0.01 + 0.05 * math.sqrt(1700 / n)


def time_told(n_calls: int) -> float:
    """Return the time nearest full depth's that calls distinguish from it, as a multiple of full depth's time."""
    _, half = t_interval(0.0, OF_CALLS**2, n_calls)
    return math.exp(-half * WITH_POWER)


def n_to_exclude(value: float, found: Estimate) -> int | None:
    """Return the number of prompts or calls whose interval excludes a value, if all else stays; None: out of reach."""
    if math.isnan(found.low):
        return None
    half = found.high - found.mean if found.mean < value else found.mean - found.low
    n = found.n * (WITH_POWER * half / (found.mean - value)) ** 2 if found.mean != value else math.inf
    return math.ceil(n) if n <= MOST_PROMPTS else None
