"""Does it pay? The commands of a recipe that are left, one after the other, and what their tables say: `assess`."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from cluster.assessment.known import known_after
from cluster.assessment.prompt_splits import ANSWERS, DISAGREEMENT, PILOT, RUN, TRAINING
from cluster.assessment.recipe import ORACLES, TEXTS, Recipe, RecipeStep
from cluster.assessment.record import folder_of, mark, refuse_foreign_verdict
from cluster.assessment.step_status import (
    ConfigOf,
    StepsDone,
    failed_runs,
    first_attempt,
    hand_on_places,
    is_whole,
    refuse_other_prompts,
    set_damaged_aside,
)
from eexit.errors import SweepStopped, UsageError
from eexit.output.atomic_files import write_atomic
from eexit.output.text import pluralize
from eexit.plan.configuration import NORMAL
from eexit.quality.intervals import clopper_pearson
from eexit.quality.risks import answers_tell
from eexit.results.finished_sweep import read_finished, refuse_changed_model
from eexit.results.store.folder import open_store
from eexit.results.store.lease import ASSESSING, hold
from eexit.studies.assessment.conclude import AssessmentSteps, conclude
from eexit.studies.assessment.verdict import FILE, Bound, Verdict

SWEEPS: Final = {TEXTS: TRAINING, PILOT: PILOT, RUN: RUN, ORACLES: RUN}  # and whose prompts they have
BAD_INPUT: Final = 2  # the exit code of a command whose input can't be used
Do = Callable[[str, Sequence[str]], int]  # a script of `jobs/` with these arguments, in this process; its exit code
Say = Callable[[str], None]


@dataclass(frozen=True)
class Assessment:
    """A recipe at a bound, for the model as it is now. A look certifies nothing, and so it has no answer."""

    recipe: Recipe
    bound: Bound
    model: Mapping[str, Any]
    config_of: ConfigOf
    is_look: bool = False

    def bound_now(self) -> tuple[Bound, str]:
        """The bound, and why it is not on lost answers although prompts have them: full depth gets too few right."""
        if self.bound.risk != ANSWERS or not is_whole(self.recipe.at(PILOT)):
            return self.bound, ""
        runs = read_finished(self.recipe.at(PILOT), ["configuration", "correct"]).runs.to_pylist()
        marks = [bool(run["correct"]) for run in runs if run["configuration"] == NORMAL]
        low, _ = clopper_pearson(sum(marks), len(marks))
        if answers_tell(low, self.bound.max_risk):
            return self.bound, ""
        why = (
            f"full depth gets {sum(marks)} of {pluralize(len(marks), 'answer')} right, so that losing half "
            f"of them could "
            "keep the bound: the risk is disagreement with full depth, token by token"
        )
        return self.bound.model_copy(update={"risk": DISAGREEMENT}), why

    def commands(self) -> Sequence[RecipeStep]:
        """All ten, by what is known now."""
        return self.recipe.commands(self.bound_now()[0], self._length())

    def _length(self) -> float | None:
        """Tokens of a text, by those of the first step."""
        if not is_whole(self.recipe.at(TEXTS)):
            return None
        lengths = [n for n in read_finished(self.recipe.at(TEXTS), ["n_tokens"]).runs["n_tokens"].to_pylist() if n]
        return float(np.minimum(lengths, self.recipe.max_new_tokens).mean()) if lengths else None


def begin(assessment: Assessment) -> None:
    """Write the prompts of an assessment into its folder, once that is found to be its own.

    Raises `UsageError` for a folder of anything else, and for a model that has changed since.
    """
    recipe, folder = assessment.recipe, folder_of(assessment.recipe.out)
    refuse_foreign_verdict(folder, folder / RUN)
    for name, part in SWEEPS.items():
        refuse_other_prompts(recipe, name, part)
        if is_whole(recipe.at(name)):
            refuse_changed_model(read_finished(recipe.at(name), ["run_id"]), assessment.model)
    mark(folder)
    recipe.parts.write(str(folder))


def assess(assessment: Assessment, do: Do, say: Say) -> tuple[Verdict, bool]:
    """Do the commands that are left, judge, and write `verdict.json`; returns the verdict, and whether it is another.

    Nothing is written where nothing is left to do. Raises `UsageError` as `begin` does, for what no command can go on
    from, and if another process assesses here, and `SweepStopped` where a command stops.
    """
    recipe, folder = assessment.recipe, folder_of(assessment.recipe.out)
    begin(assessment)
    if _first_left(assessment, set()) is not None:
        with hold(open_store(folder), say, ASSESSING):
            _do_what_is_left(assessment, do, say)
    missing = [
        f"{pluralize(n, 'run')} of {name}, which failed"
        for name in (PILOT, RUN, ORACLES)
        if (n := failed_runs(recipe.at(name)))
    ]
    steps = AssessmentSteps(recipe.at(PILOT), recipe.at(RUN), recipe.at(ORACLES), missing)
    verdict = conclude(steps, assessment.bound_now()[0], recipe.batch, assessment.is_look)
    content, places = verdict.to_json(), (folder / FILE, folder / RUN / FILE)
    changed = [place for place in places if not place.is_file() or place.read_text() != content]
    for place in changed:
        write_atomic(place, content)
    return verdict, bool(changed)


def _first_left(assessment: Assessment, tried: set[str]) -> int | None:
    """Return the place of the first step that is not done; None if all are."""
    done = StepsDone(assessment.recipe, assessment.model, assessment.config_of, tried)
    bound = assessment.bound_now()[0]
    return next((at for at, each in enumerate(assessment.commands()) if not done.has(each, bound)), None)


def _do_what_is_left(assessment: Assessment, do: Do, say: Say) -> None:
    for name in SWEEPS:
        for line in set_damaged_aside(assessment.recipe.at(name)):
            say(line)
    tried, took, said = set[str](), dict[str, Took](), ""
    while (at := _first_left(assessment, tried)) is not None:
        command, why = assessment.commands()[at], assessment.bound_now()[1]
        if why != said:
            say(said := why)
        if command.name in took:
            raise UsageError(f"step {at + 1}, {command.name}, ended without all that it leaves: choose another --out")
        for each in assessment.commands()[:at]:
            if each.script == "sweep":
                hand_on_places(each.folder, assessment.config_of(each.arguments))
        step = f"{at + 1} of {len(assessment.commands())}, {command.name}"
        say(f"{step}{forecast(assessment, took, at)}: {command.line}")
        began = time.time()
        code = do(command.script, command.arguments)
        took[command.name] = Took.since(began, command, took)
        tried.add(command.name)
        if code == BAD_INPUT:
            raise UsageError(f"step {step} can't be done")
        if code and command.script != "choose":  # which ends so if nothing that saves is certified
            raise SweepStopped(f"step {step} has not come to its end")
        if known := known_after(command.name, assessment.recipe, assessment.bound_now()[0]):
            say(f"known so far: {known}")


class Took(NamedTuple):
    """The seconds that the actors of a step were at work, and those before, in which one of them loads the model."""

    working: float
    loading: float

    @classmethod
    def since(cls, began: float, command: RecipeStep, before: Mapping[str, "Took"]) -> "Took":
        """Of a sweep, runs record when the first began; other steps load the model as the sweep before them did."""
        seconds = time.time() - began
        if command.script == "sweep" and (first := first_attempt(command.folder, began)):
            return cls(began + seconds - first, first - began)
        loading = max((each.loading for each in before.values()), default=0.0)
        return cls(max(seconds - command.n_loads * loading, seconds / 10), loading)


def forecast(assessment: Assessment, took: Mapping[str, Took], at: int) -> str:
    """How long this step and those after it take, by the tokens per second of actors at work in this call."""
    commands, left = assessment.commands(), assessment.commands()[at:]
    tokens = sum(each.tokens for each in commands if each.name in took)
    working, loading = (sum(each.working for each in took.values()), max([0.0, *(of.loading for of in took.values())]))
    if not tokens or not working:
        return ""
    seconds = sum(each.tokens * working / tokens + each.n_loads * loading for each in left)
    return f" ({pluralize(max(1, round(seconds / 60)), 'minute')} left at {tokens / working:,.0f} tokens per second)"
