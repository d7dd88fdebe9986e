"""Four cells, and what fixing one thing gains: what exits save at a bound on what they lose, on the same prompts.

======================================  ==================  ================
saved, if deciding were free            the oracle decides  the rule decides
======================================  ==================  ================
exact KV cache                          A                   C
the KV cache that the mode leaves       B                   D
======================================  ==================  ================

A is the oracle at all exitable layers, which loses nothing. Each other cell has two neighbouring settings that a pilot
picked on other prompts (`eexit.studies.replay.shortlist`). Prompts are shared out among both and full depth by
chance, so that the mean loss is the bound: as many as the bound allows have the bolder setting, the others the safer.

Intervals are quantiles of a Bayesian bootstrap over prompts (Rubin 1981), in which the shares are found anew in each
draw. One further prompt is lost by all settings for one end and by none for the other, as in the interval of Clopper
and Pearson, which a share without any loss has too. In six worlds of 200 and 1,700 prompts, they cover 93 to 99 %.

Shapes: P prompts or groups, K draws of the bootstrap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eexit.plan.configuration import NORMAL
from eexit.plan.runs import OK
from eexit.quality.estimates import MIN_SAMPLES, NOTHING, Estimate, estimate_ratios
from eexit.quality.intervals import LEVEL, TAILS
from eexit.quality.risks import RISKS, losses
from eexit.results.finished_sweep import FinishedSweep
from eexit.studies.replay.shortlist import CellSettings, Neighbours

A, B, C, D = CELLS = ("A", "B", "C", "D")
AS_RUN, CERTIFIED = "as run", "certified"  # further levels: D with all that it runs, and what is certified
N_DRAWS: Final = 2000
COSTS: Final = ("macs_full", "macs_to_exit", "macs_executed")
Weights = Mapping[str, float]  # of levels in a sum


class Shares(NamedTuple):
    """Which share of the prompts has which neighbour; full depth has the others."""

    safe: np.ndarray
    bold: np.ndarray

    @classmethod
    def at_bound(cls, safe_loss: np.ndarray, bold_loss: np.ndarray, max_risk: float) -> "Shares":
        """As many prompts as the bound allows have the bolder setting, the others the safer one or, where it loses more
        than the bound or than the bolder one, full depth.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            between, alone = (
                (max_risk - safe_loss) / (bold_loss - safe_loss),
                max_risk / np.stack([safe_loss, bold_loss]),
            )
        is_safer, fits = safe_loss < bold_loss, bold_loss <= max_risk
        bold = np.where(fits, 1.0, np.where(is_safer, np.where(safe_loss <= max_risk, between, 0.0), alone[1]))
        safe = np.where(fits | ~is_safer, 0.0, np.where(safe_loss <= max_risk, 1 - between, alone[0]))
        return cls(safe, bold)


class PromptTable:
    """What each setting saves and loses, prompt by prompt, of sweeps of the same prompts, one of which has `normal`.

    Prompts without a loss under some setting are left out. A failed run saves nothing and loses 1.
    """

    def __init__(self, sweeps: Sequence[FinishedSweep], risk: str) -> None:
        runs = pa.concat_tables([sweep.runs_of_units for sweep in sweeps], promote_options="default")
        found = losses(RISKS[risk], runs)
        self.keys = [each["key"] for sweep in sweeps for each in sweep.manifest.configurations if each["rule"]]
        known_P = ~np.isnan(found.loss_PC[:, [found.configurations.index(key) for key in self.keys]]).any(axis=1)
        self._loss = dict(zip(found.configurations, found.loss_PC[known_P].T, strict=True))
        at = {unit: place for place, unit in enumerate(np.array(found.units, dtype=object)[known_P])}
        self.n = len(at)
        costs_CNP = np.full((len(found.configurations), len(COSTS), self.n + 1), np.nan)  # last: of no prompt
        done = runs.filter(pc.field("status") == OK).group_by(["configuration", "unit"])
        means = done.aggregate([(name, "mean") for name in COSTS])
        places = [at.get(unit, self.n) for unit in means["unit"].to_pylist()]
        rows = [found.configurations.index(key) for key in means["configuration"].to_pylist()]
        for number, name in enumerate(COSTS):
            costs_CNP[rows, number, places] = means[f"{name}_mean"].cast("float64").to_numpy()
        self._costs = dict(zip(found.configurations, costs_CNP[:, :, :-1], strict=True))

    def lost(self, key: str | None) -> np.ndarray:
        """The loss of each prompt, (P,); none at full depth."""
        return np.zeros(self.n) if key is None else self._loss[key]

    def saved(self, key: str | None, cost: str = "macs_to_exit") -> np.ndarray:
        """A value for each prompt, (P,), whose mean is the share saved, 1 − Σ cost / Σ full: the linearised ratio."""
        if key is None:
            return np.zeros(self.n)
        full_P, cost_P = self._costs[key][0], self._costs[key][COSTS.index(cost)]
        failed_P, normal_P = np.isnan(full_P) | np.isnan(cost_P), np.nan_to_num(self._costs[NORMAL][0])
        full_P, cost_P = np.where(failed_P, normal_P, full_P), np.where(failed_P, normal_P, cost_P)
        saved = 1 - cost_P.sum() / full_P.sum()
        linearised: np.ndarray = saved + (full_P - cost_P - saved * full_P) / full_P.mean()
        return linearised

    def saved_as_run(self, key: str) -> Estimate:
        """The share saved by what was run, over runs without an error."""
        full_P, _, run_P = self._costs[key]
        return estimate_ratios(run_P[:, None], full_P[:, None])[0].complement


