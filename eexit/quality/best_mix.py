"""Comparison of a setting with the best mix of two others that costs as much, or is as good.

A mix draws one of two settings for each prompt. Its mean is between theirs, and its share makes it equal to the setting
in one measure. The difference in any other measure depends on three estimates from the same prompts: the means, the
share, and which mix is the best. An interval that takes share and mix as known covers the truth in as few as 4 of 100
samples where costs vary more than quality (tests/eexit/quality/test_best_mix.py). So the interval is the widest of

- the interval of the paired differences from the chosen mix,
- Student's interval with the linearised error of the share: a prompt whose costs differ changes the share,
- percentiles over resamples of the prompts, each of which chooses share and mix again.

In the measure by which the mix is the best, the end on the setting's side holds for all mixes at once, since the best
of several equally good mixes always seems better than it is. That end is the least of the upper ends of all mixes. Its
critical value for all of them together is from resampled Student's statistics (Chernozhukov, Lee and Rosen 2013).

Shapes: P prompts, C configurations (the setting first), M measures, B resamples, G mixes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import scipy  # scipy imports its subpackages at their first use

from eexit.quality.estimates import Estimate, ValueKind, estimate_columns
from eexit.quality.intervals import TAILS

RESAMPLES: Final = 400


@dataclass(frozen=True)
class MixComparison:
    """Differences of the setting from the mix of configurations `one` and `other`; `share` is the weight of `other`."""

    one: int
    other: int
    share: float
    differences: Sequence[Estimate]  # of each measure; 0 in the one that is equal


@dataclass(frozen=True)
class _Mixes:
    """Mixes that are equal to the setting, with their means."""

    share_BG: np.ndarray
    is_there_BG: np.ndarray  # False where the setting is not between the two
    difference_BGM: np.ndarray

    def best(self, best_by: int, sign: int) -> np.ndarray:
        """Return each resample's mix, (B,), that is highest in measure `best_by` or, if `sign` is −1, lowest."""
        advantage_BG = np.where(self.is_there_BG, sign * self.difference_BGM[..., best_by], np.inf)
        best_B: np.ndarray = advantage_BG.argmin(axis=1)
        return best_B


def beside_best_mix(
    values_PCM: np.ndarray, equal: int, best_by: int, kinds: Sequence[ValueKind], higher_is_better: bool
) -> MixComparison | None:
    """Compare the first configuration with the best mix of two others that is equal to it in the measure `equal`.

    `best_by` is the measure by which a mix is the best. Configurations that lack either measure are in no mix. Only
    prompts count that have both under all other configurations. Return None if no mix is equal to the setting.
    """
    of_mixes = [equal, best_by]
    has_both_C = (~np.isnan(values_PCM[:, :, of_mixes])).all(axis=2).any(axis=0)
    if not has_both_C[0]:
        return None
    used = np.flatnonzero(has_both_C)
    values_PCM = values_PCM[:, used]
    values_PCM = values_PCM[~np.isnan(values_PCM[:, :, of_mixes]).any(axis=(1, 2))]
    if not len(values_PCM):
        return None
    values_PCM = np.where(np.isnan(values_PCM).any(axis=1, keepdims=True), np.nan, values_PCM)
    n_points, sign = values_PCM.shape[1] - 1, 1 if higher_is_better else -1
    one_G, other_G = np.triu_indices(n_points)
    pairs = one_G + 1, other_G + 1
    mixes = _mixes(np.full((1, len(values_PCM)), 1.0), values_PCM, pairs, equal)
    if not mixes.is_there_BG.any():
        return None
    at = int(mixes.best(best_by, sign)[0])
    one, other, share = pairs[0][at], pairs[1][at], float(mixes.share_BG[0, at])
    taken_PM = values_PCM[:, 0] - (1 - share) * values_PCM[:, one] - share * values_PCM[:, other]
    found = estimate_columns(taken_PM, kinds)
    wide = _ends(values_PCM, pairs, mixes, at, equal, best_by, sign)
    differences = [
        _widened(each, low, high, kind) if measure != equal else each
        for measure, (each, (low, high), kind) in enumerate(zip(found, wide, kinds, strict=True))
    ]
    return MixComparison(int(used[one]), int(used[other]), share, differences)


def _mixes(weight_BP: np.ndarray, values_PCM: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], equal: int) -> _Mixes:
    is_known_PM = ~np.isnan(values_PCM[:, 0])
    total_BM = np.maximum(weight_BP @ is_known_PM, 1e-300)
    sum_BCM = np.tensordot(weight_BP, np.nan_to_num(values_PCM), axes=1)
    mean_BCM = np.where((weight_BP @ is_known_PM > 0)[:, None], sum_BCM / total_BM[:, None], np.nan)
    one_BGM, other_BGM, setting_BM = mean_BCM[:, pairs[0]], mean_BCM[:, pairs[1]], mean_BCM[:, 0]
    low_BG, high_BG, target_B1 = one_BGM[..., equal], other_BGM[..., equal], setting_BM[:, equal, None]
    gap_BG = high_BG - low_BG
    share_BG = np.where(gap_BG == 0, 0.0, (target_B1 - low_BG) / np.where(gap_BG == 0, 1.0, gap_BG))
    is_there_BG = (np.minimum(low_BG, high_BG) <= target_B1) & (target_B1 <= np.maximum(low_BG, high_BG))
    mixed_BGM = (1 - share_BG)[..., None] * one_BGM + share_BG[..., None] * other_BGM
    return _Mixes(share_BG, is_there_BG, setting_BM[:, None] - mixed_BGM)


