"""Means and ratios over prompts, and times over calls, each with its interval (`eexit.quality.intervals`).

Prompts and calls are the sampling units, never tokens. Prompts of a group depend on each other and count as one.

Shapes: R rows, G groups, P prompts or groups, X columns.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, Final

import numpy as np

from eexit.quality.intervals import LEVEL, clopper_pearson, of_difference, of_quotient, share_interval, t_interval

MIN_SAMPLES: Final = 5  # prompts; with fewer, a mean has no interval
MIN_CALLS: Final = 6  # calls of a timing; with fewer, intervals are too wide to be of use
MARGIN: Final = 0.02  # non-inferiority margin to full depth, as a share of answers or of a judge's scale
ENDS: Final = ("", "_low", "_high", "_n")  # suffixes of an estimate's columns


class ValueKind(Enum):
    """Kind of values, which determines their interval."""

    SHARE = "in [0, 1]"
    DIFFERENCE = "of two shares, in [-1, 1]"
    NUMBER = "of any size"


@dataclass(frozen=True)
class Estimate:
    """Mean or ratio over `n` prompts; `low` and `high` are NaN without an interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def complement(self) -> "Estimate":
        """One minus the estimate."""
        return Estimate(1 - self.mean, 1 - self.high, 1 - self.low, self.n)

    @property
    def as_dict(self) -> dict[str, float | None]:
        """Mean, low, high and n for JSON, None where unknown."""
        return {end: number if math.isfinite(number) else None for end, number in asdict(self).items()}

    def is_above(self, value: float) -> bool:
        """Return True if the whole interval is above a value."""
        return self.low > value

    def is_below(self, value: float) -> bool:
        """Return True if the whole interval is below a value."""
        return self.high < value

    def columns(self, name: str) -> dict[str, float]:
        """Return the columns `<name>`, `<name>_low`, `<name>_high` and `<name>_n`."""
        numbers = (self.mean, self.low, self.high, self.n)
        return {f"{name}{end}": number for end, number in zip(ENDS, numbers, strict=True)}


@dataclass(frozen=True)
class Estimates:
    """Base of a set of estimates, one a field."""

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """Return the mean, low, high and n of each estimate for JSON; unknown values are None."""
        return {each.name: getattr(self, each.name).as_dict for each in fields(self)}

    def columns(self) -> dict[str, float]:
        """Return the columns of each estimate (`Estimate.columns`)."""
        named = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {column: number for name, of in named for column, number in of.columns(name).items()}


NOTHING: Final = Estimate(math.nan, math.nan, math.nan, 0)


