"""What the tables of the steps say of each option: what its exits save, and what is lost by them, prompt by prompt.

Runs say both. A replay in exact state says what exits save and where texts would change, given full depth's texts: its
disagreement is the one that the risk `disagreement` asks about, but of the risk `answers` it says no more than that an
answer can be lost only where full depth gets it right and the text changes. So online rules that were run in exact
state count there in place of all replays.

Shapes: P prompts or groups of them.
"""

import math
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from eexit.method.rules import ONLINE
from eexit.method.states import STATES, alters
from eexit.plan.configuration import NORMAL, PERFECT
from eexit.plan.runs import OK
from eexit.plan.splits import digest
from eexit.quality.estimates import Estimate, estimate_ratios
from eexit.quality.per_right import COLUMNS as OF_RIGHT
from eexit.quality.risks import RISKS, losses, numbers
from eexit.results.finished_sweep import FinishedSweep
from eexit.results.study_tables import OF_UNITS, REPLAYS
from eexit.studies.verdict.file import DECIDING, KNOWING, PROOF, STATE, Bound
from eexit.studies.verdict.ledger import NONE, Imposed
from eexit.studies.verdict.options import Best, Option, best_of, most_of

COSTS: Final = ("cost_full", "cost_exits", "cost_needed", "cost_run")
ORACLE: Final = "agree"
PILOT, RUN = "pilot", "run"  # whose prompts
Row = Mapping[str, Any]


def columns_of(bound: Bound) -> tuple[str, ...]:
    """Those of runs that are read."""
    own = ("prompt_id", "prompt", "configuration", "seed", "status", "n_tokens", "exit_layer_counts")
    return tuple(dict.fromkeys([*own, *COSTS, RISKS[bound.risk].column, *OF_RIGHT]))


class PromptTables:
    """The runs and replays of a sweep by prompt. Prompts without a loss are left out; a failed run saves nothing."""

    def __init__(self, sweep: FinishedSweep, sample: str, bound: Bound) -> None:
        self.sweep, self.sample, self.bound = sweep, sample, bound
        runs = sweep.runs_of_units
        found = losses(RISKS[bound.risk], runs)
        asked = {NORMAL, *(entry["key"] for entry in sweep.manifest.configurations if entry["rule"] is not None)}
        known_P = ~np.isnan(found.loss_PC[:, [key in asked for key in found.configurations]]).any(axis=1)
        self._loss = dict(zip(found.configurations, found.loss_PC[known_P].T, strict=True))
        self._at = {unit: at for at, unit in enumerate(np.array(found.units, dtype=object)[known_P])}
        self._costs = {key: np.full((len(COSTS), len(self._at)), np.nan) for key in self._loss}
        done = runs.filter(pc.field("status") == OK).group_by(["configuration", "unit"])
        for row in done.aggregate([(name, "sum") for name in COSTS]).to_pylist():
            if row["unit"] in self._at:
                sums = [math.nan if row[f"{name}_sum"] is None else row[f"{name}_sum"] for name in COSTS]
                self._costs[row["configuration"]][:, self._at[row["unit"]]] = sums

    def keys(self, rules: Container[str], are_altering: bool) -> list[str]:
        """The settings with these rules in states that alter what later tokens see, or in those that don't."""
        there = [entry for entry in self.sweep.manifest.configurations if entry["rule"] in rules]
        return [entry["key"] for entry in there if alters(STATES[entry["mode"]]) == are_altering]

    def exits_alone(self, key: str) -> Option:
        """As if deciding, and what exits leave behind, cost nothing."""
        return self._option(key, lambda full_P, exits_P, needed_P, run_P: exits_P)

    def with_looks(self, key: str) -> Option:
        """As if what exits leave behind cost nothing."""
        return self._option(key, lambda full_P, exits_P, needed_P, run_P: exits_P + run_P - needed_P)

    def as_run(self, key: str) -> Option:
        return self._option(key, lambda full_P, exits_P, needed_P, run_P: run_P)

    def _option(self, key: str, cost: Callable[..., np.ndarray]) -> Option:
        return Option(key, self._saved(self._costs[key][0], cost(*self._costs[key])), self._loss[key], self._loss[key])

    def _saved(self, full_P: np.ndarray, cost_P: np.ndarray) -> np.ndarray:
        """What a share of sums saves, linearised: a value for each prompt, whose mean is 1 − Σ cost / Σ full."""
        failed_P = np.isnan(full_P) | np.isnan(cost_P)
        normal_P = np.nan_to_num(self._costs[NORMAL][0])
        full_P, cost_P = np.where(failed_P, normal_P, full_P), np.where(failed_P, normal_P, cost_P)
        saved = 1 - cost_P.sum() / full_P.sum()
        linearised: np.ndarray = saved + (full_P - cost_P - saved * full_P) / full_P.mean()
        return linearised

    def saved_as_run(self, key: str) -> Estimate:
        full_P, _, _, run_P = self._costs[key]
        return estimate_ratios(run_P[:, None], full_P[:, None])[0].complement

    @cached_property
    def _right_P(self) -> np.ndarray:
        """Which share of answers full depth gets right; a failed run may have been right."""
        correct = numbers("correct", self.sweep.runs_of_units)
        of_normal = dict(zip(correct.units, correct.loss_PC[:, correct.configurations.index(NORMAL)], strict=True))
        right_P: np.ndarray = np.nan_to_num(np.array([of_normal[unit] for unit in self._at], dtype=float), nan=1.0)
        return right_P

    @cached_property
    def _unit_at(self) -> Mapping[int, int]:
        """Where in P each unit of a replay is, by its digest."""
        return {digest(unit): self._at[unit] for unit in self.sweep.unit_of.values() if unit in self._at}

    def replayed(self, row: Row, looks: bool) -> Option:
        """A setting of a replay, by its exits alone or with what it looks at."""
        places = [self._unit_at.get(unit, -1) for unit in row["units"]]
        known = [at >= 0 for at in places]
        at_U = np.array(places)[known]
        full_U, exits_U, looks_U, differs_U, changed_U = (np.array(row[name], dtype=float)[known] for name in OF_UNITS)

        def by_prompt(values_U: np.ndarray, otherwise: float) -> np.ndarray:
            sum_P, n_P = np.zeros((2, len(self._at)))
            np.add.at(sum_P, at_U, values_U)
            np.add.at(n_P, at_U, 1)
            mean_P: np.ndarray = np.where(n_P > 0, sum_P / np.maximum(n_P, 1), otherwise)
            return mean_P

        cost_U = exits_U + looks_U if looks else exits_U
        saved_P = self._saved(by_prompt(full_U, math.nan), by_prompt(cost_U, math.nan))
        if self.bound.risk == "disagreement":
            differs_P = by_prompt(differs_U, 1.0)
            return Option(row["configuration"], saved_P, differs_P, differs_P)
        lost_P = by_prompt(changed_U, 1.0)
        if self.bound.risk == "answers":
            lost_P = lost_P * self._right_P
        return Option(row["configuration"], saved_P, np.zeros_like(lost_P), lost_P)

    def best(self, options: Iterable[Option]) -> Best | None:
        return best_of(self.sample, list(options), self.bound.at_most)

    @property
    def nothing(self) -> Best:
        """Full depth, which saves nothing."""
        return Best.known(self.sample, None, np.zeros(len(self._at)))


