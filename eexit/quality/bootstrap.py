"""Means and ratios over prompts with percentile bootstrap intervals (Efron 1979).

Prompts are resampled, never tokens.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

RESAMPLES: Final = 2000
LEVEL: Final = 0.95
MIN_PROMPTS: Final = 5  # with fewer prompts, a percentile bootstrap interval is not to be trusted


@dataclass(frozen=True)
class Estimate:
    """A mean or a ratio over `n` prompts; `low` and `high` are NaN where there is no interval."""

    mean: float
    low: float
    high: float
    n: int


def estimate_columns(values_PX: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low, high and n of each of the X columns over the P prompts (rows). NaN marks a value that a prompt lacks.

    Whole prompts are resampled, and all columns of one call use the same resamples.
    """
    return estimate_ratios(values_PX, np.ones_like(values_PX))


def estimate_ratios(
    above_PX: np.ndarray, below_PX: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same of the ratios of sums over prompts, Σ above / Σ below; a prompt that lacks either is in neither sum."""
    present_PX = ~np.isnan(above_PX) & ~np.isnan(below_PX)
    above_PX, below_PX = (np.where(present_PX, values_PX, 0.0) for values_PX in (above_PX, below_PX))
    n_X = present_PX.sum(axis=0)
    low_X, high_X = (np.full(n_X.shape, np.nan) for _ in range(2))
    enough_X = n_X >= MIN_PROMPTS
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio_X = above_PX.sum(axis=0) / below_PX.sum(axis=0)
        if enough_X.any():
            both = np.concatenate([above_PX[:, enough_X], below_PX[:, enough_X]], axis=1)
            above_RX, below_RX = np.split(_resample(both), 2, axis=1)
            tail = (1 - LEVEL) / 2
            low_X[enough_X], high_X[enough_X] = np.nanquantile(above_RX / below_RX, (tail, 1 - tail), axis=0)
    return ratio_X, low_X, high_X, n_X


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
