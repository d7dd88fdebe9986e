"""Does it pay? The commands of a recipe that are left, one after the other, and what their tables say: `assess`."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from cluster.assessment.prompt_parts import ANSWERS, DISAGREEMENT, PILOT, RUN, TRAINING
from cluster.assessment.recipe import ORACLES, TEXTS, Command, Recipe
from cluster.assessment.record import AssessmentRecord, folder_of, refuse_foreign_verdict
from cluster.assessment.steps_done import is_done, is_whole, set_damaged_aside
from eexit.errors import SweepStopped, UsageError
from eexit.output.text import counted
from eexit.output.whole_files import write_whole
from eexit.plan.configuration import NORMAL
from eexit.plan.hashes import content_hash
from eexit.quality.intervals import clopper_pearson
from eexit.quality.risks import answers_tell
from eexit.results.finished_sweep import read_finished, refuse_changed_model
from eexit.results.store.folder import open_store
from eexit.results.store.lease import ASSESSING, hold
from eexit.results.store.manifest import LostManifestError, read_manifest
from eexit.studies.assessment.conclude import AssessmentSteps, conclude
from eexit.studies.assessment.verdict import FILE, Bound, Verdict

SWEEPS: Final = {TEXTS: TRAINING, PILOT: PILOT, RUN: RUN, ORACLES: RUN}  # and whose prompts they have
Do = Callable[[str, Sequence[str]], int]  # a script of `jobs/` with these arguments, in this process; its exit code
Say = Callable[[str], None]


@dataclass(frozen=True)
class Assessment:
    """A recipe at a bound, for the model as it is now. A look certifies nothing, and so it has no answer."""

    recipe: Recipe
    bound: Bound
    model: Mapping[str, Any]
    is_look: bool = False

    @property
    def asked(self) -> Mapping[str, Any]:
        """All that the results depend on."""
        recipe = self.recipe
        return {
            "model": recipe.common, "reading": recipe.reading, "layers": recipe.layers, "prompts": recipe.parts.digest,
            "max_new_tokens": recipe.max_new_tokens, "at_most": self.bound.at_most, "batch": recipe.batch,
            "look": self.is_look,
        }  # fmt: skip

    def bound_now(self) -> tuple[Bound, str]:
        """The bound, and why it is not on lost answers although prompts have them: full depth gets too few right."""
        if self.bound.risk != ANSWERS or not is_whole(self.recipe.at(PILOT)):
            return self.bound, ""
        runs = read_finished(self.recipe.at(PILOT), ["configuration", "correct"]).runs.to_pylist()
        marks = [bool(run["correct"]) for run in runs if run["configuration"] == NORMAL]
        low, _ = clopper_pearson(sum(marks), len(marks))
        if answers_tell(low, self.bound.at_most):
            return self.bound, ""
        why = (
            f"full depth gets {sum(marks)} of {counted(len(marks), 'answer')} right, so that losing half of them could "
            "keep the bound: the risk is disagreement with full depth, token by token"
        )
        return self.bound.model_copy(update={"risk": DISAGREEMENT}), why

    def commands(self) -> Sequence[Command]:
        """All ten, by what is known now."""
        return self.recipe.commands(self.bound_now()[0], self._length())

    def _length(self) -> float | None:
        """Tokens of a text, by those of the first step."""
        if not is_whole(self.recipe.at(TEXTS)):
            return None
        lengths = [n for n in read_finished(self.recipe.at(TEXTS), ["n_tokens"]).runs["n_tokens"].to_pylist() if n]
        return float(np.minimum(lengths, self.recipe.max_new_tokens).mean()) if lengths else None


def begin(assessment: Assessment) -> AssessmentRecord:
    """The record of an assessment, once its folder is found to be its own; its prompts are written there.

    Raises `UsageError` for a folder of anything else, and for a model that has changed since.
    """
    recipe, folder = assessment.recipe, folder_of(assessment.recipe.out)
    refuse_foreign_verdict(folder, folder / RUN)
    manifests = {}
    for name in SWEEPS:
        try:
            manifests[name] = read_manifest(open_store(recipe.at(name)))
        except LostManifestError:
            manifests[name] = None
    begun = {name: found for name, found in manifests.items() if found}
    record = AssessmentRecord.open(folder, assessment.asked, has_begun=bool(begun))
    for name, manifest in begun.items():
        _refuse_other_prompts(assessment, name, SWEEPS[name], manifest.config["prompts"])
        if is_whole(recipe.at(name)):
            refuse_changed_model(read_finished(recipe.at(name), ["run_id"]), assessment.model)
    record.write()
    recipe.parts.write(str(folder))
    return record


def assess(assessment: Assessment, do: Do, say: Say) -> Verdict:
    """Do the commands that are left, judge, and write `verdict.json`.

    Raises `UsageError` as `begin` does, and if another process assesses here, and `SweepStopped` where a command stops.
    """
    recipe, folder = assessment.recipe, folder_of(assessment.recipe.out)
    with hold(open_store(folder), say, ASSESSING):
        record = begin(assessment)
        for name in SWEEPS:
            for line in set_damaged_aside(recipe.at(name)):
                say(line)
        said = ""
        for at in range(len(assessment.commands())):
            command, (bound, why) = assessment.commands()[at], assessment.bound_now()
            if why != said:
                say(said := why)
            if is_done(command, recipe, bound):
                continue
            left = forecast(assessment, record, at)
            say(f"{at + 1} of {len(assessment.commands())}, {command.name}{left}: {command.line}")
            _do(command, do, record)
            if not is_done(command, recipe, assessment.bound_now()[0]):
                raise SweepStopped(f"step {at + 1}, {command.name}, has not come to its end")
        steps = AssessmentSteps(recipe.at(PILOT), recipe.at(RUN), recipe.at(ORACLES))
        verdict = conclude(steps, assessment.bound_now()[0], recipe.batch, assessment.is_look)
        for place in (folder, folder / RUN):
            write_whole(place / FILE, verdict.to_json())
        return verdict


def _do(command: Command, do: Do, record: AssessmentRecord) -> None:
    began = time.monotonic()
    try:
        do(command.script, command.arguments)
    finally:
        record.took(command.name, time.monotonic() - began)


def forecast(assessment: Assessment, record: AssessmentRecord, at: int) -> str:
    """How long this step and those after it take, by the tokens per second of those before."""
    commands = assessment.commands()
    tokens = sum(each.tokens for each in commands[:at] if each.name in record.seconds)
    seconds = sum(record.seconds.get(each.name, 0.0) for each in commands[:at])
    if not tokens or not seconds:
        return ""
    left = sum(each.tokens for each in commands[at:]) * seconds / tokens
    minutes = max(1, round(left / 60))
    return f" ({counted(minutes, 'minute')} left at {tokens / seconds:,.0f} tokens per second)"


def _refuse_other_prompts(assessment: Assessment, name: str, part: str, held: Sequence[Mapping[str, Any]]) -> None:
    """Raises `UsageError` where a step has other prompts, as after its record was lost."""
    planned = [asdict(each) for each in assessment.recipe.parts.of[part]]
    if content_hash(planned) != content_hash([{**each} for each in held]):
        raise UsageError(
            f"{assessment.recipe.at(name)} is of other prompts: choose another --out, or the prompts that it has"
        )
