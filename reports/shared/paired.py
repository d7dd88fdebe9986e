"""Paired differences of configurations on the same prompts and seeds."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd

from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import ValueKind, estimate_columns, means_of_units
from eexit.quality.intervals import mcnemar
from eexit.results.configuration_means import exponential, is_share, saved_share
from reports.read.sweep import Sweep
from reports.shared.measures import CORRECT, PERPLEXITY, RUN, SKIPPED
from reports.shared.per_configuration import naming

DIFFERENCES: Final = (
    "perplexity",
    "exit_rate",
    "mean_depth",
    "disagreement",
    "distinct_2",
    "longest_loop",
    "n_tokens",
)
GAINED, LOST, P_VALUE = "_gained", "_lost", "_p"  # suffixes of columns that go with an accuracy's difference


@dataclass(frozen=True)
class PairedRuns:
    """Numbers of runs: N pairs of prompt and seed × X columns × C configurations."""

    sweep: Sweep
    columns: list[str]
    index: pd.Index  # of the pairs: sampling unit, prompt and seed
    numbers_NXC: np.ndarray

    @classmethod
    def from_sweep(cls, sweep: Sweep) -> "PairedRuns":
        """Return the paired runs of a sweep. A run that is the same for every seed is paired with each seed's run."""
        columns = ["log_perplexity", *DIFFERENCES[1:], SKIPPED, RUN, CORRECT, *sweep.extra]
        keys = [configuration.key for configuration in sweep.configurations]
        names = ("macs_executed", "macs_full", "mean_depth")
        run, full, depth = (sweep.done[name].to_numpy(dtype=float, na_value=np.nan) for name in names)
        derived: dict[str, np.ndarray] = {SKIPPED: 1 - depth, RUN: saved_share(run, np.where(full > 0, full, np.nan))}
        done = sweep.done.assign(**derived)
        done = done.astype(dict.fromkeys(columns, float))
        means = done.pivot_table(columns, ["unit", "prompt_id", "seed"], "configuration", aggfunc="mean")
        means = means.reindex(columns=pd.MultiIndex.from_product([columns, keys]))
        of_fixed = means.columns.get_level_values(1).isin(sweep.same_for_every_seed)
        numbers = means.to_numpy(copy=True)
        numbers[:, of_fixed] = means.loc[:, of_fixed].groupby("prompt_id").transform("first")
        return cls(sweep, columns, means.index, numbers.reshape(len(means), len(columns), len(keys)))

    @cached_property
    def committed(self) -> list[str]:
        """The configurations with a run that did not fail, in the sweep's order."""
        landed = set(self.sweep.done["configuration"])
        return [configuration.key for configuration in self.sweep.configurations if configuration.key in landed]

    def of_units(self, columns: Sequence[str]) -> np.ndarray:
        """Return the means over seeds, (P prompts or groups, configurations, these columns)."""
        keys = [configuration.key for configuration in self.sweep.configurations]
        at_X, at_C = [self.columns.index(name) for name in columns], [keys.index(key) for key in self.committed]
        return self._averaged(self.numbers_NXC[:, at_X][:, :, at_C]).transpose(0, 2, 1)

    def _averaged(self, numbers_NXC: np.ndarray) -> np.ndarray:
        """Return means over the seeds and prompts of each sampling unit."""
        ids = (self.index.get_level_values(name).to_numpy() for name in ("prompt_id", "unit"))
        means = means_of_units(numbers_NXC.reshape(len(self.index), -1), *ids)
        return means.reshape(len(means), *numbers_NXC.shape[1:])

    def differences(self, baseline: str = NORMAL, only: Collection[str] | None = None) -> pd.DataFrame:
        """Return the paired differences of each configuration, or of the keys `only`, from configuration `baseline`.

        Perplexities are compared by their ratio. The other columns are compared by their difference: DIFFERENCES,
        layers skipped, multiply-adds saved, accuracy and scores. A prompt's difference is the mean over its seeds;
        `n_seeds` is the number of seeds with any. The frame is empty if `baseline` has no run.
        """
        sweep, columns = self.sweep, self.columns
        keys = [configuration.key for configuration in sweep.configurations]
        compared = [at for at, key in enumerate(keys) if key != baseline and (only is None or key in only)]
        if not compared or baseline not in self.committed:
            return pd.DataFrame()
        # D configurations are compared with the baseline, over P prompts or groups.
        differences_NXD = self.numbers_NXC[:, :, compared] - self.numbers_NXC[:, :, [keys.index(baseline)]]
        means_PXD = self._averaged(differences_NXD)
        kinds = [ValueKind.DIFFERENCE if is_share(name) else ValueKind.NUMBER for name in columns for _ in compared]
        found = estimate_columns(means_PXD.reshape(len(means_PXD), -1), kinds)
        paired_ND = ~np.isnan(differences_NXD).all(axis=1)
        seed_N = self.index.get_level_values("seed")
        fixed, marked = sweep.same_for_every_seed, sweep.marked
        rows = []
        for number, index in enumerate(compared):
            of = dict(zip(columns, found[number :: len(compared)], strict=True))
            n = max(estimate.n for estimate in of.values())
            if n:
                row = naming(sweep.configurations[index], marked) | {"baseline": baseline, "n": int(n)}
                row["n_seeds"] = 1 if {keys[index], baseline} <= fixed else seed_N[paired_ND[:, number]].nunique()
                row |= exponential(of["log_perplexity"]).columns(PERPLEXITY)
                for name in columns[1:]:
                    row |= of[name].columns(name)
                if sweep.has_answers:
                    of_prompts = means_PXD[:, columns.index(CORRECT), number]
                    row |= _gains(of_prompts[~np.isnan(of_prompts)])
                rows.append(row)
        return pd.DataFrame(rows)


def _gains(differences: np.ndarray) -> dict[str, float]:
    """Return how many prompts only this configuration or only the baseline has right, and McNemar's exact p-value.

    Seeds, and prompts of a group, count as fractions of one. Where there are fractions, the p-value is NaN.
    """
    gained, lost = np.maximum(differences, 0).sum(), np.abs(np.minimum(differences, 0)).sum()
    is_whole = bool(np.isin(differences, (-1, 0, 1)).all())
    p_value = mcnemar(int(gained), int(lost)) if is_whole and len(differences) else math.nan
    return {f"{CORRECT}{GAINED}": gained, f"{CORRECT}{LOST}": lost, f"{CORRECT}{P_VALUE}": p_value}
