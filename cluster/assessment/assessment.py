"""Assessment of a model in a folder: its commands at this point, and which of them are done.

A step is done if its inputs are those that its command would use now: manifests, cards and tables of studies record
the model, the prompts, the flags, and the digests of artefacts and runs.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.assessment import recipe as of_recipe
from cluster.assessment.prompt_splits import ANSWERS, DISAGREEMENT, PILOT, RUN, TRAINING
from cluster.assessment.recipe import CHOICE, KV_MAPS, LINEAR, ORACLES, REPLAY, TEXTS, TIMES, Recipe, RecipeStep
from cluster.sweep_job import location_for_all
from eexit.errors import UsageError
from eexit.output.locations import redact
from eexit.output.text import pluralize
from eexit.plan.artefacts import CARD
from eexit.plan.configuration import EVERY, GENERATE, NORMAL, EarlyExit, parse_exit_set
from eexit.plan.hashes import content_hash
from eexit.plan.runs import count_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.quality.intervals import clopper_pearson
from eexit.quality.risks import RISKS, answers_tell
from eexit.results.finished_sweep import FinishedSweep, read_finished, refuse_changed_model
from eexit.results.owned_folders import refuse_inside
from eexit.results.parquet_files import DamagedError
from eexit.results.store.commit import survey
from eexit.results.store.extend import extended_config, stored_config, with_places
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import MissingManifestError, read_manifest
from eexit.results.study_tables import REPLAYS
from eexit.studies.assessment.verdict import Bound
from eexit.studies.replay.shortlist import EXACT
from eexit.studies.selection.study import latest_choice
from eexit.studies.timing.calls import BatchTimings, whole_calls
from eexit.studies.timing.study import FIRST_STATE
from eexit.training.plan import DamagedArtefactError, TrainArgs, is_finished, make_training_plan
from eexit.training.texts import read_texts

SWEEPS = {TEXTS: TRAINING, PILOT: PILOT, RUN: RUN, ORACLES: RUN}  # with the split of their prompts


@dataclass(frozen=True)
class Assessment:
    """Assessment of a model: recipe, risk bound, and the model as it is now."""

    recipe: Recipe
    bound: Bound
    model: Any
    config_of: Callable[[Sequence[str]], SweepConfig]  # by the arguments of `jobs/sweep.py`

    def finished(self, step: str, *columns: str) -> FinishedSweep | None:
        """Return a step's sweep with `columns` of its runs; None if the sweep is missing, unfinished or damaged."""
        try:
            return read_finished(self.recipe.at(step), ["run_id", *columns])
        except (UsageError, DamagedError):
            return None

    def bound_now(self) -> tuple[Bound, str]:
        """Return the bound to certify, and the reason if its risk is not the requested one.

        If the pilot has too few right answers at full depth for a bound on lost answers, the risk is disagreement.
        """
        pilot = self.finished(PILOT, "configuration", "correct") if self.bound.risk == ANSWERS else None
        runs = pilot.runs.to_pylist() if pilot else []
        marks = [bool(run["correct"]) for run in runs if run["configuration"] == NORMAL]
        if not marks or answers_tell(clopper_pearson(sum(marks), len(marks))[0], self.bound.max_risk):
            return self.bound, ""
        why = (
            f"full depth gets {sum(marks)} of {pluralize(len(marks), 'answer')} right, so that losing half of them "
            "could keep the bound: the risk is disagreement with full depth, token by token"
        )
        return self.bound.model_copy(update={"risk": DISAGREEMENT}), why

    def commands(self) -> Sequence[RecipeStep]:
        """Return all ten commands, for the bound and the text length that the finished steps imply."""
        texts = self.finished(TEXTS, "n_tokens")
        lengths = [n for n in texts.runs["n_tokens"].to_pylist() if n] if texts else []
        length = float(np.minimum(lengths, self.recipe.max_new_tokens).mean()) if lengths else None
        return self.recipe.commands(self.bound_now()[0], length)

    def refuse_foreign_sweeps(self) -> None:
        """Raise `UsageError` if a step's sweep has other prompts or, once finished, another model."""
        for step, part in SWEEPS.items():
            held, planned = None, [asdict(each) for each in self.recipe.parts.of[part]]
            with suppress(MissingManifestError):
                held = read_manifest(open_store(self.recipe.at(step)))
            if held and content_hash(planned) != content_hash([{**each} for each in held.config["prompts"]]):
                raise UsageError(f"{self.recipe.at(step)} is of other prompts: choose another --out, or its prompts")
            if sweep := self.finished(step):
                refuse_changed_model(sweep, self.model)

    def first_left(self, tried: Collection[str] = ()) -> int | None:
        """Return the index of the first step that is not done; None if all are.

        Sweeps in `tried` may have failed runs. Raises `UsageError` if the step's folder has results of other inputs.
        """
        return next((at for at, step in enumerate(self.commands()) if not self._is_done(step, tried)), None)

    def _is_done(self, step: RecipeStep, tried: Collection[str]) -> bool:
        try:
            if step.script == "train":
                return self._is_trained(step)
            return self._is_swept(step, tried) if step.script == "sweep" else self._is_studied(step)
        except (DamagedError, DamagedArtefactError, MissingManifestError):
            return False

    def _is_swept(self, step: RecipeStep, tried: Collection[str]) -> bool:
        store = open_store(step.folder)
        held, planned, found = read_manifest(store), self.config_of(step.arguments), survey(store)
        if held is None:
            return False
        whole = extended_config(store, held, planned)
        may_fail = step.name in tried or (step.name == TEXTS and self._has_card(LINEAR))
        n_there = len(found.done) + (found.n_errors if may_fail else 0)
        return whole == with_places(stored_config(store, held), planned) and n_there >= count_runs(whole)

    def _has_card(self, name: str) -> bool:
        return Path(self.recipe.at(name), CARD).expanduser().is_file()

    def _is_trained(self, step: RecipeStep) -> bool:
        if not self._has_card(step.name):
            return False
        sweep = read_finished(self.recipe.at(TEXTS), ["prompt_id"], trusts_code=True)
        options = {"readout": self.recipe.at(LINEAR)} if step.name == KV_MAPS else {}
        asked = TrainArgs(step.name, str(Path(step.folder).expanduser()), options=options)
        facts = (self.model, tuple(self.recipe.layers), None)
        return is_finished(make_training_plan(sweep, asked, read_texts(sweep.store), lambda *_: facts))

    def _is_studied(self, step: RecipeStep) -> bool:
        bound, batch = self.bound_now()[0], self.recipe.batch
        sweep = read_finished(step.folder, ("status", RISKS[bound.risk].column))
        if step.name == REPLAY:
            results = sweep.digest_as_read(sweep.manifest.config)
            of_these = {row["configuration"] for row in REPLAYS.rows(sweep.store) if row["results"] == results}
            return {*self.recipe.keys(EXACT, of_recipe.REPLAYED)} <= of_these
        choice = latest_choice(sweep.store, bound.risk, bound.max_risk, bound.confidence)
        if step.name == CHOICE:
            return choice is not None and choice["results"] == sweep.digest
        setting = choice["configuration"] if choice else None
        layers = {layer: EarlyExit(FIRST_STATE, "fixed", float(layer)).key for layer in self.recipe.layers}
        keys = {GENERATE, *([setting] if setting else [])}
        if step.name == TIMES:
            return bool(whole_calls(sweep.timings, {NORMAL, *keys, *layers.values()}, {1, batch}, self.recipe.n_rounds))
        times = BatchTimings(sweep.timings, batch, setting)
        if setting:
            exit_set = next(each["exit_set"] for each in sweep.manifest.configurations if each["key"] == setting)
            keys |= {layers[layer] for layer in parse_exit_set(exit_set or EVERY) or layers}
        return all(times.relative_time(key).n >= self.recipe.n_calls for key in {*keys, times.fastest or GENERATE})


def folder_of(out: str) -> Path:
    """Return the absolute folder of an assessment. Raises `UsageError` for a place that can't be one."""
    if not out:
        raise UsageError("--out is empty: give a folder")
    if "://" in out:
        raise UsageError(f"--out {redact(out)} is a URI: give a folder, which models are loaded from")
    folder = Path(location_for_all(str(Path(out).expanduser())))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {out} is a file: give a folder")
    refuse_inside(open_store(folder), f"--out {out}")
    return folder
