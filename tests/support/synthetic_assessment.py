"""What the steps of an assessment leave, as synthetic sweeps: the pilot, and the run with its choice and times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from synthetic_quality import add
from synthetic_sweeps import FINAL, run_rows, write_runs

from eexit.plan.configuration import NORMAL, Configuration, Draft, Exit, Generate, Normal
from eexit.plan.splits import digest
from eexit.results.study_tables import CHOICES, REPLAYS, TIMINGS
from eexit.studies.assessment.conclude import AssessmentSteps
from eexit.studies.assessment.verdict import Bound

BOUND: Final = Bound(risk="answers", at_most=0.02)
FULL: Final = 100.0  # multiply-adds of a run at full depth
SETTING: Final = Exit("frozen_residual", "confidence", 0.9, (20,))
REPLAYED: Final = Exit("unfrozen", "confidence", 0.9)
CEILING, IN_STATE = Exit("unfrozen", "agree"), Exit("frozen_residual", "agree", None, (20,))
LOOKUP: Final = Generate(variant="lookup")
CONTENDERS: Final = (Generate(), LOOKUP, Draft(10, 4), Draft(20, 4), SETTING)


@dataclass(frozen=True)
class Assessed:
    """What an assessment finds: no setting loses an answer, and times are multiples of full depth's. Of steps, times at
    layer 20 are given by batch size, as multiples of those of a step at full depth.
    """

    ceiling: float = 0.4
    state: float = 0.35
    knowing: float = 0.3
    deployed: float = 0.25
    looks: float = 0.02
    certified: bool = True
    reporting: float = 0.0
    batch: int = 1
    times: Mapping[str, float] = field(default_factory=lambda: {SETTING.key: 0.7})
    steps: Mapping[int, float] = field(default_factory=dict)
    timed_again: Sequence[str] = (SETTING.key,)
    n: int = 200

    def write(self, out: Path) -> AssessmentSteps:
        pilot = self._sweep(out / "pilot", {CEILING: self.ceiling, IN_STATE: self.state})
        self._replay(pilot)
        run = self._sweep(out / "run", {SETTING: self.deployed})
        self._choose(run)
        every = dict.fromkeys((each.key for each in CONTENDERS), 1.1) | dict(self.times)
        self.time(run, 1, every)
        if self.timed_again:
            self.time(run, 2, {key: every[key] for key in self.timed_again})
        return AssessmentSteps(*map(str, (pilot, run)))

    def _sweep(self, folder: Path, saved: Mapping[Configuration, float]) -> Path:
        drawn, runs = np.random.default_rng(0).uniform(0.9, 1.1, self.n), []
        for prompt in range(self.n):
            for each in (Normal(), *saved):
                exits = FULL * (1 - saved.get(each, 0.0) * drawn[prompt])
                is_oracle = isinstance(each, Exit) and each.is_oracle
                run = None if is_oracle else exits + FULL * self.looks * (each in saved)
                asked = f"{folder.name}-{prompt}", f"{folder.name}, question {prompt}?", each.mode, 1.0, ["a", "b"]
                found: dict[str, Any] = {
                    "cost_full": FULL, "cost_exits": exits, "cost_needed": exits, "cost_run": run, "correct": True,
                    "disagreement": 0.0, "exit_layer_counts": [(20 if each in saved else FINAL, 1)],
                }  # fmt: skip
                runs.append(run_rows(*asked, of=each, **found))
        return write_runs(folder, runs)

    def _replay(self, folder: Path) -> None:
        """An online rule in exact state, which changes no text."""
        of_units = {
            "unit_cost_full": FULL, "unit_cost_exits": FULL * (1 - self.knowing), "unit_cost_looks": FULL * self.looks,
            "unit_disagreement": 0.0, "unit_changed": 0.0,
        }  # fmt: skip
        row = {
            "text_of": NORMAL, "prompts": self.n, "texts": self.n, "tokens": self.n, "drawn": False, "mean_depth": 1.0,
            "expected_kl": 0.0, "expected_disagreement": 0.0, "exit_distribution": [], "cost_full": FULL,
            "cost_needed": FULL, "cost_run": FULL, "decide_on": "head", "model": "tiny",
            "units": [digest(f"{folder.name}-{prompt}") for prompt in range(self.n)],
            **{name: [number] * self.n for name, number in of_units.items()},
        }  # fmt: skip
        add(folder, REPLAYS, [REPLAYED.columns | row])

    def _choose(self, folder: Path) -> None:
        tested = {
            "configuration": SETTING.key, "mean_loss": 0.0, "n": 150, "p_value": 0.01, "certified": self.certified,
            "cost": 0.9, "loss_of_right": 0.0, "n_of_right": 150,
        }  # fmt: skip
        row = {
            "choice_id": f"{1:032x}", "status": "ok", "risk": BOUND.risk, "loss": "a loss", "at_most": BOUND.at_most,
            "confidence": BOUND.confidence, "question": 1, "planned": 1, "error": 0.05, "cost_by": "run",
            "families": ["one"], "error_of_each": 0.05, "seeds": 1, "tested": [tested],
        }  # fmt: skip
        chosen = {"configuration": SETTING.key, "reporting_mean_loss": self.reporting, "reporting_n": 50}
        add(folder, CHOICES, [row | (chosen if self.certified else {})])

    def time(self, folder: Path, call: int, times: Mapping[str, float], rounds: int = 8) -> None:
        """A call with prompts of its own. Steps are timed in the first."""
        keys = {each.key: each.columns for each in CONTENDERS}
        every: list[tuple[Mapping[str, Any], int, float]] = [(Normal().columns, self.batch, 1.0)]
        every += [(keys[key], self.batch, time) for key, time in times.items()]
        for batch, time in self.steps.items() if call == 1 else ():
            every += [(Exit("unfrozen", "fixed", 20.0).columns, batch, time)]
            every += [(Normal().columns, batch, 1.0)] * (batch != self.batch)
        rows = [
            dict(columns) | {
                "batch": batch, "round": number, "prompts": 1, "prompt_ids": [f"{call}-{number}"], "tokens": 100,
                "seconds": time * (1 + 0.001 * (number % 2) * (columns["configuration"] != NORMAL)), "device": "cpu",
                "machine": "a CPU (2 cores)", "threads": 2, "versions": "", "model": "tiny", "dtype": "float32",
            }
            for number in range(1, rounds + 1)
            for columns, batch, time in every
        ]  # fmt: skip
        add(folder, TIMINGS, rows, call)
