"""The ledger of multiply-adds: what each restriction takes, as the first, as the last, and on the mean of all orders.

Nothing exits can save is lost to one restriction alone: what the state takes is little once tokens leave only where a
rule knows that they may. So there is no one order in which to impose restrictions. A measured set is a set of them with
the best saving under all of these (`options.best_of`), a share of full depth's multiply-adds:

- none: the oracle `agree`, in exact state, by its exits alone;
- *state*: the oracle in the states that are deployed;
- *knowing*: online rules in exact state, by their exits alone;
- *deciding*: what looks, gates, keys and values cost is counted;
- *proof*: of what is certified.

What a restriction takes is the difference of two measured sets, one of which has it and the other one has not. What
was not measured is None, and nothing is estimated in its place.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Final, NamedTuple

import numpy as np

from eexit.quality.estimates import MIN_SAMPLES, NOTHING, Estimate
from eexit.quality.intervals import student
from eexit.studies.assessment.options import Best, SavedByPrompt, most_of
from eexit.studies.assessment.verdict import DECIDING, KNOWING, PROOF, RESTRICTIONS, STATE

Imposed = frozenset[str]
NONE: Final[Imposed] = frozenset()
NEEDED: Final[Sequence[Imposed]] = [  # to name a cause: each restriction in two places, and none in one order alone
    NONE,
    *map(frozenset, ([STATE], [KNOWING], [STATE, KNOWING], [STATE, KNOWING, DECIDING], [STATE, KNOWING, PROOF])),
    frozenset(RESTRICTIONS),
]
Weights = Mapping[Imposed, float]  # of measured sets in a sum


class Cause(NamedTuple):
    """The restriction that certainly takes most in both places; else None, and which ones may."""

    name: str | None = None
    undecided: Sequence[str] = ()


@dataclass(frozen=True)
class Ledger:
    """What was measured, by what was imposed."""

    measured: Mapping[Imposed, Best]

    @cached_property
    def best(self) -> Mapping[Imposed, Best]:
        """The same, where what can be had under more restrictions can be had under fewer."""
        return {
            imposed: most_of([best for other, best in self.measured.items() if other >= imposed])
            for imposed in self.measured
        }

    def contexts(self, restriction: str) -> list[Imposed]:
        """After what a restriction's part was measured: the fewest others first."""
        before = (imposed for imposed in self.measured if restriction not in imposed)
        return sorted((each for each in before if each | {restriction} in self.measured), key=len)

    def taken(self, restriction: str, after: Imposed) -> Estimate:
        return _not_below_0(self.estimate(_step(restriction, after)))

    def on_the_mean(self, restriction: str) -> Estimate:
        """What it takes on the mean of all orders of which each beginning was measured (Shapley 1953)."""
        orders = [
            order
            for order in permutations(RESTRICTIONS)
            if all(frozenset(order[:n]) in self.measured for n in range(len(order) + 1))
        ]
        if not orders:
            return NOTHING
        after = Counter(frozenset(order[: order.index(restriction)]) for order in orders)
        steps = [(n / len(orders), _step(restriction, imposed)) for imposed, n in after.items()]
        return _not_below_0(self.estimate(_sum(steps)))

    def estimate(self, weights: Weights) -> Estimate:
        """A weighted sum of savings, paired by prompt where they are of the same ones.

        The interval is Student's between two sums: of what is saved at least, where it counts for it, and at most,
        where it counts against it; and the other way round.
        """
        used = [(weight, self.best[imposed]) for imposed, weight in weights.items() if weight]
        low, _, n = _student([(weight, best.least if weight > 0 else best.most) for weight, best in used])
        _, high, _ = _student([(weight, best.most if weight > 0 else best.least) for weight, best in used])
        mean = float(sum(weight * best.found.mean for weight, best in used))
        return Estimate(mean, min(low, mean), max(high, mean), n)

    @cached_property
    def cause(self) -> Cause:
        """What takes most as the first and as the last; none while anything that naming one needs was not measured."""
        if any(imposed not in self.measured for imposed in NEEDED):
            return Cause()
        places = [{each: _step(each, self.contexts(each)[at]) for each in RESTRICTIONS} for at in (0, -1)]
        may_be = [
            each
            for each in RESTRICTIONS
            if not all(any(self._is_more(place[one], place[each]) for one in RESTRICTIONS) for place in places)
        ]
        return Cause(may_be[0]) if len(may_be) == 1 else Cause(None, may_be)

    def _is_more(self, one: Weights, other: Weights) -> bool:
        return self.estimate(_sum([(1.0, one), (-1.0, other)])).low > 0


def _step(restriction: str, after: Imposed) -> Weights:
    return {after: 1.0, after | {restriction}: -1.0}


def _sum(parts: Sequence[tuple[float, Weights]]) -> Weights:
    found: dict[Imposed, float] = {}
    for factor, weights in parts:
        for imposed, weight in weights.items():
            found[imposed] = found.get(imposed, 0.0) + factor * weight
    return found


def _student(terms: Sequence[tuple[float, SavedByPrompt]]) -> tuple[float, float, int]:
    """Student's interval of a sum of means, and the prompts of the smallest sample; NaN below `MIN_SAMPLES`."""
    sums: dict[str, np.ndarray] = {}
    for weight, saved in terms:
        sums[saved.sample] = sums.get(saved.sample, 0.0) + weight * saved.saved_P
    n = min(map(len, sums.values()), default=0)
    if n < MIN_SAMPLES:
        return math.nan, math.nan, n
    mean = float(sum(each.mean() for each in sums.values()))
    variance = float(sum(each.var(ddof=1) / len(each) for each in sums.values()))
    return *student(mean, variance * n, n), n


def _not_below_0(taken: Estimate) -> Estimate:
    """A restriction never helps."""
    mean, low, high = (
        number if math.isnan(number) else max(number, 0.0) for number in (taken.mean, taken.low, taken.high)
    )
    return Estimate(mean, low, high, taken.n)
