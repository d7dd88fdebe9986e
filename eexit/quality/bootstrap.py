"""Means and ratios over prompts, and medians over rounds, with percentile bootstrap intervals (Efron 1979).

Prompts and rounds are resampled, never tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

RESAMPLES: Final = 2000
LEVEL: Final = 0.95
TAILS: Final = ((1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2)
MIN_SAMPLES: Final = 5  # with fewer prompts or rounds, a percentile bootstrap interval is not to be trusted
ENDS: Final = ("", "_low", "_high", "_n")  # of the columns of an estimate


@dataclass(frozen=True)
class Estimate:
    """A mean or a ratio over `n` prompts; `low` and `high` are NaN where there is no interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def complement(self) -> "Estimate":
        """One minus it."""
        return Estimate(1 - self.mean, 1 - self.high, 1 - self.low, self.n)

    def columns(self, name: str) -> dict[str, float]:
        """The columns `<name>`, `<name>_low`, `<name>_high` and `<name>_n`."""
        return {f"{name}{end}": number for end, number in zip(ENDS, astuple(self), strict=True)}


NOTHING: Final = Estimate(math.nan, math.nan, math.nan, 0)


def means_of_groups(values_RX: np.ndarray, group_R: Sequence[Any] | np.ndarray) -> np.ndarray:
    """The mean of each group of rows, such as the seeds of a prompt, (G, X), groups sorted; NaN where none is known."""
    groups, at_R = np.unique(np.asarray(group_R), return_inverse=True)
    known_RX = ~np.isnan(values_RX)
    sum_GX, n_GX = (np.zeros((len(groups), values_RX.shape[1])) for _ in range(2))
    np.add.at(sum_GX, at_R, np.where(known_RX, values_RX, 0.0))
    np.add.at(n_GX, at_R, known_RX)
    means: np.ndarray = np.where(n_GX > 0, sum_GX / np.maximum(n_GX, 1), np.nan)
    return means


def estimate_columns(values_PX: np.ndarray) -> list[Estimate]:
    """The mean of each of the X columns over the P prompts (rows). NaN marks a value that a prompt lacks.

    Whole prompts are resampled, and all columns of one call use the same resamples.
    """
    return estimate_ratios(values_PX, np.ones_like(values_PX))


def estimate_ratios(above_PX: np.ndarray, below_PX: np.ndarray) -> list[Estimate]:
    """The same of the ratios of sums over prompts, Σ above / Σ below; a prompt that lacks either is in neither sum."""
    present_PX = ~np.isnan(above_PX) & ~np.isnan(below_PX)
    above_PX, below_PX = (np.where(present_PX, values_PX, 0.0) for values_PX in (above_PX, below_PX))
    n_X = present_PX.sum(axis=0)
    low_X, high_X = (np.full(n_X.shape, np.nan) for _ in range(2))
    enough_X = n_X >= MIN_SAMPLES
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio_X = above_PX.sum(axis=0) / below_PX.sum(axis=0)
        if enough_X.any():
            both = np.concatenate([above_PX[:, enough_X], below_PX[:, enough_X]], axis=1)
            above_RX, below_RX = np.split(_resample(both), 2, axis=1)
            low_X[enough_X], high_X[enough_X] = np.nanquantile(above_RX / below_RX, TAILS, axis=0)
    columns = (numbers_X.tolist() for numbers_X in (ratio_X, low_X, high_X, n_X))
    return [Estimate(*numbers) for numbers in zip(*columns, strict=True)]


def estimate_median(values: np.ndarray) -> Estimate:
    """The median over rounds; equal values give equal intervals."""
    low, high = math.nan, math.nan
    if len(values) >= MIN_SAMPLES:
        drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
        low, high = np.quantile(np.median(values[drawn], axis=1), TAILS).tolist()
    return Estimate(float(np.median(values)), low, high, len(values))


def _resample(values_PX: np.ndarray) -> np.ndarray:
    """The sums of each resample, in batches: the weights of ten thousand prompts are twenty million numbers."""
    weights_RP = _weights(len(values_PX))
    step = max(1, 2_000_000 // len(values_PX))
    parts = [weights_RP[start : start + step].astype(float) @ values_PX for start in range(0, RESAMPLES, step)]
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _weights(n_prompts: int) -> np.ndarray:
    """How often each resample drew each prompt, as RESAMPLES × prompts. Each row sums to the number of prompts.

    The weights depend on the number of prompts alone, so that equal results give equal reports.
    """
    generator = np.random.default_rng(0)
    each = np.full(n_prompts, 1 / n_prompts)
    # One byte per weight is enough, since no prompt is drawn anywhere near 255 times in one resample.
    return np.stack([generator.multinomial(n_prompts, each).astype(np.uint8) for _ in range(RESAMPLES)])
