"""Where the sweeps, studies and trainings of an assessment are done in a test: in this process, without Ray."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from driving import look_here

from cluster.studies.assessment.place import Plan
from cluster.studies.run import Call
from cluster.studies.training_work import TrainingWork
from eexit.generator import ModelGenerator
from eexit.messages.progress import Silence
from eexit.plan.artefacts import CARD, Card
from eexit.plan.config import SweepConfig
from eexit.plan.model_facts import ModelFacts
from eexit.plan.runs import plan_runs
from eexit.results.layout import MANIFEST, encode
from eexit.results.store.finished_sweep import read_finished
from eexit.results.store.folder import open_store
from eexit.results.store.landing import land
from eexit.results.store.manifest import make_manifest
from eexit.studies.study import Done
from eexit.training.plan import WhatToTrain, make_training_plan
from eexit.training.texts import read_texts


class Here:
    """`did` lists what was done, by the names of folders."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def _done(self, name: str) -> None:
        self.did.append(name)

    def look(self, config: SweepConfig) -> ModelFacts:
        return look_here(config, 1)

    def sweep(self, config: SweepConfig, out: str) -> None:
        store = open_store(out)
        if store.has(MANIFEST):
            return
        generator, runs = ModelGenerator(config, "cpu"), list(plan_runs(config))
        model, layers, _ = look_here(config, 1)
        land(store, runs, generator.generate(runs))
        store.publish(MANIFEST, encode(make_manifest(config, model, layers)))
        self._done(Path(out).name)

    def study(self, results: str, plan: Plan, columns: Sequence[str]) -> None:
        sweep = read_finished(results, columns)
        study = plan(sweep)
        if study.needs_model:
            study.load("cpu", 1.0)
        call = Call(study, sweep.store)
        for unit in study.units():
            parts: list[Done] = [study.do(part) for part in unit.parts]
            call.settle(unit, parts, datetime.now(UTC), Silence())
        self._done(f"{study.table.name} of {Path(results).name}")

    def train(self, results: str, asked: WhatToTrain) -> Card:
        folder = Path(asked.out)
        if not (folder / CARD).exists():
            sweep = read_finished(results, ["prompt_id"])
            plan = make_training_plan(sweep, asked, read_texts(sweep.store), look_here)
            folder.mkdir(parents=True)
            work = TrainingWork(plan)
            work.load("cpu", 1.0)
            work.advance(60)
            work.finish()
            self._done(folder.name)
        return Card.model_validate_json((folder / CARD).read_bytes())
