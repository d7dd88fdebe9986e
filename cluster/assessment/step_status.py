"""Whether a step of the recipe is done: if what it was made from is what is there.

Manifests, cards and tables of studies record the model, the prompts, the flags and the digests of artefacts and runs.
They are compared with what the step's command would use now. What is gone or damaged is done again by that command,
which goes on from what is there.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.assessment import recipe as of_recipe
from cluster.assessment.recipe import CHOICE, LINEAR, REPLAY, STATE, TEXTS, TIMES, Recipe, RecipeStep
from eexit.errors import UsageError
from eexit.plan.artefacts import CARD
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import GENERATE, NORMAL, EarlyExit
from eexit.plan.hashes import content_hash
from eexit.plan.runs import count_runs
from eexit.quality.risks import RISKS
from eexit.results.finished_sweep import read_finished
from eexit.results.layout import MANIFEST, Manifest, encode_manifest
from eexit.results.parquet_files import DamagedError, GenerationsFile, list_files, read_shards
from eexit.results.store.commit import survey
from eexit.results.store.extend import extended_config, stored_config, with_places
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import MissingManifestError, read_manifest, with_grid
from eexit.results.study_tables import REPLAYS, STUDY_TABLES
from eexit.studies.assessment.conclude import latest_choice
from eexit.studies.assessment.verdict import Bound
from eexit.studies.timing.calls import Times, whole_calls
from eexit.studies.timing.study import FIRST_STATE
from eexit.training.plan import DamagedArtefactError, TrainArgs, is_finished, make_training_plan
from eexit.training.texts import read_texts

ConfigOf = Callable[[Sequence[str]], SweepConfig]  # by the arguments of `jobs/sweep.py`


@dataclass(frozen=True)
class StepsDone:
    """The steps of a recipe for a model. Sweeps that were `tried` may keep failed runs."""

    recipe: Recipe
    model: Any  # a `ModelDescription`
    config_of: ConfigOf
    tried: set[str]

    def has(self, command: RecipeStep, bound: Bound) -> bool:
        """Return True if a command has left all that it leaves; those before it have.

        Raises `UsageError` if its folder holds what was made from something else, and can't be made again there.
        """
        try:
            if command.script == "train":
                return self._is_trained(command)
            return self._is_swept(command) if command.script == "sweep" else self._is_studied(command, bound)
        except (DamagedError, DamagedArtefactError, MissingManifestError):
            return False

    def _is_swept(self, command: RecipeStep) -> bool:
        store, held = open_store(command.folder), manifest_at(command.folder)
        if held is None:
            return False
        planned, found = self.config_of(command.arguments), survey(store)
        whole = extended_config(store, held, planned)
        may_fail = command.name in self.tried or (command.name == TEXTS and self._has_card(LINEAR))
        n_there = len(found.done) + (found.n_errors if may_fail else 0)
        return whole == with_places(stored_config(store, held), planned) and n_there >= count_runs(whole)

    def _has_card(self, name: str) -> bool:
        return Path(self.recipe.at(name), CARD).expanduser().is_file()

    def _is_trained(self, command: RecipeStep) -> bool:
        if not self._has_card(command.name):
            return False
        sweep = read_finished(self.recipe.at(TEXTS), ["prompt_id"], trusts_code=True)
        options = {"readout": self.recipe.at(LINEAR)} if command.name == STATE else {}
        asked = TrainArgs(command.name, str(Path(command.folder).expanduser()), options=options)
        facts = (self.model, tuple(self.recipe.layers), None)
        return is_finished(make_training_plan(sweep, asked, read_texts(sweep.store), lambda *_: facts))

    def _is_studied(self, command: RecipeStep, bound: Bound) -> bool:
        sweep = read_finished(command.folder, ("status", RISKS[bound.risk].column))
        if command.name == REPLAY:
            results = sweep.digest_as_read(sweep.manifest.config)
            of_these = {row["configuration"] for row in REPLAYS.rows(sweep.store) if row["results"] == results}
            return {*self.recipe.replayed} <= of_these
        choice = latest_choice(sweep, bound)
        if command.name == CHOICE:
            return choice is not None and choice["results"] == sweep.digest
        setting = choice["configuration"] if choice else None
        keys = {GENERATE, *([setting] if setting else [])}
        if command.name == TIMES:
            steps = {EarlyExit(FIRST_STATE, "fixed", float(layer)).key for layer in self.recipe.layers}
            return bool(whole_calls(sweep.timings, {NORMAL, *keys, *steps}, {1, self.recipe.batch}, of_recipe.ROUNDS))
        times = Times([row for row in sweep.timings if row["batch"] == self.recipe.batch], setting)
        keys |= {times.fastest} if times.fastest else set()
        return all(times.of(key).n >= of_recipe.N_CALLS for key in keys)


def manifest_at(folder: str) -> Manifest | None:
    """Return the manifest of the results in a folder; None without any."""
    try:
        return read_manifest(open_store(folder))
    except MissingManifestError:
        return None


def is_whole(folder: str) -> bool:
    """Return True if all runs of a sweep have landed, undamaged."""
    held = manifest_at(folder)
    if held is None:
        return False
    found = survey(open_store(folder))
    return len(found.done) + found.n_errors >= (held.n_runs or 0)


def refuse_other_prompts(recipe: Recipe, name: str, part: str) -> None:
    """Raises `UsageError` where a sweep that has begun has other prompts."""
    held = manifest_at(recipe.at(name))
    planned = [asdict(each) for each in recipe.parts.of[part]]
    if held and content_hash(planned) != content_hash([{**each} for each in held.config["prompts"]]):
        raise UsageError(
            f"{recipe.at(name)} is of other prompts: choose another --out, or the prompts and sizes that it has"
        )


def hand_on_places(folder: str, planned: SweepConfig) -> None:
    """Record in a manifest where artefacts are now, such as in a folder that was moved."""
    store, held = open_store(folder), manifest_at(folder)
    if held:
        stored = stored_config(store, held)
        if (placed := with_places(stored, planned)) != stored:
            store.publish(MANIFEST, encode_manifest(with_grid(held, placed)))


def failed_runs(folder: str) -> int:
    """Return how many runs of a sweep have landed as errors only."""
    return survey(open_store(folder)).n_errors


def first_attempt(folder: str, since: float) -> float | None:
    """Return when the first of the runs began that were started since then, in Unix seconds; None without any."""
    store = open_store(folder)
    shards = read_shards(store, list_files(store), ["run_id"])
    attempts = [each.attempt / 1e9 for each in shards if isinstance(each, GenerationsFile)]
    return min((each for each in attempts if each >= since), default=None)


def set_damaged_aside(folder: str) -> list[str]:
    """Damaged files of studies, so that what they found is read without them; gives a line for each."""
    store = open_store(folder)
    return [
        f"{folder}/{file} is damaged: it is now in {folder}/{aside}"
        for table in STUDY_TABLES
        for file, aside in table.set_damaged_aside(store)
    ]
