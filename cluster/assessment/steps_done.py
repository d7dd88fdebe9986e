"""Whether a step of the recipe is done: by what it left, which has to be all there and undamaged.

What is gone or damaged is done again by the same command, which knows what has landed.
"""

from collections.abc import Sequence
from pathlib import Path

from cluster.assessment.recipe import AGAIN, CHOICE, REPLAY, TIMES, Command, Recipe
from eexit.plan.artefacts import CARD, damage, parse_card
from eexit.plan.configuration import GENERATE
from eexit.quality.risks import RISKS
from eexit.results.finished_sweep import read_finished
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import LostManifestError, read_manifest
from eexit.results.store.writing_shards import survey
from eexit.results.study_tables import REPLAYS, STUDY_TABLES, TIMINGS
from eexit.studies.assessment.conclude import latest_choice
from eexit.studies.assessment.verdict import Bound


def is_done(command: Command, recipe: Recipe, bound: Bound) -> bool:
    """Whether a command has left all that it leaves."""
    if command.script == "train":
        return is_learned(Path(command.folder).expanduser())
    if command.script == "sweep":
        return is_whole(command.folder)
    if not is_whole(command.folder):
        return False
    if command.name == REPLAY:
        return {*recipe.replayed} <= {row["configuration"] for row in REPLAYS.rows(open_store(command.folder))}
    if command.name == CHOICE:
        return latest_choice(read_finished(command.folder, _of_risk(bound)), bound) is not None
    n_calls = {TIMES: 1, AGAIN: 2}[command.name]
    return len(whole_calls(command.folder, recipe, bound)) >= n_calls


def is_whole(folder: str) -> bool:
    """Whether all runs of a sweep are there, undamaged."""
    try:
        manifest = read_manifest(open_store(folder))
    except LostManifestError:
        return False
    if manifest is None:
        return False
    found = survey(open_store(folder))
    return len(found.done) + found.n_errors >= (manifest.n_runs or 0)


def is_learned(folder: Path) -> bool:
    """Whether an artefact is there, undamaged."""
    try:
        card = parse_card((folder / CARD).read_bytes())
    except (OSError, ValueError):
        return False
    return damage(folder, card) is None


def whole_calls(folder: str, recipe: Recipe, bound: Bound) -> Sequence[str]:
    """The calls in which what was chosen, and `generate` beside it, were timed in all rounds, at the batch size."""
    run = read_finished(folder, _of_risk(bound))
    choice = latest_choice(run, bound)
    keys = {GENERATE, *([choice["configuration"]] if choice and choice["configuration"] else [])}
    rounds: dict[str, set[tuple[str, int]]] = {}
    for row in TIMINGS.rows(run.store):
        if row["batch"] == recipe.batch:
            rounds.setdefault(row["timing_id"], set()).add((row["configuration"], row["round"]))
    wanted = {(key, number) for key in keys for number in range(1, recipe.rounds + 1)}
    return [call for call, found in rounds.items() if wanted <= found]


def set_damaged_aside(folder: str) -> list[str]:
    """Damaged files of studies, so that what they found is read without them; gives a line for each."""
    store = open_store(folder)
    return [
        f"{folder}/{file} is damaged: it is now in {folder}/{aside}"
        for table in STUDY_TABLES
        for file, aside in table.set_damaged_aside(store)
    ]


def _of_risk(bound: Bound) -> Sequence[str]:
    return ("status", RISKS[bound.risk].column)
