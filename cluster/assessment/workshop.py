"""What the steps of an assessment work with: what was asked and planned, the folders, and where work is done.

A step says itself what it leaves, and `assess` does it again where that is not there: `is_whole` and its like look.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from cluster import interruption
from cluster.assessment import sizes
from cluster.assessment.asked import READS_KEY, Asked
from cluster.assessment.learned import LEARNED, Way
from cluster.assessment.outcome.figures import latest_choice
from cluster.assessment.outcome.tables import FirstLook, read_step
from cluster.assessment.outcome.verdict import Bound
from cluster.assessment.parts import CHOOSING, DISAGREEMENT, PARTS, Enough
from cluster.assessment.record import Front, Record
from cluster.assessment.sizes import Budget, SearchSizes
from cluster.console.steps import Steps
from eexit.plan.artefacts import CARD, Card, damage, parse_card
from eexit.plan.config import AUTO_DTYPE, SweepConfig
from eexit.plan.configuration import NORMAL
from eexit.plan.model_facts import ModelFacts
from eexit.plan.splits import units
from eexit.results.finished_sweep import FinishedSweep, read_finished
from eexit.results.layout import MANIFEST, Manifest
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import LostManifestError, read_manifest
from eexit.results.store.writing_shards import survey
from eexit.results.study_tables import STUDY_TABLES, TIMINGS
from eexit.studies.choosing.asks import asks_beside
from eexit.studies.choosing.question import ChoiceQuestion
from eexit.studies.choosing.study import ChoosingStudy
from eexit.studies.study import Study
from eexit.studies.timing.study import LEAST_TOKENS, WhatToTime, make_plan
from eexit.training.plan import WhatToTrain

LOOK: Final = "look"
CEILING: Final = "ceiling"
TEXTS: Final = "texts"
LEARNED_EXITS: Final = "exits"
CEILING_LEARNED: Final = "ceiling-learned"
TRIED: Final = "tried"
TRIED_FREE: Final = "tried-free"
RUN: Final = "run"
INSTEAD: Final = "instead"
SWEEPS: Final = (LOOK, CEILING, TEXTS, CEILING_LEARNED, TRIED, TRIED_FREE, RUN, INSTEAD)
TIMES_AS_LONG: Final = 2  # that a step may take which is done again, since what it left is gone


Plan = Callable[[FinishedSweep], Study]


class Place(Protocol):
    """Where sweeps, studies and trainings are done; what has landed of a sweep is not done again."""

    def look(self, config: SweepConfig) -> ModelFacts: ...
    def sweep(self, config: SweepConfig, out: str) -> None: ...
    def study(self, results: str, plan: Plan, columns: Sequence[str]) -> None: ...
    def train(self, results: str, asked: WhatToTrain) -> Card: ...


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
        if (plans := self.record.plans).asks_before is None:
            plans.asks_before = asks_beside(self.asked.common["model"], list(units_of.values()), self.out, RUN)
        self.asks_before = plans.asks_before
        self.enough = Enough.at(self.asked.margin, self.asked.confidence, self.asks_before + 1)
        self._step, self._since, self._end = "", 0.0, math.inf

    @property
    def layers(self) -> Sequence[int]:
        """The exitable ones."""
        return self.place.look(self.asked.config(self.parts.all))[1]

    def at(self, name: str) -> str:
        """A folder of a step."""
        return str(self.out / name)

    def remark(self, *lines: str) -> None:
        """Say what is to be known of the verdict, now and beside it."""
        for line in self.record.remark(*lines):
            self.steps.say(line)

    def leave_out(self, *what: str) -> None:
        """Say what is left out, now and beside the verdict."""
        self.remark(*(f"Left out: {each}." for each in what))

    @property
    def risk(self) -> str:
        """What is bounded: by the prompts, unless `settle_risk` found that answers tell nothing."""
        return self.record.plans.risk or self.parts.risk

    def settle_risk(self, why: str) -> None:
        """From now on, the risk is disagreement."""
        self.record.plans.risk = DISAGREEMENT
        self.remark(f"The risk is disagreement with full depth, token by token, since {why}.")

    @property
    def bound(self) -> Bound:
        return Bound(self.risk, self.asked.margin, self.asked.confidence)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """A step, whose time counts even if it is interrupted; if it is killed, up to the work that it was at.

        Raises `TimeIsUpError` once it has taken more than leaves time for the later ones.
        """
        took_before = self.record.begins(step)
        later = [each for each in sizes.STEPS[sizes.STEPS.index(step) + 1 :] if each not in self.record.finished]
        seconds = max(sizes.most_seconds(step, self.seconds_left, later), TIMES_AS_LONG * took_before)
        self._step, self._since, done = step, time.monotonic(), False
        self._end = self._since + seconds
        self.steps.begin(step)
        try:
            with interruption.until(self._end):
                interruption.check()
                yield
            done = True
        finally:
            self._note_time(done)

    def work(self, part: float) -> None:
        """Say that work within the step begins which makes up this part of it."""
        self.steps.work(part)
        self._note_time()

    def _note_time(self, is_done: bool = False) -> None:
        since, self._since = self._since, time.monotonic()
        self.record.spent(self._step, self._since - since, is_done)

    @property
    def step_seconds_left(self) -> float:
        """That the current step may still take."""
        return max(0.0, self._end - time.monotonic())

    @property
    def minutes_that_would_do(self) -> int:
        """By how far the current step came in the time that it had."""
        return sizes.minutes_that_would_do(self.asked.minutes, self.steps.share_of_step, self._step)

    @property
    def seconds_left(self) -> float:
        """Of the minutes, without what the steps took so far."""
        return 60 * self.asked.minutes - sum(self.record.seconds.values())

    @property
    def first_look(self) -> FirstLook:
        return FirstLook(read_step(self.at(LOOK)))

    @property
    def batches(self) -> list[int]:
        """The batch sizes that are asked about and that the first step had time to time."""
        return [batch for batch in self.asked.batches if batch in self.record.plans.timed]

    @property
    def budget(self) -> Budget:
        """The minutes without what the steps took so far, and the speed: by the first step and, once settings were
        tried, by these.
        """
        look, plans = self.first_look, self.record.plans
        rows = max(plans.timed)
        plain, reading = (rows / look.seconds(name, rows) for name in (NORMAL, READS_KEY))
        start = sizes.USUAL_START if plans.start is None else plans.start
        reading = min(reading, plans.tried_speed or math.inf)
        return Budget(self.seconds_left, plain, reading, start, self.available, self.enough)

    @property
    def search_sizes(self) -> SearchSizes:
        """What the search has room for: planned once, after the first step."""
        assert self.record.plans.search is not None
        return self.record.plans.search

    def learn_no_more_than(self, learns: Sequence[str]) -> None:
        """From now on, nothing else is planned to be learned."""
        self.record.plans.search = replace(self.search_sizes, learns=tuple(learns))
        self.record.write()

    @property
    def front(self) -> Front | None:
        """What was tried on the pilot; None if nothing was, or not all of it."""
        front = self.record.plans.front
        return front if front and front.settings is not None and self.is_whole(TRIED) else None

    def sweeps(self, *names: str) -> list[FinishedSweep]:
        """Of those of these sweeps all of whose runs are there."""
        return [read_step(self.at(name)) for name in names if self.is_whole(name)]

    def question(self, pilot: str | None) -> ChoiceQuestion:
        return ChoiceQuestion(self.risk, self.asked.margin, self.asked.confidence, pilot=pilot)

    def choose(self, name: str, pilot: str) -> None:
        """Among the settings of a sweep, in the order that another one gives."""
        question = self.question(self.at(pilot))
        self.place.study(self.at(name), partial(ChoosingStudy, question=question), question.columns)

    def sweep(self, config: SweepConfig, name: str, part: float) -> None:
        """A sweep in a folder, which is such a part of its step, in the dtype that the first one has."""
        self.work(part)
        if config.dtype == AUTO_DTYPE and (first := self.manifest(LOOK)):
            config = config.model_copy(update={"dtype": first.config["dtype"]})
        self.place.sweep(config, self.at(name))

    def time_it(self, name: str, what: WhatToTime) -> None:
        self.place.study(self.at(name), partial(make_plan, asked=what), what.columns)

    @property
    def timed_tokens(self) -> int:
        """How many tokens of a text are timed."""
        return max(LEAST_TOKENS, min(sizes.TIMED_TOKENS, int(self.asked.common["max_new_tokens"])))

    def choice(self, name: str) -> Mapping[str, Any] | None:
        """The row of a sweep's latest choice; None before all its runs are there, and before it is made."""
        return latest_choice(read_finished(self.at(name), ["status"])) if self.is_whole(name) else None

    def untimed(self, name: str, key: str, rounds: int) -> list[int]:
        """The batch sizes at which a configuration was not timed in so many rounds."""
        return [batch for batch in self.batches if self.rounds(name, key, batch) < rounds]

    def rounds(self, name: str, key: str, batch: int) -> int:
        """In how many rounds a configuration was timed with so many rows, the last time."""
        rows = TIMINGS.rows(open_store(self.at(name)))
        of_key = [row for row in rows if (row["configuration"], row["batch"]) == (key, batch)]
        latest = of_key[-1]["timing_id"] if of_key else None
        return max((row["round"] for row in of_key if row["timing_id"] == latest), default=0)

    def drafts(self, name: str) -> list[str]:
        entries = read_finished(self.at(name), ["status"]).manifest.configurations
        return [entry["key"] for entry in entries if entry["draft_length"] is not None]

    def is_there(self, name: str) -> bool:
        return Path(self.at(name), MANIFEST).is_file()

    def manifest(self, name: str) -> Manifest | None:
        """That of a sweep; None if there is none, or it is damaged."""
        try:
            return read_manifest(open_store(self.at(name)))
        except LostManifestError:
            return None

    def is_whole(self, name: str) -> bool:
        """Whether all runs of a sweep are there, undamaged."""
        manifest = self.manifest(name)
        if manifest is None:
            return False
        found = survey(open_store(self.at(name)))
        return len(found.done) + found.n_errors >= (manifest.n_runs or 0)

    def is_learned(self, what: str) -> bool:
        """Whether an artefact is there, undamaged."""
        try:
            card = parse_card(Path(self.exits(what), CARD).read_bytes())
        except (OSError, ValueError):
            return False
        return damage(Path(self.exits(what)), card) is None

    def set_damaged_aside(self) -> None:
        """So that what studies found is read without what is damaged, which is done again."""
        for name in SWEEPS:
            for table in STUDY_TABLES:
                for file, aside in table.set_damaged_aside(open_store(self.at(name))):
                    self.steps.say(f"{name}/{file} is damaged: it is now in {name}/{aside}")

    def ways(self) -> dict[str, Way]:
        """How layers can be read, by the folder of the ceiling."""
        there = [each for each in LEARNED if each.what in self.search_sizes.learns and self.is_learned(each.what)]
        roles = {each.role: self.exits(each.what) for each in there}
        return {CEILING: Way(), **({CEILING_LEARNED: Way(**roles)} if "readout" in roles else {})}

    def few(self, what: str) -> str:
        """The name of what is learned in this way from fewer texts."""
        return f"{what}-few"

    def exits(self, what: str) -> str:
        return str(self.out / LEARNED_EXITS / what)