def _ends(
    values_PCM: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], mixes: _Mixes, at: int, equal: int, best_by: int,
    sign: int,
) -> list[tuple[float, float]]:  # fmt: skip
    """Return the ends of each measure's interval: the lowest and the highest of several methods.

    All methods treat the share and the choice of the mix as estimated, not as known.
    """
    n = len(values_PCM)
    if n < 2:
        return [(np.nan, np.nan)] * values_PCM.shape[2]
    there_G = np.flatnonzero(mixes.is_there_BG[0])
    moved_PGM = _moved(values_PCM, (pairs[0][there_G], pairs[1][there_G]), mixes.share_BG[0, there_G], equal)
    weight_BP = _resamples(n)
    again = _mixes(weight_BP, values_PCM, pairs, equal)
    of_best_BM = again.difference_BGM[np.arange(len(weight_BP)), again.best(best_by, sign)]
    of_best_BM = of_best_BM[again.is_there_BG.any(axis=1)]
    student, place = float(scipy.special.stdtrit(n - 1, TAILS[1])), int(np.flatnonzero(there_G == at)[0])
    ends = []
    for measure in range(values_PCM.shape[2]):
        moved_P = moved_PGM[:, place, measure]
        moved_P = moved_P[~np.isnan(moved_P)]
        if len(moved_P) < 2:
            ends.append((np.nan, np.nan))
            continue
        mean, half = float(moved_P.mean()), student * float(moved_P.std(ddof=1)) / len(moved_P) ** 0.5
        again_B = of_best_BM[:, measure]
        again_B = again_B[~np.isnan(again_B)]
        around = np.quantile(again_B, TAILS) if len(again_B) else (mean, mean)
        low, high = min(mean - half, float(around[0])), max(mean + half, float(around[1]))
        if measure == best_by:
            of_all = _upper_of_least(sign * moved_PGM[..., best_by], weight_BP, student)
            low, high = (low, max(high, of_all)) if sign > 0 else (min(low, -of_all), high)
        ends.append((low, high))
    return ends


def _moved(values_PCM: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], share_G: np.ndarray, equal: int) -> np.ndarray:
    """Return each prompt's influence on the setting's difference from each mix, (P, G, M).

    It accounts for the shares of the mix, which depend on the prompts too. Its mean over prompts is the difference.
    """
    one_PGM, other_PGM = values_PCM[:, pairs[0]], values_PCM[:, pairs[1]]
    share_1G1 = share_G[None, :, None]
    difference_PGM = values_PCM[:, :1] - (1 - share_1G1) * one_PGM - share_1G1 * other_PGM
    gap_GM = np.ma.masked_invalid(other_PGM - one_PGM).mean(axis=0).filled(np.nan)
    equal_G = gap_GM[:, equal]
    slope_GM = np.where(equal_G[:, None] == 0, 0.0, gap_GM / np.where(equal_G == 0, 1.0, equal_G)[:, None])
    moved_PGM: np.ndarray = difference_PGM - slope_GM * difference_PGM[..., equal, None]
    return moved_PGM


def _upper_of_least(moved_PG: np.ndarray, weight_BP: np.ndarray, student: float) -> float:
    """Return the upper end of the interval for the least mean of G columns."""
    n = len(moved_PG)
    mean_G, deviation_G = moved_PG.mean(axis=0), moved_PG.std(axis=0, ddof=1)
    varies_G = deviation_G > 0
    if not varies_G.any():
        return float(mean_G.min())
    centred_PG = (moved_PG - mean_G)[:, varies_G]
    mean_BG, square_BG = weight_BP @ centred_PG / n, weight_BP @ centred_PG**2 / n
    error_BG = np.sqrt(np.maximum(square_BG - mean_BG**2, 0) / (n - 1))
    statistic_B = (-mean_BG / np.where(error_BG > 0, error_BG, np.inf)).max(axis=1)
    critical = max(student, float(np.quantile(statistic_B, TAILS[1])))
    return float((mean_G + critical * deviation_G / n**0.5).min())


@lru_cache(maxsize=8)
def _resamples(n: int) -> np.ndarray:
    """Return how often each of `n` prompts is in each resample, (B, P)."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)


def _widened(found: Estimate, low: float, high: float, kind: ValueKind) -> Estimate:
    """Return the estimate with its interval, if any, widened to these ends."""
    most = 1.0 if kind is ValueKind.DIFFERENCE else np.inf
    ends = max(float(np.fmin(found.low, low)), -most), min(float(np.fmax(found.high, high)), most)
    return found if np.isnan(found.low) else Estimate(found.mean, *ends, found.n)
