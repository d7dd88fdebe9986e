"""Run of an assessment: the commands that are left, one after the other, and the verdict."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.assessment.assessment import SWEEPS, Assessment, folder_of
from cluster.assessment.prompt_splits import PILOT, RUN
from cluster.assessment.recipe import CHOICE, DEPLOYED, LINEAR, ORACLES, REPLAY, TIMES, RecipeStep
from eexit.errors import SweepStopped, UsageError
from eexit.output.atomic_files import write_atomic
from eexit.output.text import percent, pluralize
from eexit.plan.artefacts import CARD, parse_card
from eexit.plan.configuration import EarlyExit
from eexit.results.layout import ASSESSMENT
from eexit.results.parquet_files import GenerationsFile, list_files, read_shards
from eexit.results.store.commit import survey
from eexit.results.store.extend import record_places
from eexit.results.store.folder import open_store
from eexit.results.store.lease import ASSESSING, hold
from eexit.results.study_tables import STUDY_TABLES
from eexit.studies.assessment.conclude import conclude
from eexit.studies.assessment.verdict import FILE, Verdict, read_verdict
from eexit.studies.replay.shortlist import EXACT, ORACLE, Pilot, PredictedSetting, neighbours
from eexit.studies.selection.study import latest_choice
from eexit.studies.timing.calls import BatchTimings

BAD_INPUT: Final = 2  # the exit code of a command that can't use its input
Do = Callable[[str, Sequence[str]], int]  # runs a script of `jobs/` in this process, and returns its exit code
Say = Callable[[str], None]


def begin(assessment: Assessment) -> None:
    """Mark the folder as an assessment's, and write the prompts of each split there.

    Raises `UsageError` for a folder with anything else, and for a model that has changed.
    """
    folder = folder_of(assessment.recipe.out)
    for place in (folder, folder / RUN):
        if (place / FILE).exists() and read_verdict(open_store(place))[0] is None:
            raise UsageError(f"{place / FILE} is no verdict of this version: move it, or choose another --out")
    assessment.refuse_foreign_sweeps()
    if not (folder / ASSESSMENT).is_file():  # by which all assessments share an error budget
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ASSESSMENT, "{}\n")
    assessment.recipe.parts.write(str(folder))


def assess(assessment: Assessment, do: Do, say: Say) -> tuple[Verdict, bool]:
    """Run the commands that are not done, and write `verdict.json`; return the verdict, and True if it has changed.

    Raises:
        UsageError: As `begin` does, for a step that can't be done, and if another process holds the folder.
        SweepStopped: If a command stops.
    """
    recipe, folder = assessment.recipe, folder_of(assessment.recipe.out)
    begin(assessment)
    if assessment.first_left() is not None:
        with hold(open_store(folder), say, ASSESSING):
            _run_steps(assessment, do, say)
    folders = {step: recipe.at(step) for step in (PILOT, RUN, ORACLES)}
    failed = {step: survey(open_store(at)).n_errors for step, at in folders.items()}
    missing = [f"{pluralize(n, 'run')} of {step}, which failed" for step, n in failed.items() if n]
    verdict = conclude([*folders.values()], assessment.bound_now()[0], recipe.batch, missing, recipe.is_smoke_run)
    content, places = verdict.to_json(), (folder / FILE, folder / RUN / FILE)
    changed = [place for place in places if not place.is_file() or place.read_text() != content]
    for place in changed:
        write_atomic(place, content)
    return verdict, bool(changed)


def _run_steps(assessment: Assessment, do: Do, say: Say) -> None:
    for store in map(open_store, map(assessment.recipe.at, SWEEPS)):
        for file, aside in (moved for table in STUDY_TABLES for moved in table.set_damaged_aside(store)):
            say(f"{store.root}/{file} is damaged: it is now in {store.root}/{aside}")
    tried, pace, why = list[str](), Pace(), ""
    while (at := assessment.first_left(tried)) is not None:
        commands, before = assessment.commands(), why
        command, why = commands[at], assessment.bound_now()[1]
        if why != before:
            say(why)
        if command.name in tried:
            raise UsageError(f"step {at + 1}, {command.name}, ended without all its results: choose another --out")
        for each in commands[:at]:
            if each.script == "sweep":
                record_places(open_store(each.folder), assessment.config_of(each.arguments))
        step = f"{at + 1} of {len(commands)}, {command.name}"
        say(f"{step}{pace.forecast(commands[at:])}: {command.line}")
        began = time.time()
        code = do(command.script, command.arguments)
        pace.add(command, began)
        tried.append(command.name)
        if code == BAD_INPUT:
            raise UsageError(f"step {step} can't be done")
        if code and command.script != "choose":  # whose exit code is 1 if nothing that saves is certified
            raise SweepStopped(f"step {step} is not finished")
        if known := known_after(command.name, assessment):
            say(f"known so far: {known}")


@dataclass
class Pace:
    """Speed of the steps that this call has run, from which the remaining time is forecast.

    `tokens` and `working` are the actors' tokens and busy seconds; `loading` is the shortest model load, in seconds.
    """

    tokens: float = 0.0
    working: float = 0.0
    loading: float = 0.0

    def add(self, step: RecipeStep, began: float) -> None:
        """Include a finished step in the measured speed; `began` is the step's start in Unix time.

        Of a sweep, only runs of this call count, by the start of each shard.
        """
        seconds, share, store = time.time() - began, 1.0, open_store(step.folder)
        if step.script == "sweep":
            found = read_shards(store, list_files(store), ["run_id"])
            shards = [(each.attempt / 1e9, len(each.rows)) for each in found if isinstance(each, GenerationsFile)]
            share = sum(n for start, n in shards if start >= began) / max(1, sum(n for _, n in shards))
            load = min((start - began for start, _ in shards if start >= began), default=self.loading)
            self.loading = min(load, self.loading or load)  # that of the first sweep includes the start of Ray
        self.working += max(seconds - step.n_loads * self.loading, seconds / 10)
        self.tokens += step.tokens * share

    def forecast(self, steps: Sequence[RecipeStep]) -> str:
        """Return the expected duration of these steps, in brackets; empty before the first step is done."""
        if not self.tokens:
            return ""
        seconds = sum(each.tokens * self.working / self.tokens + each.n_loads * self.loading for each in steps)
        speed = self.tokens / self.working
        return f" ({pluralize(max(1, round(seconds / 60)), 'minute')} left at {speed:,.0f} tokens per second)"


def known_after(step: str, assessment: Assessment) -> str:
    """Return a line on the result of a step, as far as it bears on the verdict; else an empty line."""
    recipe, bound = assessment.recipe, assessment.bound_now()[0]

    def saved(settings: Sequence[PredictedSetting]) -> str:
        safe = neighbours(settings, bound.max_risk).safe  # which loses less than the bound
        return percent(next((each.saved for each in settings if each.key == safe), 0.0), 0)

    if step == LINEAR:
        card = parse_card(Path(recipe.at(LINEAR), CARD).expanduser().read_bytes())
        agree = [f"{percent(row.agreement, 0)} at {row.layer}" for row in card.table if row.series == LINEAR]
        return f"layers agree with the final one on {', '.join(agree)}"
    if step in (PILOT, REPLAY):
        pilot, lost = Pilot.read(recipe.at(PILOT), bound.risk, bound.max_risk), percent(bound.max_risk)
        if step == REPLAY:
            c, d = (saved(pilot.candidates(mode)) for mode in (EXACT, DEPLOYED))
            return f"predicted: C about {c}, D about {d}, if {lost} may be lost"
        a = percent(pilot.sweep.saved(EarlyExit(EXACT, ORACLE).key, "macs_to_exit").mean, 0)
        return f"A about {a}, B about {saved(pilot.oracles)}, if {lost} may be lost"
    if step == ORACLES:
        verdict = conclude([*map(recipe.at, (PILOT, RUN, ORACLES))], bound, recipe.batch)
        return ", ".join(f"{name} {percent(cell.saved.mean)}" for name, cell in verdict.cells.items())
    if step not in (CHOICE, TIMES) or (run := assessment.finished(RUN)) is None:
        return ""
    choice = latest_choice(run.store, bound.risk, bound.max_risk, bound.confidence)
    setting = choice["configuration"] if choice else None
    if step == CHOICE:
        return f"{setting or 'no setting'} is certified"
    fastest = BatchTimings(run.timings, recipe.batch, setting).fastest
    return f"the fastest alternative is {fastest or 'full depth'}, by one call"