def of_pilot(sweep: FinishedSweep, bound: Bound) -> dict[Imposed, Best]:
    """What oracles save, and online rules in exact state."""
    tables = PromptTables(sweep, PILOT, bound)
    exact = [tables.exits_alone(key) for key in tables.keys({ORACLE}, are_altering=False)]
    online = tables.keys(ONLINE, are_altering=False)
    replays = [] if online and bound.risk != "disagreement" else _replays(sweep)
    found = {
        NONE: most_of([Best.known(PILOT, each.key, each.saved_P) for each in exact]) if exact else None,
        frozenset([STATE]): tables.best(map(tables.exits_alone, tables.keys({ORACLE}, are_altering=True))),
        frozenset([KNOWING]): tables.best(
            [*map(tables.exits_alone, online), *(tables.replayed(row, looks=False) for row in replays)]
        ),
        frozenset([KNOWING, DECIDING]): tables.best(
            [*map(tables.with_looks, online), *(tables.replayed(row, looks=True) for row in replays)]
        ),
    }
    return {imposed: best for imposed, best in found.items() if best is not None}


def _replays(sweep: FinishedSweep) -> list[Row]:
    """The latest replay of each online rule in exact state that a model made, by how it looked."""
    latest = {
        (row["configuration"], row["decide_on"]): row
        for row in REPLAYS.rows(sweep.store)
        if row["rule"] in ONLINE and row["gate"] != PERFECT and row["cost_run"] and row["units"]
    }
    return [row for row in latest.values() if not alters(STATES[row["mode"]])]


def of_run(sweep: FinishedSweep, choice: Row | None, bound: Bound) -> dict[Imposed, Best]:
    """What settings save in the state that is deployed, and those of them that are certified."""
    tables = PromptTables(sweep, RUN, bound)
    online = tables.keys(ONLINE, are_altering=True)
    certified = [each["configuration"] for each in choice["tested"] if each["certified"]] if choice else []
    found: dict[Imposed, Best | None] = {}
    for also, option_of in (([], tables.exits_alone), ([DECIDING], tables.as_run)):
        found[frozenset([STATE, KNOWING, *also])] = tables.best(map(option_of, online))
        if choice is not None:
            proven = [Best.known(RUN, key, option_of(key).saved_P) for key in certified]
            found[frozenset([STATE, KNOWING, PROOF, *also])] = most_of([tables.nothing, *proven])
    return {imposed: best for imposed, best in found.items() if best is not None}
