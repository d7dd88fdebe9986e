"""What the ledger is made of, prompt by prompt: costs, exits and losses of a sweep's configurations, and draws of them.

What exits save by themselves is priced by the first step, in which all tokens exit at one layer and leave nothing to
write. Draws of prompts are the same for all configurations of all sweeps of these prompts.

Shapes: P prompts or groups of them, D draws, G exitable layers and then the final one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from eexit.plan.splits import units
from eexit.quality.risks import RISKS, Losses, losses
from eexit.studies.assessment.ledger import Option, Proven
from eexit.studies.assessment.tables import SweepFigures
from eexit.studies.assessment.verdict import Contender
from eexit.studies.timing.steps import StepTimes

N_DRAWS = 400


@dataclass(frozen=True)
class PromptFigures:
    """Those of a finished sweep. `saved_G` is what a token saves that exits at each layer."""

    figures: SweepFigures
    saved_G: Sequence[float]
    risk: str

    @cached_property
    def _unit_of(self) -> Mapping[str, str]:
        return units(self.figures.sweep.manifest.config["prompts"])

    @cached_property
    def _losses(self) -> Losses:
        runs = self.figures.sweep.runs
        unit = [self._unit_of[each] for each in runs["prompt_id"].to_pylist()]
        runs = runs.append_column("unit", pa.array(unit, pa.string()))
        return losses(RISKS[self.risk], runs.append_column("draw", runs["seed"].cast(pa.string())))

    @cached_property
    def _weight_DP(self) -> np.ndarray:
        """How often each prompt counts: once, and then as often as it is drawn."""
        n = len(self._losses.units)
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), N_DRAWS)
        return np.concatenate([np.ones((1, n)), drawn])

    def option(self, key: str) -> Option:
        full_P, run_P, exits_PG = self._sums(key)
        exits_P1 = exits_PG.sum(1, keepdims=True)
        share_PG = np.divide(exits_PG, exits_P1, out=np.zeros_like(exits_PG), where=exits_P1 > 0)
        saved_D = self._ratio(full_P * (share_PG @ np.array(self.saved_G)), full_P)
        loss_P = self._losses.loss_PC[:, self._losses.configurations.index(key)]
        known_P = ~np.isnan(loss_P)
        loss_D = self._ratio(np.where(known_P, loss_P, 0.0), known_P)
        return Option(key, saved_D, 1 - self._ratio(run_P, full_P), loss_D, int(known_P.sum()))

    def options(self, keys: Sequence[str]) -> list[Option]:
        """Of those of these configurations that have runs."""
        return [self.option(key) for key in keys if key in self.figures.by_key]

    def proven(self, setting: Contender, steps: StepTimes | None) -> Proven:
        """A certified setting, with what steps allow its exits by batch size."""
        _, _, exits_PG = self._sums(setting.key)
        share_DG = self._weight_DP @ exits_PG
        share_DG /= share_DG.sum(1, keepdims=True)
        allowed = {
            batch: np.array([steps.independent(batch, share_G) for share_G in share_DG])
            for batch in setting.times
            if steps and batch in steps.seconds
        }
        return Proven(self.option(setting.key), allowed, setting.times)

    def _sums(self, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The multiply-adds of each prompt's runs at full depth and as run, (P,), and their exits by layer, (P, G)."""
        at, layers_G = {unit: at for at, unit in enumerate(self._losses.units)}, self.figures.layers_G
        full_P, run_P = np.zeros(len(at)), np.zeros(len(at))
        exits_PG = np.zeros((len(at), len(layers_G)))
        for row in self.figures.by_key[key]:
            unit = at[self._unit_of[row["prompt_id"]]]
            full_P[unit] += row["cost_full"]
            run_P[unit] += math.nan if row["cost_run"] is None else row["cost_run"]
            for layer, n in row["exit_layer_counts"]:
                exits_PG[unit, layers_G.index(layer)] += n
        return full_P, run_P, exits_PG

    def _ratio(self, above_P: np.ndarray, below_P: np.ndarray) -> np.ndarray:
        """Of sums over the prompts of each draw, (D,)."""
        below_D = self._weight_DP @ below_P
        ratio_D = np.full_like(below_D, np.nan)
        np.divide(self._weight_DP @ above_P, below_D, out=ratio_D, where=below_D > 0)
        return ratio_D
