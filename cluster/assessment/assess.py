"""Does it pay? The steps of an assessment, each an ordinary sweep or study in a folder of its own: `assess`.

    look/               exits of all tokens at each layer, timed: T(rows, layers), drafts and `generate` beside it
    ceiling/            the pilot's texts at full depth, and what oracles would save; replays of settings on them
    texts/, exits/      texts of the model's own, sampled, and what was learned from them
    ceiling-learned/    as ceiling/, read as was learned
    tried/              the front of the replays' settings, run on the pilot: the order in which they are tested
    tried-free/         the front of those that would save most if deciding were free, there too
    run/                the few of them that are tested, on the prompts for choosing and reporting; choice and times
    instead/            drafts, and transformers' own `generate` with its lookup, timed
    assessment.json     what was asked and planned, and how long each step took (`cluster.assessment.record`)
    verdict.json        what came of it (`cluster.assessment.outcome.words`), in run/ too

What is finished is found and not done again, whatever ended the command before: a step is finished by what it left.
What of that is gone or damaged is done again, and said. Each step has a deadline. What is not done by then is left out,
and named; but without the first two steps there is no verdict, and the minutes are refused.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NoReturn

from cluster.assessment import sizes
from cluster.assessment.asked import Asked
from cluster.assessment.certifying import (
    choose,
    has_chosen,
    has_run,
    has_timed,
    run,
    time_settings,
)
from cluster.assessment.instead import (
    cut_rows,
    has_taken_instead,
    has_timed_with_more_rows,
    take_instead,
    time_with_more_rows,
)
from cluster.assessment.learned import searched_layers
from cluster.assessment.outcome.figures import AssessmentTables, figures_of
from cluster.assessment.outcome.verdict import Verdict, judge
from cluster.assessment.outcome.words import as_json
from cluster.assessment.parts import ANSWERS
from cluster.assessment.preparing import (
    cut_learning,
    find_ceiling,
    has_ceiling,
    has_learned,
    has_looked,
    learn,
    look,
)
from cluster.assessment.record import Record, folder_of
from cluster.assessment.searching import has_searched, search
from cluster.assessment.workshop import (
    CEILING,
    CEILING_LEARNED,
    INSTEAD,
    RUN,
    TRIED,
    TRIED_FREE,
    Place,
    Plan,
    Workshop,
)
from cluster.console.steps import Steps
from cluster.interruption import TimeIsUpError
from cluster.job import SweepJob
from cluster.studies.run import run_study
from cluster.studies.training import train_exits
from cluster.sweep import run_job
from eexit.errors import UsageError
from eexit.output.progress import Display
from eexit.output.whole_files import write_whole
from eexit.plan.artefacts import Card
from eexit.plan.config import SweepConfig
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.model_facts import ModelFacts, look_at_model
from eexit.results.store.folder import open_store
from eexit.results.store.lease import ASSESSING, hold
from eexit.studies.verdict_file import FILE
from eexit.sweeps.arguments import Device
from eexit.training.plan import WhatToTrain


@dataclass
class OnRay:
    """On the Ray that this process has joined, one after the other. The model is looked at once in each dtype."""

    device: Device
    display: Display
    rows_per_shard: int = 128
    trusts_code: bool = False
    _facts: dict[str, ModelFacts] = field(default_factory=dict, init=False)  # by dtype

    def look(self, config: SweepConfig, rows: int = 0) -> ModelFacts:
        if config.dtype not in self._facts:
            self._facts[config.dtype] = look_at_model(config, self.rows_per_shard)
        model, _, memory = self._facts[config.dtype]
        return model, resolve_exitable_layers(config, model["n_layers"]), memory

    def sweep(self, config: SweepConfig, out: str) -> None:
        job = SweepJob(config=config, out=out, device=self.device, rows_per_shard=self.rows_per_shard)
        run_job(job, self.display, look=self.look)

    def study(self, results: str, plan: Plan, columns: Sequence[str]) -> None:
        run_study(results, plan, self.device, self.display, self.look, columns, self.trusts_code)

    def train(self, results: str, asked: WhatToTrain) -> Card:
        return train_exits(results, asked, self.device, self.display, self.look, self.trusts_code)


@dataclass(frozen=True)
class AssessmentStep:
    """A step: its work, and whether all that it leaves is there, undamaged.

    Once its time is over, `cut` makes do with what it has left, names what is left out that more minutes go on with, or
    raises `UsageError`.
    """

    name: str
    work: Callable[[Workshop], None]
    has_left_all: Callable[[Workshop], bool]
    cut: Callable[[Workshop], str | None]


def assess(asked: Asked, out: str | Path, place_on: Callable[[Display], Place], display: Display) -> Verdict:
    """Do the steps that are left, in the place that shows its progress on a display, and judge.

    Raises `UsageError` for what can't be used, such as a folder that another process assesses in, or minutes that are
    too few; and whatever stops a step.
    """
    folder = folder_of(out)
    with display, hold(open_store(folder), display.say, ASSESSING):
        record = Record.open(out, asked.as_dict())
        steps = Steps(display, sizes.SHARES, record.finished)
        shop = Workshop(asked, folder, place_on(steps), steps, record)
        _say_what_is_asked(shop)
        shop.asked = asked.at_layers(searched_layers(shop.layers))
        shop.set_damaged_aside()
        for step in STEPS:
            _do(step, shop)
        return _judged(shop)


def _do(step: AssessmentStep, shop: Workshop) -> None:
    if step.has_left_all(shop):
        if step.name not in shop.record.finished:  # it was interrupted once all was there
            shop.record.spent(step.name, 0.0, is_done=True)
        return
    if step.name in shop.record.cut and shop.seconds_left <= 0:  # what was said stands
        return
    if step.name in shop.record.finished:
        shop.steps.say(f"{step.name} was finished, and what it had left is damaged or gone: that is done again")
    try:
        with shop.timed(step.name):
            step.work(shop)
    except TimeIsUpError:
        if not step.has_left_all(shop) and (left_out := step.cut(shop)):
            more = f"with --minutes {shop.minutes_that_would_do:,} it goes on"
            line = f"Left out: {left_out}, for want of minutes: {more}."
            shop.steps.say(line)
            shop.record.cuts(step.name, line)
        if step.has_left_all(shop):
            shop.record.spent(step.name, 0.0, is_done=True)


def _refuse(shop: Workshop) -> NoReturn:
    """Raises `UsageError`: there is no verdict without this step."""
    raise UsageError(
        f"--minutes {shop.asked.minutes:g} are too few on this machine as it is now: by how far it came in them, about "
        f"{shop.minutes_that_would_do:,} would do; what was measured stays, and the same command with more goes on"
    )


STEPS: Final = (
    AssessmentStep(sizes.LOOK, look, has_looked, _refuse),
    AssessmentStep(sizes.CEILING, find_ceiling, has_ceiling, _refuse),
    AssessmentStep(sizes.LEARN, learn, has_learned, cut_learning),
    AssessmentStep(sizes.SEARCH, search, has_searched, lambda shop: "the rest of the search, and the run"),
    AssessmentStep(sizes.RUN, run, has_run, lambda shop: "the rest of the run, and the choice"),
    AssessmentStep(sizes.CHOOSE, choose, has_chosen, lambda shop: "the choice"),
    AssessmentStep(sizes.TIME, time_settings, has_timed, lambda shop: "some rounds of the times"),
    AssessmentStep(
        sizes.INSTEAD, take_instead, has_taken_instead, lambda shop: "the rest of what could be taken instead of exits"
    ),
    AssessmentStep(sizes.ROWS, time_with_more_rows, has_timed_with_more_rows, cut_rows),
)


def _judged(shop: Workshop) -> Verdict:
    steps = AssessmentTables(
        look=shop.first_look,
        ceilings=shop.sweeps(CEILING, CEILING_LEARNED),
        tried=shop.sweeps(TRIED, TRIED_FREE),
        run=next(iter(shop.sweeps(RUN)), None),
        drafts=next(iter(shop.sweeps(INSTEAD)), None),
    )
    figures = figures_of(steps, shop.bound, shop.asked.batches)
    verdict = judge(replace(figures, missing=shop.record.missing))
    text = as_json(verdict, shop.asked.common["model"], shop.record.seconds, shop.record.remarks)
    for folder in (shop.out, *([Path(shop.at(RUN))] if shop.is_there(RUN) else [])):
        write_whole(folder / FILE, text)
    return verdict


def _say_what_is_asked(shop: Workshop) -> None:
    if shop.asks_before:
        shop.remark(sizes.told_of_asks(shop.asks_before, shop.enough))
    for line in sizes.told_of_prompts(shop.enough, shop.available, shop.parts.risk):
        shop.steps.say(line)
    if shop.parts.risk != ANSWERS:
        shop.remark(
            "Too few prompts bring an answer, so that the risk is disagreement with full depth, token by token."
        )
    load, cpus = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load > cpus / 2 and not shop.record.seconds:  # later, the load may be that of the call before
        shop.remark(f"The machine was busy (load {load:.1f} of {cpus} CPUs), which widens the intervals of times.")
