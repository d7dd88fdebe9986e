"""Runs paired by prompt and seed: differences of configurations, of one from another or from the best mix of others.

A mix draws one of two settings for each prompt, so its cost and quality are between theirs. A setting is compared with
the best mix, full depth included, that skips as many layers, costs as much or is as good (`eexit.quality.best_mix`).
Seeds of a prompt are averaged first, then prompts of a sampling unit. Intervals are over sampling units.

Shapes: N pairs of prompt and seed, P prompts or groups, X columns, C configurations, D compared ones, M measures.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from eexit.quality.best_mix import beside_best_mix
from eexit.quality.estimates import Estimate, ValueKind, estimate_columns, means_of_units
from eexit.results.configuration_means import LAYERS_SKIPPED, is_share, saved_share

CORRECT: Final = "correct"
DISAGREEMENT: Final = "disagreement"
RUN: Final = "run"  # the saved share of full depth's multiply-adds, of what was run
MATCHED: Final = (CORRECT, DISAGREEMENT, LAYERS_SKIPPED, RUN)  # the measures of a setting and a mix
EQUAL_LAYERS: Final = "equal layers skipped"
EQUAL_RUN: Final = "equal multiply-adds run"
EQUAL_QUALITY: Final = {CORRECT: "equal right answers", DISAGREEMENT: "equal disagreement"}
_IS_BETTER_HIGH: Final = {CORRECT: True, DISAGREEMENT: False, LAYERS_SKIPPED: True, RUN: True}


@dataclass(frozen=True)
class MatchCriterion:
    """Way to match a mix to a setting: among mixes equal in the measure `equal`, the best by `best_by`."""

    at: str
    equal: str
    best_by: str


def matchings(quality: str) -> tuple[MatchCriterion, ...]:
    """Return the three criteria for the best mix to compare a setting with.

    Two maximise quality, at equal skipped layers and at equal cost as run. One maximises skipped layers, at equal
    quality.
    """
    return (
        MatchCriterion(EQUAL_LAYERS, LAYERS_SKIPPED, quality),
        MatchCriterion(EQUAL_RUN, RUN, quality),
        MatchCriterion(EQUAL_QUALITY[quality], quality, LAYERS_SKIPPED),
    )


@dataclass(frozen=True)
class PairedNumbers:
    """Numbers of runs, (N, X, C), NaN where a run or its number is missing."""

    columns: Sequence[str]
    keys: Sequence[str]  # of the configurations
    index: pd.Index  # of the pairs: sampling unit, prompt and seed
    numbers_NXC: np.ndarray

    @classmethod
    def from_runs(
        cls, done: pd.DataFrame, columns: Sequence[str], keys: Sequence[str], same_for_every_seed: Collection[str]
    ) -> "PairedNumbers":
        """Return the numbers of runs without an error, which have their sampling unit in the column `unit`.

        `columns` may have the derived measures of `MATCHED`. A run that is the same for every seed, of the keys
        `same_for_every_seed`, is paired with each seed's run.
        """
        run, full, depth = (
            done[name].to_numpy(dtype=float, na_value=np.nan) for name in ("macs_executed", "macs_full", "mean_depth")
        )
        derived = {LAYERS_SKIPPED: 1 - depth, RUN: saved_share(run, np.where(full > 0, full, np.nan))}
        done = done.assign(**derived).astype(dict.fromkeys(columns, float))
        means = done.pivot_table([*columns], ["unit", "prompt_id", "seed"], "configuration", aggfunc="mean")
        means = means.reindex(columns=pd.MultiIndex.from_product([columns, keys]))
        of_fixed = means.columns.get_level_values(1).isin(same_for_every_seed)
        numbers = means.to_numpy(copy=True)
        numbers[:, of_fixed] = means.loc[:, of_fixed].groupby("prompt_id").transform("first")
        return cls(columns, keys, means.index, numbers.reshape(len(means), len(columns), len(keys)))

    def averaged(self, numbers_NXC: np.ndarray) -> np.ndarray:
        """Return means over the seeds and prompts of each sampling unit, (P, X, C)."""
        ids = (self.index.get_level_values(name).to_numpy() for name in ("prompt_id", "unit"))
        means = means_of_units(numbers_NXC.reshape(len(self.index), -1), *ids)
        return means.reshape(len(means), *numbers_NXC.shape[1:])

    def metrics(self, keys: Sequence[str]) -> "UnitMetrics":
        """Return the measures of `MATCHED` of these configurations, by sampling unit."""
        at_X, at_C = [self.columns.index(name) for name in MATCHED], [self.keys.index(key) for key in keys]
        values_PXC = self.averaged(self.numbers_NXC[:, at_X][:, :, at_C])
        return UnitMetrics([*keys], values_PXC.transpose(0, 2, 1))

    def differences(self, keys: Sequence[str], baseline: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the differences of configurations from `baseline`: run by run, (N, X, D), and by unit, (P, X, D)."""
        compared = [self.keys.index(key) for key in keys]
        differences_NXD = self.numbers_NXC[:, :, compared] - self.numbers_NXC[:, :, [self.keys.index(baseline)]]
        return differences_NXD, self.averaged(differences_NXD)

    def estimated(self, means_PXD: np.ndarray) -> list[dict[str, Estimate]]:
        """Return the estimate of each column, for each compared configuration."""
        n_compared = means_PXD.shape[2]
        kinds = [_kind_of(name) for name in self.columns for _ in range(n_compared)]
        found = estimate_columns(means_PXD.reshape(len(means_PXD), -1), kinds)
        return [dict(zip(self.columns, found[at::n_compared], strict=True)) for at in range(n_compared)]


