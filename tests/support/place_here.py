"""Where the sweeps, studies and trainings of an assessment are done in a test: in this process, without Ray."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from driving import look_here

from cluster import interruption
from cluster.assessment.workshop import Plan
from cluster.studies.run import Call
from cluster.studies.training import TrainingWork
from eexit.plan.artefacts import CARD, Card, damage, parse_card
from eexit.plan.config import SweepConfig
from eexit.plan.model_facts import ModelFacts
from eexit.plan.runs import plan_runs
from eexit.results.finished_sweep import read_finished
from eexit.results.store.folder import open_store
from eexit.results.store.growth import written
from eexit.results.store.manifest import make_manifest
from eexit.results.store.writing_shards import land, take_stock
from eexit.studies.study import Done
from eexit.sweeps.generator import ModelGenerator
from eexit.training.plan import WhatToTrain, make_training_plan
from eexit.training.texts import read_texts


class Here:
    """`did` lists what was done, by the names of folders. As on Ray, what has landed undamaged is not done again."""

    def __init__(self, rows_per_shard: int = 10_000, is_steady: bool = False) -> None:
        """In a steady place, times are those of a machine that takes as long for every multiply-add, at any moment."""
        self.did: list[str] = []
        self._rows, self._is_steady = rows_per_shard, is_steady

    def _done(self, name: str) -> None:
        self.did.append(name)

    def seconds(self, row: Mapping[str, Any]) -> float:
        """That are timed in a steady place."""
        return steady_seconds(row)

    def landed(self, name: str) -> None:
        """Something new is in the folder with this name: a shard, a unit of a study, or an artefact."""
        interruption.check()

    def look(self, config: SweepConfig) -> ModelFacts:
        return look_here(config, 1)

    def sweep(self, config: SweepConfig, out: str) -> None:
        interruption.check()
        store = open_store(out)
        found, _ = take_stock(store)
        model, layers, _ = look_here(config, 1)
        with written(store, make_manifest(config, model, layers)) as whole:
            runs = [run for run in plan_runs(whole) if run.run_id not in found.done]
            if not runs:
                return
            generator = ModelGenerator(whole, "cpu")
            for start in range(0, len(runs), self._rows):
                shard = runs[start : start + self._rows]
                land(store, shard, generator.generate(shard))
                self.landed(Path(out).name)
        self._done(Path(out).name)

    def study(self, results: str, plan: Plan, columns: Sequence[str]) -> None:
        interruption.check()
        sweep = read_finished(results, columns)
        study = plan(sweep)
        if study.needs_model:
            study.load("cpu")
        call = Call(study, sweep.store)
        for unit in study.units():
            parts: list[Done] = [study.do(part) for part in unit.parts]
            if study.times and self._is_steady:
                parts = [Done([{**row, "seconds": self.seconds(row)} for row in done.result]) for done in parts]
            call.settle(unit, parts, datetime.now(UTC))
            self.landed(f"{study.table.name} of {Path(results).name}")
        self._done(f"{study.table.name} of {Path(results).name}")

    def train(self, results: str, asked: WhatToTrain) -> Card:
        interruption.check()
        folder = Path(asked.out)
        if not is_trained(folder):
            sweep = read_finished(results, ["prompt_id"])
            plan = make_training_plan(sweep, asked, read_texts(sweep.store), look_here)
            folder.mkdir(parents=True, exist_ok=True)
            work = TrainingWork(plan)
            work.load("cpu")
            work.training.advance(60)
            work.training.finish()
            self.landed(folder.name)
            self._done(folder.name)
        return parse_card((folder / CARD).read_bytes())


def steady_seconds(row: Mapping[str, Any]) -> float:
    """A nanosecond per multiply-add, and a millisecond per token where these are not counted, as by `generate`."""
    return float(1e-9 * row["cost_run"] if row.get("cost_run") else 1e-3 * max(1, row["tokens"]))


def is_trained(folder: Path) -> bool:
    path = folder / CARD
    return path.is_file() and damage(folder, parse_card(path.read_bytes())) is None
