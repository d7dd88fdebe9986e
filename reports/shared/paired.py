"""Paired differences of configurations on the same prompts and seeds."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd

from eexit.plan.configuration import NORMAL
from eexit.quality.intervals import mcnemar
from eexit.results.configuration_means import exponential
from eexit.results.paired_runs import PairedNumbers
from reports.read.sweep import Sweep
from reports.shared.measures import CORRECT, PERPLEXITY, RUN, SKIPPED
from reports.shared.per_configuration import naming

DIFFERENCES: Final = (
    PERPLEXITY, "exit_rate", "mean_depth", "disagreement", "distinct_2", "longest_loop", "n_tokens",
)  # fmt: skip
GAINED, LOST, P_VALUE = "_gained", "_lost", "_p"  # suffixes of columns that go with an accuracy's difference


@dataclass(frozen=True)
class PairedRuns:
    """Paired runs of a sweep: its configurations' numbers by pair of prompt and seed."""

    sweep: Sweep
    numbers: PairedNumbers

    @classmethod
    def from_sweep(cls, sweep: Sweep) -> "PairedRuns":
        """Return the paired runs of a sweep. A run that is the same for every seed is paired with each seed's run."""
        columns = ["log_perplexity", *DIFFERENCES[1:], SKIPPED, RUN, CORRECT, *sweep.extra]
        keys = [configuration.key for configuration in sweep.configurations]
        return cls(sweep, PairedNumbers.from_runs(sweep.done, columns, keys, sweep.same_for_every_seed))

    @cached_property
    def committed(self) -> list[str]:
        """The configurations with a run that did not fail, in the sweep's order."""
        landed = set(self.sweep.done["configuration"])
        return [key for key in self.numbers.keys if key in landed]

    def differences(self, baseline: str = NORMAL, only: Collection[str] | None = None) -> pd.DataFrame:
        """Return the paired differences of each configuration, or of the keys `only`, from configuration `baseline`.

        Perplexities are compared by their ratio. The other columns are compared by their difference: DIFFERENCES,
        layers skipped, multiply-adds saved, accuracy and scores. A prompt's difference is the mean over its seeds;
        `n_seeds` is the number of seeds with any. The frame is empty if `baseline` has no run.
        """
        sweep, numbers = self.sweep, self.numbers
        compared = [key for key in numbers.keys if key != baseline and (only is None or key in only)]
        if not compared or baseline not in self.committed:
            return pd.DataFrame()
        # D configurations are compared with the baseline, over P prompts or groups.
        differences_NXD, means_PXD = numbers.differences(compared, baseline)
        paired_ND = ~np.isnan(differences_NXD).all(axis=1)
        seed_N = numbers.index.get_level_values("seed")
        fixed, named = sweep.same_for_every_seed, {each.key: each for each in sweep.configurations}
        rows = []
        for at, (key, of) in enumerate(zip(compared, numbers.estimated(means_PXD), strict=True)):
            n = max(estimate.n for estimate in of.values())
            if n:
                row = naming(named[key], sweep.marked) | {"baseline": baseline, "n": int(n)}
                row["n_seeds"] = 1 if {key, baseline} <= fixed else seed_N[paired_ND[:, at]].nunique()
                row |= exponential(of["log_perplexity"]).columns(PERPLEXITY)
                for name in numbers.columns[1:]:
                    row |= of[name].columns(name)
                if sweep.has_answers:
                    of_prompts = means_PXD[:, numbers.columns.index(CORRECT), at]
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
