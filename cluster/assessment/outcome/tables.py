"""What the tables of a step of an assessment say of configurations: costs, exits and times, and losses by prompt.

What exits save by themselves is priced by the first step, in which all tokens exit at one layer and leave nothing to
write. Draws of prompts are the same for all configurations of all sweeps of these prompts.

Shapes: G exitable layers and then the final one, P prompts or groups of them, D draws.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from cluster.assessment.asked import READS_KEY
from cluster.assessment.front import head_in_layers, price_of_head
from cluster.assessment.outcome.ledger import Option, Proven
from cluster.assessment.outcome.verdict import Contender, Loss
from cluster.assessment.parts import ANSWERS, DISAGREEMENT
from eexit.decode.costs.counting import COSTS, LOOKS
from eexit.plan.config import screen_size
from eexit.plan.configuration import GENERATE, NORMAL
from eexit.quality.estimates import NOTHING, Estimate
from eexit.quality.per_right import COLUMNS as OF_RIGHT
from eexit.quality.per_right import COST_RUN
from eexit.quality.risks import RISKS, Losses, losses, numbers
from eexit.results.finished_sweep import FinishedSweep, read_finished
from eexit.results.means import saved
from eexit.studies.other_models import KNOWN, cost_at, full_cost_at
from eexit.studies.timing.speedups import speedups_of
from eexit.studies.timing.steps import StepTimes, step_times

PRICED: Final = ("layers_run", "keys_written", *LOOKS)
OF_RISKS: Final = tuple(RISKS[risk].column for risk in (ANSWERS, DISAGREEMENT))
OF_RUNS: Final = ("prompt_id", "prompt", "configuration", "seed", "status", "n_tokens", "exit_layer_counts")
N_DRAWS: Final = 400  # of prompts, for intervals
COLUMNS: Final = tuple(dict.fromkeys((*OF_RUNS, *COSTS, *PRICED, *OF_RISKS, *OF_RIGHT)))

Row = Mapping[str, Any]


def read_step(results: str) -> FinishedSweep:
    """The sweep of a step, with the columns that are judged."""
    return read_finished(results, COLUMNS)


def latest_timing(sweep: FinishedSweep, key: str) -> Sequence[Row]:
    """The rows of the latest timing in which this configuration was timed, beside all others in it."""
    latest = next((row["timing_id"] for row in reversed(sweep.timings) if row["configuration"] == key), None)
    return [row for row in sweep.timings if row["timing_id"] == latest]


def saved_share(sweep: FinishedSweep, key: str, cost: str) -> float:
    """The share of full depth's multiply-adds, over all runs; NaN where it is not known."""
    share = sweep.saved(key, cost)
    return math.nan if share is None else share


def times(sweep: FinishedSweep, key: str, beside: str = NORMAL) -> dict[int, Estimate]:
    """A configuration's time as a multiple of that of `beside`, by batch size, with its interval."""
    return {
        each.batch: Estimate(1 / each.ratio.mean, 1 / each.ratio.high, 1 / each.ratio.low, each.ratio.n)
        for each in speedups_of(sweep.timings, key, beside)
    }


def saved_at_prices(sweep: FinishedSweep, key: str, model: str) -> float:
    """Saved by what was run, at the prices of another model."""
    known = [row for row in sweep.done.get(key, ()) if all(row[name] is not None for name in PRICED)]
    if not known:
        return math.nan
    counts = {name: np.array([row[name] for row in known], dtype=float) for name in PRICED}
    n_decided = np.array([row["n_tokens"] - 1 for row in known], dtype=float)
    screen, shapes = screen_size(sweep.manifest.config["decide_on"]), KNOWN[model]
    full = float(full_cost_at(shapes, n_decided).sum())
    return saved(float(cost_at(shapes, counts, sweep.n_layers, screen).sum()), full) if full else math.nan


def contender_of(sweep: FinishedSweep, key: str, role: str, steps: StepTimes | None) -> Contender:
    """What is known of a configuration but its losses and accuracy."""
    return Contender(
        key,
        role,
        saved_share(sweep, key, "cost_needed"),
        saved_share(sweep, key, "cost_run"),
        allowed(steps, sweep.exit_share_G(key)),
        times(sweep, key),
        of_generate=times(sweep, key, GENERATE),
        per_right=sweep.per_right[key][COST_RUN].beside_normal if key in sweep.per_right else NOTHING,
    )


