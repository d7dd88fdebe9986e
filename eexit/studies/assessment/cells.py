"""Multiply-adds saved within a bound on the loss, in four cells on the same prompts, and the gain of fixing one thing.

A cell combines what decides exits with a KV cache: the oracle decides in A (exact KV cache) and B (the mode's), the
rule in C (exact) and D (the mode's). A has all exitable layers and loses nothing. Each other cell has two settings,
which a pilot selected on other prompts (`eexit.studies.replay.shortlist`): mixed over prompts and with full depth, they
lose the bound on average.

Intervals are quantiles of a Bayesian bootstrap over prompts (Rubin 1981); each draw has its own mixture. For one end,
one further prompt is lost by all settings, and for the other by none, as in the interval of Clopper and Pearson. In six
simulated worlds of 200 and 1,700 prompts, intervals cover the truth in 93 to 99 %.

Shapes: P prompts or groups, K draws of the bootstrap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.plan.configuration import NORMAL
from eexit.plan.runs import OK
from eexit.quality.estimates import MIN_SAMPLES, NOTHING, Estimate
from eexit.quality.intervals import LEVEL, TAILS
from eexit.quality.risks import RISKS, losses
from eexit.results.finished_sweep import FinishedSweep
from eexit.studies.replay.shortlist import CellSettings

A, B, C, D = CELLS = ("A", "B", "C", "D")
AS_RUN, CERTIFIED = "as run", "certified"  # further levels: D with all operations, and the certified setting
N_DRAWS: Final = 2000
COSTS: Final = ("macs_full", "macs_to_exit", "macs_executed")
Weights = Mapping[str, float]  # of levels in a sum
GAINS: Final[Mapping[str, Weights]] = {  # of fixing one thing alone
    "mode": {C: 1, D: -1},
    "knowledge": {B: 1, D: -1},
    "both": {A: 1, D: -1},
    "deciding": {D: 1, AS_RUN: -1},
    "proof": {AS_RUN: 1, CERTIFIED: -1},
}
COSTS_OF: Final[Mapping[str, Weights]] = {
    "mode alone": {A: 1, B: -1},
    "knowledge alone": {A: 1, C: -1},
    "mode on average": {A: 0.5, B: -0.5, C: 0.5, D: -0.5},
    "knowledge on average": {A: 0.5, C: -0.5, B: 0.5, D: -0.5},
}


class Shares(NamedTuple):
    """Shares of prompts with the safer and with the bolder setting; the rest has full depth."""

    safe: np.ndarray
    bold: np.ndarray

    @classmethod
    def at_bound(cls, safe_loss: np.ndarray, bold_loss: np.ndarray, max_risk: float) -> "Shares":
        """Return the largest share of the bolder setting within the bound; the safer one has the rest if it helps."""
        with np.errstate(divide="ignore", invalid="ignore"):
            between = (max_risk - safe_loss) / (bold_loss - safe_loss)
            safe_alone, bold_alone = max_risk / safe_loss, max_risk / bold_loss
        cases = [bold_loss <= max_risk, bold_loss <= safe_loss, safe_loss <= max_risk]
        safe = np.select(cases, [np.zeros_like(between), np.zeros_like(between), 1 - between], safe_alone)
        return cls(safe, np.select(cases, [np.ones_like(between), bold_alone, between], 0.0))


class PromptTable:
    """Loss and costs by setting and prompt, for prompts with a loss in all settings of several sweeps.

    A failed run saves nothing and loses 1.
    """

    def __init__(self, sweeps: Sequence[FinishedSweep], risk: str) -> None:
        runs = pa.concat_tables([sweep.runs_of_units for sweep in sweeps], promote_options="default")
        found = losses(RISKS[risk], runs)
        keys = [each["key"] for sweep in sweeps for each in sweep.manifest.configurations if each["rule"]]
        known_P = ~np.isnan(found.loss_PC[:, [found.configurations.index(key) for key in keys]]).any(axis=1)
        self.n = int(known_P.sum())
        self._loss = dict(zip(found.configurations, found.loss_PC[known_P].T, strict=True))
        done = runs.filter(pc.field("status") == OK).group_by(["unit", "configuration"])
        means = done.aggregate([(name, "mean") for name in COSTS]).to_pandas()
        columns = pd.MultiIndex.from_product([[f"{name}_mean" for name in COSTS], found.configurations])
        units = np.array(found.units, dtype=object)[known_P]
        costs = means.pivot(index="unit", columns="configuration").reindex(index=units, columns=columns)
        costs_3CP = costs.to_numpy(float).T.reshape(len(COSTS), -1, self.n)
        self._costs = {key: costs_3CP[:, place] for place, key in enumerate(found.configurations)}

    def lost(self, key: str | None) -> np.ndarray:
        """Return the loss of each prompt, (P,); None is full depth."""
        return np.zeros(self.n) if key is None else self._loss[key]

    def saved(self, key: str | None, cost: str = "macs_to_exit") -> np.ndarray:
        """Return values by prompt, (P,), whose mean is the share saved, 1 − Σ cost / Σ full.

        The values are those of the linearised ratio. Without a key, they are 0.
        """
        if key is None:
            return np.zeros(self.n)
        full_P, cost_P = self._costs[key][0], self._costs[key][COSTS.index(cost)]
        failed_P, normal_P = np.isnan(full_P) | np.isnan(cost_P), np.nan_to_num(self._costs[NORMAL][0])
        full_P, cost_P = np.where(failed_P, normal_P, full_P), np.where(failed_P, normal_P, cost_P)
        saved = 1 - cost_P.sum() / full_P.sum()
        linearised: np.ndarray = saved + (full_P - cost_P - saved * full_P) / full_P.mean()
        return linearised


@cache
def draw_weights(n: int) -> np.ndarray:
    """Return equal weights of n prompts, then K draws of weights of them and a further one, (K + 1, n + 1)."""
    drawn = np.random.default_rng(0).exponential(size=(N_DRAWS, n + 1))
    weights: np.ndarray = np.concatenate([np.append(np.ones(n), 0.0)[None], drawn])
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


@dataclass(frozen=True)
class Attribution:
    """The four cells at a bound, estimated on these prompts, and the certified setting, if any."""

    table: PromptTable
    settings: CellSettings
    max_risk: float
    certified: str | None

    def _mean(self, values_P: np.ndarray, further: float | None = None) -> np.ndarray:
        further = float(values_P.mean()) if further is None else further
        mean_K: np.ndarray = draw_weights(self.table.n) @ np.append(values_P, further)
        return mean_K

    @cached_property
    def _levels(self) -> Mapping[str, np.ndarray]:
        """Share saved by level in each draw of weights, (2, K + 1): a further prompt has no loss, or a loss of 1."""
        certified_K = self._mean(self.table.saved(self.certified, "macs_executed"))
        found = {CERTIFIED: np.stack([certified_K, certified_K])}
        for level in (*CELLS, AS_RUN):
            cell, cost = (D, "macs_executed") if level == AS_RUN else (level, "macs_to_exit")
            safe_K, bold_K = (self._mean(self.table.saved(key, cost)) for key in getattr(self.settings, cell))
            found[level] = self._shares[cell].safe * safe_K + self._shares[cell].bold * bold_K
        return found

    @cached_property
    def _shares(self) -> Mapping[str, Shares]:
        """Mixture of the two neighbours by cell in each draw of weights, (2, K + 1)."""
        lost_K, found = draw_weights(self.table.n)[:, -1], {}
        for cell, pair in self.settings._asdict().items():
            losing = (None, None) if cell == A else pair
            kept = [(self._mean(self.table.lost(key), 0.0), lost_K * (key is not None)) for key in losing]
            safe_2K, bold_2K = (np.stack([kept_K, kept_K + further_K]) for kept_K, further_K in kept)
            found[cell] = Shares.at_bound(safe_2K, bold_2K, self.max_risk)
        return found

    def mixture(self, cell: str) -> tuple[float, float, float]:
        """Return the shares of a cell's safer and bolder setting, and the mean loss of their mixture."""
        safe, bold = (float(share_2K[0, 0]) for share_2K in self._shares[cell])
        safe_loss, bold_loss = (float(self.table.lost(key).mean()) for key in getattr(self.settings, cell))
        return safe, bold, safe * safe_loss + bold * bold_loss

    def estimate(self, weights: Weights) -> Estimate:
        """Return a weighted sum of levels, as a share of full depth; fewer than `MIN_SAMPLES` prompts: no interval."""
        if not self.table.n:
            return NOTHING
        low_K, high_K = self._ends(weights)
        mean = float(low_K[0])
        if self.table.n < MIN_SAMPLES:
            return Estimate(mean, np.nan, np.nan, self.table.n)
        low, high = float(np.quantile(low_K[1:], TAILS[0])), float(np.quantile(high_K[1:], TAILS[1]))
        return Estimate(mean, min(low, mean), max(high, mean), self.table.n)

    def is_above(self, weights: Weights, value: float) -> bool:
        """Return True if a weighted sum of levels is above a value, at a one-sided error of 5 %."""
        return self.table.n >= MIN_SAMPLES and bool(np.quantile(self._ends(weights)[0][1:], 1 - LEVEL) > value)

    def _ends(self, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
        """Return both ends of a weighted sum of levels in each draw, (K + 1,); levels of the same losses share one."""
        groups: dict[str, np.ndarray] = {}
        for level, weight in weights.items():
            group = D if level == AS_RUN else level
            groups[group] = groups.get(group, np.zeros(1)) + weight * self._levels[level]
        by_group_G2K = np.stack([*groups.values()])
        return by_group_G2K.min(axis=1).sum(axis=0), by_group_G2K.max(axis=1).sum(axis=0)
