"""What the steps of an assessment work with: what was asked and planned, the folders, and where work is done."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cluster.console.steps import Steps
from cluster.studies.assessment.place import Place
from eexit.messages import findings
from eexit.plan.artefacts import CARD
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import NORMAL
from eexit.plan.splits import units
from eexit.results.layout import MANIFEST
from eexit.results.store.finished_sweep import read_finished
from eexit.results.store.folder import open_store
from eexit.results.study_tables import TIMINGS
from eexit.studies.assessment import promises, sizes
from eexit.studies.assessment.asked import READS_KEY, Asked
from eexit.studies.assessment.learned import LEARNED, Way
from eexit.studies.assessment.parts import CHOOSING, DISAGREEMENT, PARTS, Enough
from eexit.studies.assessment.record import Record
from eexit.studies.assessment.sizes import Budget, SearchSizes, Speed
from eexit.studies.assessment.tables import FirstLook, SweepFigures
from eexit.studies.assessment.verdict import Bound
from eexit.studies.choosing.asks import asks_beside
from eexit.studies.choosing.question import ChoiceQuestion
from eexit.studies.timing.plan import WhatToTime, make_plan

LOOK: Final = "look"
CEILING: Final = "ceiling"
TEXTS: Final = "texts"
LEARNED_EXITS: Final = "exits"
CEILING_LEARNED: Final = "ceiling-learned"
TRIED: Final = "tried"
TRIED_FREE: Final = "tried-free"
RUN: Final = "run"


@dataclass
class Workshop:
    """The folder of an assessment, and what its steps have left there."""

    asked: Asked
    out: Path
    place: Place
    steps: Steps
    record: Record

    def __post_init__(self) -> None:
        self.parts = self.asked.parts()
        self.available = {part: len(self.parts.of[part]) for part in PARTS}
        chosen_on = self.parts.of[CHOOSING]
        units_of = units({"id": each.id, "prompt": each.prompt, "group": each.group} for each in chosen_on)
        model, run = self.asked.common["model"], open_store(self.at(RUN))
        self.asks_before = asks_beside(model, list(units_of.values()), run)
        self.enough = Enough.at(self.asked.margin, self.asked.confidence, self.asks_before + 1)
        self._step, self._since = "", 0.0

    def at(self, name: str) -> str:
        """A folder of a step."""
        return str(self.out / name)

    def remark(self, *lines: str) -> None:
        """Say what is to be known of the verdict, now and beside it."""
        for line in lines:
            if line not in self.record.remarks:
                self.steps.say(line)
        self.record.remark(*lines)

    def leave_out(self, *what: str) -> None:
        """Say what is left out, likewise."""
        self.remark(*(findings.LEFT_OUT.format(what=each) for each in what))

    @property
    def risk(self) -> str:
        """What is bounded: by the prompts, unless `settle_risk` found that answers tell nothing."""
        return str(self.record.plans.get("risk", self.parts.risk))

    def settle_risk(self, why: str) -> None:
        """From now on, the risk is disagreement."""
        self.record.plans["risk"] = DISAGREEMENT
        self.remark(f"The risk is disagreement with full depth, token by token, since {why}.")

    @property
    def bound(self) -> Bound:
        return Bound(self.risk, self.asked.margin, self.asked.confidence)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """A step, whose time counts even if it is interrupted; if it is killed, up to the work that it was at."""
        self._step, self._since, done = step, time.monotonic(), False
        self.steps.begin(step)
        try:
            yield
            done = True
        finally:
            self._note_time(done)

    def work(self, part: float) -> None:
        """A work within the step begins, which is such a part of it."""
        self.steps.work(part)
        self._note_time()

    def _note_time(self, is_done: bool = False) -> None:
        since, self._since = self._since, time.monotonic()
        self.record.spent(self._step, self._since - since, is_done)

    @property
    def first_look(self) -> FirstLook:
        return FirstLook(SweepFigures.read(self.at(LOOK)))

    @property
    def budget(self) -> Budget:
        """The minutes without what the steps took so far, and the speed: by the first step and, once settings were
        tried, by these.
        """
        look, rows = self.first_look, self.asked.timed_batches[-1]
        start = float(self.record.plans["start"])
        plain, reading = (rows / look.seconds(name, rows) for name in (NORMAL, READS_KEY))
        speed = Speed(plain, min(reading, float(self.record.plans.get("tried_speed", math.inf))), start)
        left = 60 * self.asked.minutes - sum(self.record.seconds.values())
        return Budget(left, speed, self.available, self.enough)

    @property
    def search_sizes(self) -> SearchSizes:
        """What the search has room for: planned once, after the first step."""
        if "search" not in self.record.plans:
            budget, max_new_tokens, minutes = self.budget, self.asked.common["max_new_tokens"], self.asked.minutes
            planned = sizes.search_sizes(budget, max_new_tokens, minutes)
            said, is_enough = promises.of_minutes(budget, self.parts.risk, max_new_tokens, minutes)
            (self.steps.say if is_enough else self.remark)(said)
            self.record.plans["search"] = asdict(planned)
            self.leave_out(*planned.left_out)
        return SearchSizes(**self.record.plans["search"])

    def figures(self, *names: str) -> list[SweepFigures]:
        """Of those of these folders that are there."""
        return [SweepFigures.read(self.at(name)) for name in names if self.is_there(name)]

    def question(self, pilot: str | None) -> ChoiceQuestion:
        return ChoiceQuestion(self.risk, self.asked.margin, self.asked.confidence, pilot=pilot)

    def sweep(self, config: SweepConfig, name: str, part: float) -> None:
        """A sweep in a folder, which is such a part of its step."""
        self.work(part)
        self.place.sweep(config, self.at(name))

    def time_it(self, name: str, what: WhatToTime) -> None:
        self.place.study(self.at(name), partial(make_plan, asked=what), what.columns)

    def has_timing(self, name: str, key: str, batch: int, rounds: int) -> bool:
        """Whether a configuration was timed with so many rows, and in so many rounds: that was the end of a timing."""
        rows = TIMINGS.rows(open_store(self.at(name)))
        return any(row["round"] >= rounds for row in rows if (row["configuration"], row["batch"]) == (key, batch))

    def drafts(self, name: str) -> list[str]:
        entries = read_finished(self.at(name), ["status"]).manifest.configurations
        return [entry["key"] for entry in entries if entry["draft_layer"] is not None]

    def is_there(self, name: str) -> bool:
        return Path(self.at(name), MANIFEST).is_file()

    def ways(self) -> dict[str, Way]:
        """How layers can be read, by the folder of the ceiling."""
        there = [each for each in LEARNED if Path(self.exits(each.what), CARD).is_file()]
        roles = {each.role: self.exits(each.what) for each in there}
        return {CEILING: Way(), **({CEILING_LEARNED: Way(**roles)} if "readout" in roles else {})}

    def exits(self, what: str) -> str:
        return str(self.out / LEARNED_EXITS / what)