def means_of_groups(values_RX: np.ndarray, group_R: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return the mean of each group of rows, such as a prompt's seeds: (G, X), groups sorted, NaN without a value."""
    groups, at_R = np.unique(_labels(group_R), return_inverse=True)
    known_RX = ~np.isnan(values_RX)
    sum_GX, n_GX = (np.zeros((len(groups), values_RX.shape[1])) for _ in range(2))
    np.add.at(sum_GX, at_R, np.where(known_RX, values_RX, 0.0))
    np.add.at(n_GX, at_R, known_RX)
    means: np.ndarray = np.where(n_GX > 0, sum_GX / np.maximum(n_GX, 1), np.nan)
    return means


def means_of_units(
    values_RX: np.ndarray, prompt_R: Sequence[Any] | np.ndarray, unit_R: Sequence[Any] | np.ndarray
) -> np.ndarray:
    """Return the mean of each sampling unit, (G, X), units sorted: over a prompt's runs, then over the unit's prompts.

    NaN marks unknown values, and units without a known one.
    """
    _, first_P = np.unique(_labels(prompt_R), return_index=True)
    return means_of_groups(means_of_groups(values_RX, prompt_R), _labels(unit_R)[first_P])


def _labels(column: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return the column as an array, in which a text takes no more room than in a list."""
    return column if isinstance(column, np.ndarray) else np.array(column, dtype=object)


def estimate_columns(values_PX: np.ndarray, kinds: Sequence[ValueKind], level: float = LEVEL) -> list[Estimate]:
    """Return the mean of each of the X columns over the P prompts (rows); NaN marks a missing value."""
    known = (values_P[~np.isnan(values_P)] for values_P in values_PX.T)
    return [_mean(values_P, kind, level) for values_P, kind in zip(known, kinds, strict=True)]


def _mean(values_P: np.ndarray, kind: ValueKind, level: float) -> Estimate:
    n = len(values_P)
    if not n:
        return NOTHING
    mean = float(values_P.mean())
    if n < MIN_SAMPLES:
        return Estimate(mean, math.nan, math.nan, n)
    if kind is ValueKind.SHARE:
        ends = share_interval(values_P, level)
    elif kind is ValueKind.DIFFERENCE:
        ends = of_difference(values_P, level)
    else:
        low, high = t_interval(mean, float(values_P.var(ddof=1)), n, level)
        ends = max(low, float(values_P.min())), min(high, float(values_P.max()))  # no count is below 0
    return Estimate(mean, *ends, n)


def estimate_ratios(above_PX: np.ndarray, below_PX: np.ndarray, kind: ValueKind = ValueKind.NUMBER) -> list[Estimate]:
    """Return the ratios of sums over prompts, Σ above / Σ below; a prompt without either value is in neither sum.

    The intervals are those of the linearised ratio (Cochran 1977, section 2.11). A share of 0 or 1 has the interval of
    a share of prompts.
    """
    return [_ratio(above_P, below_P, kind) for above_P, below_P in zip(above_PX.T, below_PX.T, strict=True)]


def _ratio(above_P: np.ndarray, below_P: np.ndarray, kind: ValueKind) -> Estimate:
    known_P = ~np.isnan(above_P) & ~np.isnan(below_P)
    above_P, below_P = above_P[known_P], below_P[known_P]
    n, mean_below = len(above_P), below_P.mean() if len(below_P) else 0.0
    if mean_below == 0:
        return Estimate(math.nan, math.nan, math.nan, n)
    ratio = float(above_P.sum() / below_P.sum())
    if n < MIN_SAMPLES:
        return Estimate(ratio, math.nan, math.nan, n)
    if kind is ValueKind.SHARE and ratio in (0, 1):
        return Estimate(ratio, *clopper_pearson(ratio * n, n), n)
    low, high = t_interval(ratio, float(((above_P - ratio * below_P) / mean_below).var(ddof=1)), n)
    return Estimate(ratio, *((max(low, 0.0), min(high, 1.0)) if kind is ValueKind.SHARE else (low, high)), n)


def estimate_per_right(
    taken_P: np.ndarray, right_P: np.ndarray, beside: tuple[np.ndarray, np.ndarray] | None = None
) -> Estimate:
    """Return the cost per correct answer, Σ taken / Σ right over prompts, as a multiple of `beside`'s if given.

    A prompt without one of these values is in no sum. The mean is NaN without a correct answer. If all answers are
    right, the interval allows for as many wrong answers as Clopper and Pearson's interval of their share.
    """
    columns = [taken_P, right_P, *(beside or ())]
    values_PK = np.stack(columns, axis=1)
    values_PK = values_PK[~np.isnan(values_PK).any(axis=1)]
    n, sign_K = len(values_PK), np.array([1.0, -1.0, -1.0, 1.0])[: len(columns)]
    if not n or (values_PK.mean(axis=0) <= 0).any():
        return Estimate(math.nan, math.nan, math.nan, n)
    quotient = math.exp(float(sign_K @ np.log(values_PK.mean(axis=0))))
    if n < MIN_SAMPLES:
        return Estimate(quotient, math.nan, math.nan, n)
    low, high = of_quotient(values_PK, sign_K)
    may_be_K = [clopper_pearson(n, n)[0] if (right_P == 1).all() else 1.0 for right_P in values_PK[:, 1::2].T]
    return Estimate(quotient, low * math.prod(may_be_K[1:]), high / may_be_K[0], n)


def estimate_over_calls(ratios: Sequence[np.ndarray]) -> Estimate:
    """Return the geometric mean over calls of the median of their rounds' ratios (R,); `n` counts all rounds.

    The call is a random effect: its rounds share conditions, such as the state of the machine, that differ between
    calls. So the interval is Student's over calls on the log scale, and a single call has none, whatever its rounds.
    """
    medians, n = [float(np.median(of_call)) for of_call in ratios], sum(map(len, ratios))
    if len(ratios) == 1:
        return Estimate(medians[0], math.nan, math.nan, n)
    log_medians = np.log(medians)
    mean = float(log_medians.mean())
    low, high = t_interval(mean, float(log_medians.var(ddof=1)), len(ratios))
    return Estimate(math.exp(mean), math.exp(low), math.exp(high), n)
