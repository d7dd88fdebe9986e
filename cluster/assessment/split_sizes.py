"""How many prompts and tokens each step has. They follow from statistics alone, and from no machine's speed."""

import math
from dataclasses import dataclass
from typing import Final

from eexit.errors import UsageError
from eexit.output.text import percent, pluralize, short_percent
from eexit.quality.intervals import t_interval
from eexit.quality.learn_then_test import alpha_share
from eexit.quality.risk_tests import (
    MOST_PROMPTS,
    chance_of_certificate,
    loss_certified,
    prompts_for_loss,
    prompts_without_loss,
)
from eexit.studies.assessment.conclude import WITH_POWER

CONFIDENCE: Final = 0.95
CONFIDENCE_OF_A_LOOK: Final = 0.5  # which a tenth of the prompts can have
TENTH: Final = 10
TOKENS_OF_A_TEXT: Final = 40  # of those that are learned from, about
ORDERING_FOR_CHOOSING: Final = 1 / 3  # prompts that give the order of testing, for each one that is tested on

OF_CALLS: Final = 0.07  # measured: further calls put a time ±13.9 % off


@dataclass(frozen=True)
class SplitSizes:
    """The prompts of each part, and the tokens that exits learn from."""

    pilot: int
    choosing: int
    reporting: int
    learning_tokens: int

    @property
    def ordering(self) -> int:
        return math.ceil(ORDERING_FOR_CHOOSING * self.choosing)

    @property
    def training(self) -> int:
        """Prompts whose texts are learned from."""
        return math.ceil(self.learning_tokens / TOKENS_OF_A_TEXT)

    @property
    def tenth(self) -> "SplitSizes":
        return SplitSizes(
            *(math.ceil(each / TENTH) for each in (self.pilot, self.choosing, self.reporting, self.learning_tokens))
        )


def sizes_at(max_risk: float) -> SplitSizes:
    """The sizes at a bound: for choosing, as many as certify a setting that loses half of it with a chance of 80 %.

    Raises `UsageError` for a bound that takes too many.

    >>> sizes_at(0.02)
    Sizes(pilot=200, choosing=975, reporting=400, learning_tokens=12000)
    """
    choosing = prompts_for_loss(max_risk / 2, max_risk, alpha_share(CONFIDENCE))
    if choosing is None:
        raise UsageError(f"--max-risk {max_risk:g} takes more than {MOST_PROMPTS:,} prompts: give a higher --max-risk")
    return SplitSizes(pilot=200, choosing=choosing, reporting=400, learning_tokens=12_000)


def least_choosing(max_risk: float, confidence: float) -> int:
    """Prompts with which a setting without a single loss is certified."""
    return prompts_without_loss(max_risk, alpha_share(confidence))


def certification_power(n: int, max_risk: float) -> str:
    """How likely n prompts for choosing are to certify a setting, by the exact test of lost answers."""
    error, half, bound = alpha_share(CONFIDENCE), short_percent(max_risk / 2), short_percent(max_risk)
    chance, loss = float(chance_of_certificate(max_risk / 2, n, max_risk, error)), loss_certified(n, max_risk, error)
    surely = "" if loss is None else f", and one that loses {short_percent(loss)} with a chance of 80%"
    return (
        f"{pluralize(n, 'prompt')} for choosing certify a setting that loses {half} at a bound of {bound} "
        f"with a chance "
        f"of {percent(chance, 0)}{surely}"
    )


def gain_told(n: int) -> float:
    """Return by how much of full depth a cause has to gain more than others to be named of n prompts with a chance of
    about 80 %: by simulation, a point and 5 of 1,700 prompts, and otherwise as the root of their number.
    """
    return 0.01 + 0.05 * math.sqrt(1700 / n)


def time_told(n_calls: int) -> float:
    """Return the time, as a multiple of full depth's, below which so many calls tell it from that with a chance of
    about 80 %, where the logarithm of a call's ratio differs by `OF_CALLS` (a standard deviation) from another's.
    """
    _, half = t_interval(0.0, OF_CALLS**2, n_calls)
    return math.exp(-half * WITH_POWER)