@cache
def draw_weights(n: int) -> np.ndarray:
    """Return the weights of n prompts in each draw, and last of one further prompt, (K, n + 1): they sum to one. The
    first row is without chance: all prompts alike, and none more.
    """
    drawn = np.random.default_rng(0).exponential(size=(N_DRAWS, n + 1))
    weights: np.ndarray = np.concatenate([np.append(np.ones(n), 0.0)[None], drawn])
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


@dataclass(frozen=True)
class Attribution:
    """The cells on these prompts at this bound, and the certified setting, if there is one."""

    table: PromptTable
    settings: CellSettings
    max_risk: float
    certified: str | None

    def _mean(self, values_P: np.ndarray, further: float | None = None) -> np.ndarray:
        """The mean in each draw, (K,), if the further prompt has this value: the mean, if none is given."""
        weights_KP = draw_weights(self.table.n)
        further = float(values_P.mean()) if further is None else further
        mean_K: np.ndarray = weights_KP[:, :-1] @ values_P + weights_KP[:, -1] * further
        return mean_K

    @cached_property
    def _levels(self) -> Mapping[str, np.ndarray]:
        """What is saved in each draw if the further prompt is kept or lost, (2, K)."""
        saved_K = self._mean(self.table.saved(self.settings.A))
        found = {A: np.stack([saved_K, saved_K])}
        for name, costs in ((B, ("macs_to_exit",)), (C, ("macs_to_exit",)), (D, ("macs_to_exit", "macs_executed"))):
            pair, shares = self.pair(name), self._shares[name]
            for level, cost in zip((name, AS_RUN), costs, strict=False):
                safe_K, bold_K = (self._mean(self.table.saved(key, cost)) for key in pair)
                found[level] = shares.safe * safe_K + shares.bold * bold_K
        run_K = self._mean(self.table.saved(self.certified, "macs_executed"))
        return found | {CERTIFIED: np.stack([run_K, run_K])}

    @cached_property
    def _shares(self) -> Mapping[str, Shares]:
        """The shares of each cell with two settings in each draw if the further prompt is kept or lost, (2, K)."""
        lost_K, found = draw_weights(self.table.n)[:, -1], {}
        for name in (B, C, D):
            safe, bold = self.pair(name)
            kept_K = [self._mean(self.table.lost(key), 0.0) for key in (safe, bold)]
            safe_2K, bold_2K = (
                np.stack([each, each + lost_K * (key is not None)])
                for each, key in zip(kept_K, (safe, bold), strict=True)
            )
            found[name] = Shares.at_bound(safe_2K, bold_2K, self.max_risk)
        return found

    def pair(self, cell: str) -> Neighbours:
        """The two settings of a cell."""
        found: Neighbours = getattr(self.settings, cell)
        return found

    def mixture(self, cell: str) -> tuple[float, float, float]:
        """The shares of the safer and of the bolder setting, and what is lost of all prompts."""
        if cell == A:
            return 0.0, 1.0, float(self.table.lost(self.settings.A).mean())
        shares, pair = self._shares[cell], self.pair(cell)
        safe, bold = float(shares.safe[0, 0]), float(shares.bold[0, 0])
        return safe, bold, float(safe * self.table.lost(pair.safe).mean() + bold * self.table.lost(pair.bold).mean())

    def estimate(self, weights: Weights) -> Estimate:
        """A weighted sum of levels, shares of full depth's multiply-adds; no interval below `MIN_SAMPLES` prompts.

        Levels of the same settings depend on the same losses: each such group counts at its end.
        """
        if not self.table.n:
            return NOTHING
        low_K, high_K = self._ends(weights)
        mean = float(low_K[0])
        if self.table.n < MIN_SAMPLES:
            return Estimate(mean, np.nan, np.nan, self.table.n)
        low, high = float(np.quantile(low_K[1:], TAILS[0])), float(np.quantile(high_K[1:], TAILS[1]))
        return Estimate(mean, min(low, mean), max(high, mean), self.table.n)

    def is_above(self, weights: Weights, value: float) -> bool:
        """True if a sum of levels is above a value, with an error of 5 %."""
        return self.table.n >= MIN_SAMPLES and bool(np.quantile(self._ends(weights)[0][1:], 1 - LEVEL) > value)

    def _ends(self, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
        """A sum of levels in each draw at its lower and at its upper end, (K,) each; the first without chance."""
        groups: dict[str, np.ndarray] = {}
        for level, weight in weights.items():
            group = D if level == AS_RUN else level
            groups[group] = groups.get(group, np.zeros(1)) + weight * self._levels[level]
        by_group_G2K = np.stack([*groups.values()])
        return by_group_G2K.min(axis=1).sum(axis=0), by_group_G2K.max(axis=1).sum(axis=0)