def _kind_of(name: str) -> ValueKind:
    return ValueKind.DIFFERENCE if is_share(name) else ValueKind.NUMBER


_KINDS: Final = [*map(_kind_of, MATCHED)]


@dataclass(frozen=True)
class UnitMetrics:
    """Measures of `MATCHED` of each configuration by sampling unit, (P, C, M), seeds averaged."""

    keys: list[str]
    values_PCM: np.ndarray

    def of_keys(self, keys: Sequence[str]) -> np.ndarray:
        """Return the values of these configurations, (P, C, M)."""
        return self.values_PCM[:, [self.keys.index(key) for key in keys]]

    def estimated(self, differences_PM: np.ndarray) -> dict[str, float]:
        """Return the columns of estimated mean differences."""
        return columns_of(estimate_columns(differences_PM, _KINDS))

    def matched(self, key: str, points: Sequence[str], only: Collection[str] = ()) -> Iterator["MatchedMix"]:
        """Yield the best mix of two of `points` for each criterion that a mix meets.

        `only` has the measures to hold equal, by default those of all criteria.
        """
        has_answers = not np.isnan(self.of_keys([key])[:, 0, MATCHED.index(CORRECT)]).all()
        values_PCM, keys = self.of_keys([key, *points]), [key, *points]
        for matching in matchings(CORRECT if has_answers else DISAGREEMENT):
            if only and matching.equal not in only:
                continue
            at = MATCHED.index(matching.equal), MATCHED.index(matching.best_by)
            found = beside_best_mix(values_PCM, *at, _KINDS, _IS_BETTER_HIGH[matching.best_by])
            if found:
                mix = _mix_words(keys[found.one], keys[found.other], found.share)
                yield MatchedMix(matching, mix, found.differences)


@dataclass(frozen=True)
class MatchedMix:
    """The best mix by a criterion, in words, and the setting's differences from it, in the order of `MATCHED`."""

    matching: MatchCriterion
    mix: str
    differences: Sequence[Estimate]

    @property
    def columns(self) -> dict[str, Any]:
        """Columns of the criterion, of the mix and of the differences."""
        return asdict(self.matching) | {"mix": self.mix} | columns_of(self.differences)


def columns_of(estimates: Iterable[Estimate]) -> dict[str, float]:
    """Return the columns of estimates in the order of `MATCHED`."""
    named = zip(MATCHED, estimates, strict=True)
    return {column: number for name, each in named for column, number in each.columns(name).items()}


def _mix_words(one: str, other: str, share: float) -> str:
    parts = [(key, part) for key, part in ((one, 1 - share), (other, share)) if round(100 * part)]
    if len(parts) == 1:
        return parts[0][0]
    return " + ".join(f"{100 * part:.0f}% {key}" for key, part in parts)
