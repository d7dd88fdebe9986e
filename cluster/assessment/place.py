"""Where the sweeps, studies and trainings of an assessment are done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cluster.job import Device
from cluster.studies.run import run_study
from cluster.studies.training import train_exits
from cluster.sweep import run_sweep
from eexit.output.progress import Display
from eexit.plan.artefacts import Card
from eexit.plan.config import SweepConfig
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.model_facts import ModelFacts, look_at_model
from eexit.results.store.finished_sweep import FinishedSweep
from eexit.studies.study import Study
from eexit.training.plan import WhatToTrain

Plan = Callable[[FinishedSweep], Study]


class Place(Protocol):
    """What has landed of a sweep is not done again."""

    def look(self, config: SweepConfig) -> ModelFacts: ...
    def sweep(self, config: SweepConfig, out: str) -> None: ...
    def study(self, results: str, plan: Plan, columns: Sequence[str]) -> None: ...
    def train(self, results: str, asked: WhatToTrain) -> Card: ...


@dataclass
class OnRay:
    """On the Ray that this process has joined, one after the other. The model is looked at once."""

    device: Device
    display: Display
    rows_per_shard: int = 128
    _facts: ModelFacts | None = field(default=None, init=False)

    def look(self, config: SweepConfig, rows: int = 0) -> ModelFacts:
        if self._facts is None:
            self._facts = look_at_model(config, self.rows_per_shard)
        model, _, memory = self._facts
        return model, resolve_exitable_layers(config, model["n_layers"]), memory

    def sweep(self, config: SweepConfig, out: str) -> None:
        run_sweep(
            config, out, device=self.device, rows_per_shard=self.rows_per_shard, display=self.display, look=self.look
        )

    def study(self, results: str, plan: Plan, columns: Sequence[str]) -> None:
        run_study(results, plan, self.device, self.display, self.look, columns)

    def train(self, results: str, asked: WhatToTrain) -> Card:
        return train_exits(results, asked, self.device, self.display, self.look)
