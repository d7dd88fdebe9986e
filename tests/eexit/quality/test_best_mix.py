"""The interval of a setting's difference from the best mix of others, where the truth is known."""

import numpy as np
import pytest

from eexit.quality.best_mix import MixComparison, beside_best_mix
from eexit.quality.estimates import ValueKind, estimate_columns

LOSS, SAVED = 0, 1
KINDS = [ValueKind.DIFFERENCE, ValueKind.DIFFERENCE]
N_PROMPTS, N_SWEEPS = 40, 150
# Loss and saving of each setting, first the compared one, then the mixed ones; standard deviation of
# the log loss per prompt and setting; and the share of each setting's saving that varies by itself.
WORLDS = {
    "the share is uncertain": ([(0.16, 0.05), (0.0001, 0.0), (0.30, 0.10)], 0.05, 1.0),
    "another mix may be the best": ([(0.05, 0.15), (0.0001, 0.0), (0.02, 0.1), (0.1, 0.2), (0.4, 0.3)], 0.05, 1.0),
    "many mixes are equally good": ([(0.15, 0.15), *((at + 1e-4, at) for at in np.linspace(0, 0.3, 6))], 0.3, 0.3),
}  # fmt: skip


def compared(values_PCM: np.ndarray, higher_is_better: bool = False) -> MixComparison:
    found = beside_best_mix(values_PCM, SAVED, LOSS, KINDS, higher_is_better)
    assert found
    return found


def sweep_of(generator: np.random.Generator, means_CM: np.ndarray, noise: float, own: float) -> np.ndarray:
    """Return values (P, C, M): losses near their mean, mostly shared; savings gamma-distributed, partly shared."""
    loss_C, saved_C = means_CM.T
    shape = (N_PROMPTS, len(means_CM))
    logarithm_PC = 0.3 * generator.standard_normal((N_PROMPTS, 1)) + noise * generator.standard_normal(shape)
    loss_PC = np.clip(loss_C * np.exp(logarithm_PC - (0.3**2 + noise**2) / 2), 0, 1)
    shared_P1, own_PC = (generator.gamma(2.0, 0.5, size) for size in ((N_PROMPTS, 1), shape))
    return np.stack([loss_PC, saved_C * ((1 - own) * shared_P1 + own * own_PC)], axis=-1)


def truth_of(means_CM: np.ndarray) -> float:
    """Return by how much less than the best mix the setting loses, over all pairs and shares."""
    (loss, saved), *points = means_CM.tolist()
    mixes = [
        low[LOSS] + (saved - low[SAVED]) / (high[SAVED] - low[SAVED]) * (high[LOSS] - low[LOSS])
        for low in points
        for high in points
        if low[SAVED] <= saved <= high[SAVED] and low[SAVED] < high[SAVED]
    ]
    return float(loss - min(mixes))


@pytest.mark.parametrize("world", WORLDS)
def test_the_interval_covers_where_share_and_mix_are_found_on_the_same_prompts(world: str) -> None:
    """At least 90 % of the 95 % intervals cover; 'certainly more is lost' is false in at most 5 %, as stated."""
    means, noise, own = WORLDS[world]
    means_CM, generator = np.array(means), np.random.default_rng(0)
    truth, covered, falsely_more = truth_of(means_CM), 0, 0
    for _ in range(N_SWEEPS):
        values_PCM = sweep_of(generator, means_CM, noise, own)
        found = compared(values_PCM)
        loss = found.differences[LOSS]
        mixed_PM = (1 - found.share) * values_PCM[:, found.one] + found.share * values_PCM[:, found.other]
        known = estimate_columns(values_PCM[:, 0] - mixed_PM, KINDS)[LOSS]  # as if share and mix were known
        assert loss.mean == pytest.approx(known.mean)
        assert loss.low - 1e-12 <= known.low <= known.high <= loss.high + 1e-12
        covered += loss.low <= truth <= loss.high
        falsely_more += loss.low > truth
    assert covered >= 0.9 * N_SWEEPS
    assert falsely_more <= 0.05 * N_SWEEPS + 3 * (0.05 * 0.95 * N_SWEEPS) ** 0.5


def test_a_mix_is_the_best_by_means_and_there_is_none_out_of_reach() -> None:
    values_PCM = sweep_of(np.random.default_rng(1), np.array(WORLDS["the share is uncertain"][0]), 0.05, 1.0)
    found, turned = compared(values_PCM), compared(values_PCM * [-1, 1], higher_is_better=True)
    assert found.differences[SAVED].mean == pytest.approx(0, abs=1e-12)
    loss, gain = found.differences[LOSS], turned.differences[LOSS]
    assert loss.mean == pytest.approx(truth_of(values_PCM.mean(axis=0)))
    assert [gain.low, gain.high] == pytest.approx([-loss.high, -loss.low])
    values_PCM = np.repeat([[[0.5, 0.1], [0.5, 0.1], [0.5, 0.3]]], 20, axis=0)
    found = compared(values_PCM)  # beside itself
    assert (found.one, found.other, found.share, found.differences[LOSS].mean) == (1, 1, 0.0, 0.0)
    assert found.differences[LOSS].low < 0 < found.differences[LOSS].high, "of twenty prompts nothing is certain"
    assert compared(values_PCM * [1, -1] + [0, 1])
    for saved in (0.9, np.nan):  # out of reach, or unknown
        apart = values_PCM.copy()
        apart[:, 0, SAVED] = saved
        assert beside_best_mix(apart, SAVED, LOSS, KINDS, higher_is_better=False) is None