@dataclass(frozen=True)
class FirstLook:
    """What the first step measured: the sweep of exits of all tokens at each layer, and T(rows, layers)."""

    sweep: FinishedSweep

    @cached_property
    def steps(self) -> StepTimes | None:
        return step_times(latest_timing(self.sweep, READS_KEY), self.sweep.n_layers)

    @cached_property
    def saved_at(self) -> Mapping[int, float]:
        """What a token saves of the multiply-adds that exits at a layer, if deciding is free and nothing is written."""
        keys = {int(float(key.rpartition("/")[2])): key for key in self.sweep.done if "/fixed/" in key}
        saved = {layer: saved_share(self.sweep, key, "cost_needed") for layer, key in keys.items()}
        return {**saved, self.sweep.n_layers - 1: 0.0}

    @cached_property
    def head(self) -> float:
        """A read of the head as a share of full depth's multiply-adds."""
        n_layers = self.sweep.n_layers
        costs = [((layer + 1) / n_layers, 1 - saved) for layer, saved in self.saved_at.items() if layer < n_layers - 1]
        return price_of_head([pair for pair in costs if math.isfinite(pair[1])])

    @property
    def head_in_layers(self) -> float:
        return head_in_layers(self.head, self.sweep.n_layers)

    @property
    def possible(self) -> float:
        """Saved of the multiply-adds if all tokens left at the first exitable layer."""
        return max((share for share in self.saved_at.values() if math.isfinite(share)), default=math.nan)

    def seconds(self, key: str, batch: int) -> float:
        """Of a step, the median over rounds; NaN if it was not timed."""
        rows = [row for row in latest_timing(self.sweep, key) if row["configuration"] == key and row["batch"] == batch]
        return float(np.median([row["seconds"] * batch / row["tokens"] for row in rows])) if rows else math.nan


@dataclass(frozen=True)
class PromptFigures:
    """Losses and savings of a sweep, prompt by prompt; `saved_G` is what a token saves by an exit at each layer."""

    sweep: FinishedSweep
    saved_G: Sequence[float]
    risk: str

    @cached_property
    def _losses(self) -> Losses:
        return losses(RISKS[self.risk], self.sweep.runs_of_units)

    def loss(self, key: str) -> Loss:
        """The mean loss of a configuration."""
        loss_P = self._losses.of(key)
        return Loss(float(loss_P.mean()) if len(loss_P) else math.inf, len(loss_P))

    def loss_of_right(self, key: str) -> Loss | None:
        """The mean loss among the prompts that full depth gets right; None where answers are not the risk."""
        correct = numbers(RISKS[ANSWERS].column, self.sweep.runs_of_units)
        if self.risk != ANSWERS or NORMAL not in correct.configurations:
            return None
        right_P = np.nan_to_num(correct.loss_PC[:, correct.configurations.index(NORMAL)]) > 0
        loss_P = self._losses.loss_PC[right_P, self._losses.configurations.index(key)]
        loss_P = loss_P[~np.isnan(loss_P)]
        return Loss(float(loss_P.mean()), len(loss_P)) if len(loss_P) else None

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
        return [self.option(key) for key in keys if key in self.sweep.done]

    def proven(self, setting: Contender, steps: StepTimes | None) -> Proven:
        """A certified setting, with what steps allow its exits by batch size."""
        _, _, exits_PG = self._sums(setting.key)
        share_DG = self._weight_DP @ exits_PG
        share_DG /= share_DG.sum(1, keepdims=True)
        allowed = {
            batch: np.array([steps.allowed(batch, share_G) for share_G in share_DG])
            for batch in setting.times
            if steps and batch in steps.seconds
        }
        return Proven(self.option(setting.key), allowed, setting.times)

    def _sums(self, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The multiply-adds of each prompt's runs at full depth and as run, (P,), and their exits by layer, (P, G)."""
        at, layers_G = {unit: at for at, unit in enumerate(self._losses.units)}, self.sweep.exit_layers_G
        full_P, run_P = np.zeros(len(at)), np.zeros(len(at))
        exits_PG = np.zeros((len(at), len(layers_G)))
        for row in self.sweep.done[key]:
            unit = at[self.sweep.unit_of[row["prompt_id"]]]
            full_P[unit] += row["cost_full"]
            run_P[unit] += math.nan if row["cost_run"] is None else row["cost_run"]
            for layer, n in row["exit_layer_counts"]:
                exits_PG[unit, layers_G.index(layer)] += n
        return full_P, run_P, exits_PG

    def _ratio(self, above_P: np.ndarray, below_P: np.ndarray) -> np.ndarray:
        """Of sums over the prompts of each draw, (D,)."""
        below_D = self._weight_DP @ below_P
        ratio_D: np.ndarray = np.full_like(below_D, np.nan)
        np.divide(self._weight_DP @ above_P, below_D, out=ratio_D, where=below_D > 0)
        return ratio_D


def allowed(steps: StepTimes | None, share_G: Sequence[float]) -> dict[int, float]:
    """What T(rows, layers) allows such exits to save of the time, at the batch sizes that it has."""
    if steps is None or not all(map(math.isfinite, share_G)):
        return {}
    return {batch: steps.allowed(batch, share_G) for batch in steps.seconds}
