"""Shortlist of the settings that are worth a run, around a bound on their loss.

The data are a pilot and replays of its texts. Replays use the exact KV cache: they give exit layers, the cost of exit
decisions, and how often an exit disagrees with full depth. For each mode, the pilot gives the loss per disagreement of
its settings. This ratio predicts the loss of the mode's other settings. The rule is fixed, and reads nothing of the
prompts that the selected settings are then run on.

Shapes: S settings.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np

from eexit.errors import UsageError
from eexit.method.modes import MODES
from eexit.method.rules import ONLINE
from eexit.plan.configuration import EVERY, EarlyExit, configuration_of, parse_exit_set
from eexit.quality.risks import RISKS, losses
from eexit.results.finished_sweep import FinishedSweep, read_finished
from eexit.results.study_tables import REPLAYS

ORACLE: Final = "agree"
EXACT: Final = next(name for name, state in MODES.items() if not state.modifies_kv)
AIMS: Final = (0.25, 0.5, 1.0, 2.0)  # of the bound: predicted losses that the cheapest settings are looked for at
COSTS: Final = ("macs_full", "macs_to_exit")
Row = Mapping[str, Any]


class Neighbours(NamedTuple):
    """Two settings of a cell, by their keys, on both sides of a bound; None: full depth, the safest."""

    safe: str | None
    bold: str


class CellSettings(NamedTuple):
    """Settings of the four cells (oracle or rule, exact or deployed KV cache): one on each side of the risk bound."""

    A: Neighbours
    B: Neighbours
    C: Neighbours
    D: Neighbours

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(key for pair in self for key in pair if key)


class PredictedSetting(NamedTuple):
    """Setting with its predicted loss, the savings of its exits, and its cost as run, as shares of full depth."""

    setting: EarlyExit
    loss: float
    saved: float
    cost: float = 1.0

    @property
    def key(self) -> str:
        return self.setting.key


def columns_of(risk: str) -> Sequence[str]:
    """Return the columns of its runs that a `Pilot` needs for this risk."""
    return ("prompt_id", "prompt", "configuration", "seed", "status", *COSTS, RISKS[risk].column)


def neighbours(settings: Sequence[PredictedSetting], max_risk: float) -> Neighbours:
    """Return the two settings on both sides of a risk bound.

    - The safe setting saves most within the bound. Without settings within the bound, it is full depth.
    - The bold setting is above the bound, and has the most further savings for its further loss.

    If no setting above the bound saves more, the bold setting is the one that saves most within the bound. The safe one
    then saves most among those that lose no more. If no setting is within the bound either, the bold one loses least.
    """
    within = [each for each in settings if each.loss <= max_risk and each.saved > 0]
    safe = max(within, key=lambda each: each.saved, default=None)
    loss, saved = (safe.loss, safe.saved) if safe else (0.0, 0.0)
    bolder = [each for each in settings if each.loss > max_risk and each.saved > saved]
    if bolder:
        bold = max(bolder, key=lambda each: (each.saved - saved) / (each.loss - loss))
        return Neighbours(safe.key if safe else None, bold.key)
    if safe is None:
        return Neighbours(None, min(settings, key=lambda each: each.loss).key)
    safer = [each for each in within if each.loss <= loss and each != safe]
    return Neighbours(max(safer, key=lambda each: each.saved).key if safer else None, safe.key)


@dataclass(frozen=True)
class Pilot:
    """Finished pilot and its replays, at a bound of a risk."""

    sweep: FinishedSweep
    risk: str
    max_risk: float

    @classmethod
    def read(cls, results: str, risk: str, max_risk: float, flag: str = "") -> "Pilot":
        """Read the pilot in `results`, which `flag` named. Raise `UsageError` if it is no finished sweep."""
        return cls(read_finished(results, columns_of(risk), flag), risk, max_risk)

    @property
    def mode(self) -> str:
        """The mode that alters the KV cache. Raises `UsageError` if the pilot has none."""
        modes: list[str] = [each["mode"] for each in self.sweep.manifest.configurations if each["rule"]]
        found = next((mode for mode in modes if MODES[mode].modifies_kv), None)
        if found is None:
            raise UsageError(f"{self.sweep.name} has no settings in a mode that alters the KV cache: sweep with one")
        return found

    @cached_property
    def cells(self) -> CellSettings:
        """The settings of the four cells."""
        pairs = (self.oracles, self.candidates(EXACT), self.candidates(self.mode))
        oracle = Neighbours(None, EarlyExit(EXACT, ORACLE).key)
        return CellSettings(oracle, *(neighbours(settings, self.max_risk) for settings in pairs))

    @cached_property
    def oracles(self) -> Sequence[PredictedSetting]:
        """The oracle in the mode that alters the KV cache, in each exit set. Raises `UsageError` if there is none."""
        found = self._settings(self.mode, {ORACLE})
        if not found:
            raise UsageError(f"{self.sweep.name} has no runs of {self.mode}/{ORACLE}: sweep with --rules {ORACLE}")
        saved = {each: self.sweep.saved(each.key, "macs_to_exit").as_dict["mean"] or 0.0 for each in found}
        return [PredictedSetting(each, self._lost[each.key], saved[each]) for each in found]

    def settings_of(self, mode: str, of_oracle: bool) -> Sequence[EarlyExit]:
        """Return the settings to run in a mode: of the oracle, or of online rules.

        They are the two settings of the mode's cell. For online rules in a mode that alters the KV cache, all
        candidates run.
        """
        is_exact, cells = not MODES[mode].modifies_kv, self.cells
        if of_oracle and is_exact:
            return [EarlyExit(EXACT, ORACLE)]
        among = self.oracles if of_oracle else self.candidates(mode)
        wanted = cells.B if of_oracle else cells.C if is_exact else [each.key for each in among]
        return [each.setting for each in among if each.key in wanted]

    def candidates(self, mode: str) -> Sequence[PredictedSetting]:
        """Return settings of an online rule in the best exit set, from safe to bold.

        Each is the cheapest within one of `AIMS`, the loss to aim at. Raise `UsageError` if no token exits in any
        replay.
        """
        results = self.sweep.digest_as_read(self.sweep.manifest.config)
        rows = [row for row in REPLAYS.rows(self.sweep.store) if row["results"] == results]
        latest = {row["configuration"]: row for row in rows if is_candidate(row)}
        exiting = [row for row in latest.values() if _exits(row, self.sweep.n_layers)]
        if not exiting:
            raise UsageError(
                f"{self.sweep.name} has no replays of online rules with an exact KV cache in which any token exits: "
                "run eexit replay with --modes unfrozen and bolder --rules"
            )
        factor = self._loss_per_disagreement(mode, latest)
        found: dict[str, list[PredictedSetting]] = {}
        for row in exiting:
            found.setdefault(row["exit_set"] or EVERY, []).append(_predicted(row, mode, factor))
        aims = [aim * self.max_risk for aim in AIMS]
        best = min(found.values(), key=lambda settings: sum(_cost_within(settings, aim) for aim in aims))
        return cheapest_within(best, aims)

    def _loss_per_disagreement(self, mode: str, replays: Mapping[str, Row]) -> float:
        """Return the ratio of loss to replayed disagreement, by the pilot's online settings in a mode.

        Half a prompt is added to the loss, since few prompts may lose none. Without such settings, the ratio is 1.
        """
        pairs = []
        for each in self._settings(mode, ONLINE):
            replay = replays.get(replace(each, mode=EXACT).key)
            if replay is not None:
                pairs.append((self._lost[each.key], replay["expected_disagreement"]))
        lost, disagreement = (float(np.sum(each)) for each in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
        n = len({*self.sweep.unit_of.values()})
        return (lost + 0.5 / n) / disagreement if disagreement else 1.0

    @cached_property
    def _lost(self) -> Mapping[str, float]:
        """The mean loss of each configuration."""
        found = losses(RISKS[self.risk], self.sweep.runs_of_units)
        return {key: float(np.mean(loss)) if len(loss := found.losses_of(key)) else 1.0 for key in found.configurations}

    def _settings(self, mode: str, rules: Container[str]) -> Sequence[EarlyExit]:
        there = [each for each in self.sweep.manifest.configurations if not each.get("prompt_exits")]
        exits = [each for each in map(configuration_of, there) if isinstance(each, EarlyExit)]
        return [each for each in exits if each.mode == mode and each.rule in rules]


def settings_worth_running(
    results: str, risk: str, max_risk: float, modes: Sequence[str], of_oracle: bool = False
) -> Sequence[EarlyExit]:
    """Return the settings of an online rule, or of the oracle, that are predicted to be worth a run in these modes.

    Raises `UsageError` if `results` is not a finished sweep, or lacks the data for the selection.
    """
    pilot = Pilot.read(results, risk, max_risk, "--settings-from-replay")
    return [each for mode in modes if mode in MODES for each in pilot.settings_of(mode, of_oracle)]


def is_candidate(row: Row) -> bool:
    """Return True for the replay of an online rule without a gate, with an exact KV cache and known costs."""
    is_online = row["rule"] in ONLINE and not row["gate"]
    return is_online and not MODES[row["mode"]].modifies_kv and bool(row["macs_executed"])


def cheapest_within(found: Sequence[PredictedSetting], aims: Sequence[float]) -> list[PredictedSetting]:
    """Return the cheapest of the settings `found` within each of the losses `aims`, from safe to bold.

    Without any such setting, return the one that loses least.
    """
    within = [[each for each in found if each.loss <= aim] for aim in aims]
    cheapest = [min(settings, key=lambda each: each.cost) for settings in within if settings]
    return list(dict.fromkeys(cheapest)) or [min(found, key=lambda each: each.loss)]


def _predicted(row: Row, mode: str, factor: float) -> PredictedSetting:
    setting = EarlyExit(mode, row["rule"], float(row["parameter"]), parse_exit_set(row["exit_set"] or EVERY))
    exits = row["macs_to_exit"] / row["macs_full"]
    run = (row["macs_executed"] - row["macs_required"]) / row["macs_full"]
    return PredictedSetting(setting, factor * row["expected_disagreement"], 1 - exits, exits + run)


def _exits(row: Row, n_layers: int) -> bool:
    return any(share for layer, share in row["exit_distribution"] if layer < n_layers - 1)


def _cost_within(found: Sequence[PredictedSetting], loss: float) -> float:
    """Return the least cost of settings within a loss; without such settings, the cost of full depth."""
    return min([1.0, *(each.cost for each in found if each.loss <= loss)])
