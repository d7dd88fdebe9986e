"""Does it pay? The steps of an assessment, each an ordinary sweep or study in a folder of its own: `assess`.

    look/               exits of all tokens at each layer, timed: T(rows, layers), drafts and `generate` beside it
    ceiling/            the pilot's texts at full depth, and what oracles would save; replays of settings on them
    texts/, exits/      texts of the model's own, sampled, and what was learned from them
    ceiling-learned/    as ceiling/, read as was learned
    tried/              the front of the replays' settings, run on the pilot: the order in which they are tested
    run/                the few of them that are tested, on the prompts for choosing and reporting; choice and times
    assessment.json     what was asked and planned, and how long each step took (`eexit.studies.assessment.record`)
    verdict.json        what came of it (`eexit.studies.assessment.words`), in run/ too

What is finished is found and not done again, whatever ended the command before.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cluster.console.steps import Steps
from cluster.studies.assessment.place import Place
from eexit.messages.errors import UsageError
from eexit.messages.locations import shown
from eexit.messages.progress import Display
from eexit.messages.written import percent, written
from eexit.plan.artefacts import Card
from eexit.plan.config import SCREEN, Prompt, SweepConfig
from eexit.plan.configuration import EVERY, NORMAL
from eexit.quality.learn_then_test import pareto_sequence
from eexit.results.landed import read_columns
from eexit.results.layout import MANIFEST
from eexit.results.store.finished_sweep import read_finished
from eexit.results.store.folder import open_store
from eexit.results.study_tables import REPLAYS, TIMINGS
from eexit.studies.assessment import learned, sizes
from eexit.studies.assessment.asked import READS_ALL, Asked
from eexit.studies.assessment.front import Found, LookPrices, best_set, cost_within, found_of, front, of_set, rules_of
from eexit.studies.assessment.learned import DEPLOYED, LEARNED, ORACLE, UNALTERED, Rules, Way
from eexit.studies.assessment.parts import CHOOSING, PARTS, PILOT, REPORTING, TRAINING
from eexit.studies.assessment.record import Record
from eexit.studies.assessment.sizes import RunSizes, SearchSizes, Speed
from eexit.studies.assessment.tables import FirstLook, SweepFigures, figures_of, latest_choice, to_time
from eexit.studies.assessment.verdict import FILE, Bound, Verdict
from eexit.studies.assessment.verdict import judge as verdict_of
from eexit.studies.assessment.words import as_json
from eexit.studies.choosing.evidence import Evidence
from eexit.studies.choosing.question import ChoiceQuestion
from eexit.studies.choosing.study import ChoosingStudy
from eexit.studies.controls import controls_of
from eexit.studies.replay.plan import SettingsToReplay, make_replay_plan
from eexit.studies.timing.plan import COLUMNS, WhatToTime, make_plan
from eexit.whole_files import write_whole

LOOK, CEILING, TEXTS, EXITS, CEILING_LEARNED, TRIED, RUN = FOLDERS = (
    "look", "ceiling", "texts", "exits", "ceiling-learned", "tried", "run",
)  # fmt: skip
LEAVES = {sizes.LOOK: (LOOK,), sizes.CEILING: (CEILING,)}  # which folders steps always leave
ORACLE_KEY = f"{DEPLOYED}/{ORACLE}"
ONE_IN = 4  # texts has what agreement by number of tokens is shown with, beside all


def assess(asked: Asked, out: str | Path, place: Place, display: Display) -> Verdict:
    """Do the steps that are left, and judge. Raises `UsageError` for what can't be used, and whatever stops a step."""
    folder = Path(out).expanduser().resolve()
    if "://" in str(out):
        raise UsageError(f"--out {shown(str(out))} is a URI: give a folder, which models are loaded from")
    if folder.is_file():
        raise UsageError(f"--out {folder} is a file: give a folder")
    for name in (MANIFEST, "card.json"):
        if (folder / name).exists():
            raise UsageError(f"--out {folder} holds other results ({name}): choose another --out")
    record = Record.open(folder, asked.as_dict())
    with display:
        return Assessment(asked, folder, place, Steps(display, sizes.SHARES, record.finished), record).judge()


@dataclass
class Assessment:
    """The steps, in order, and what they leave for those after them."""

    asked: Asked
    out: Path
    place: Place
    steps: Steps
    record: Record
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.parts = self.asked.parts()
        self.available = {part: len(self.parts.of[part]) for part in PARTS}
        self.bound = Bound(self.parts.risk, self.asked.margin, self.asked.confidence)

    def judge(self) -> Verdict:
        """All steps, and the verdict."""
        self._say_what_is_asked()
        for step, work in self._works().items():
            if step not in self.finished:
                with self._timed(step):
                    work()
        run = SweepFigures.read(self.at(RUN)) if self._runs else None
        figures = figures_of(
            self.first_look, self._best_ceiling, run or self._tried, self.bound, self.asked.batches, ORACLE_KEY
        )
        verdict = verdict_of(figures)
        text = as_json(verdict, self.asked.common["model"], self.record.seconds, self.record.remarks)
        write_whole(self.out / FILE, text)
        if run:
            write_whole(Path(self.at(RUN), FILE), text)
        return verdict

    @property
    def finished(self) -> list[str]:
        """The steps that are done, and whose results are there."""
        return [step for step in self.record.finished if all(map(self._is_there, LEAVES.get(step, ())))]

    def at(self, name: str) -> str:
        """A folder of a step."""
        return str(self.out / name)

    def _works(self) -> Mapping[str, Callable[[], None]]:
        return {
            sizes.LOOK: self._look,
            sizes.CEILING: self._find_ceiling,
            sizes.LEARN: self._learn,
            sizes.SEARCH: self._search,
            sizes.RUN: self._run,
            sizes.CHOOSE: self._choose,
            sizes.TIME: self._time,
        }

    def _say_what_is_asked(self) -> None:
        enough, n = self.asked.enough, self.available
        self.steps.say(
            f"a margin of {percent(self.asked.margin, 0)} takes {enough.least} prompts for choosing at the least, and "
            f"{enough.likely} to be likely shown; there are {n[CHOOSING]:,}, and {n[REPORTING]:,} for reporting"
        )
        if self.parts.risk != "answers":
            self._remark(
                "too few prompts bring an answer, so that the risk is disagreement with full depth, token by token"
            )
        load, cpus = os.getloadavg()[0], os.cpu_count() or 1
        if load > cpus / 2 and sizes.TIME not in self.record.finished:
            self._remark(f"the machine was busy (load {load:.1f} of {cpus} CPUs), which widens the intervals of times")

    def _remark(self, *lines: str) -> None:
        for line in lines:
            if line not in self.record.remarks:
                self.steps.say(line)
        self.record.remark(*lines)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        """A step, whose time counts even if it is interrupted."""
        began, done = time.monotonic(), False
        self.steps.begin(step)
        try:
            yield
            done = True
        finally:
            self.record.spent(step, time.monotonic() - began, done)

    @property
    def _seconds_left(self) -> float:
        """Of the minutes, without what the steps so far took, and what this call's present step has taken."""
        return 60 * self.asked.minutes - sum(self.record.seconds.values())

    # 1. How long a step takes, by rows and layers.

    def _look(self) -> None:
        prompts = self.parts.some(PILOT, sizes.SWEPT_PROMPTS)
        _, layers, _ = self.place.look(self.asked.config(prompts))
        began = time.monotonic()
        self._sweep(self.asked.look(prompts, layers), LOOK, 0.3)
        self.record.plans.setdefault("start", time.monotonic() - began)
        if not self._has_timing(LOOK):
            self.steps.work(0.7)
            keys = [f"{UNALTERED}/{READS_ALL[0]}/{READS_ALL[1]:g}", *self._drafts(LOOK)]
            what = WhatToTime(
                keys, self.asked.timed_batches, sizes.LOOK_PROMPTS, sizes.LOOK_TOKENS, sizes.LOOK_ROUNDS, True
            )
            self._time_it(LOOK, what)
        look = self.first_look
        self.record.write()
        self.steps.say(
            f"a read of the head costs {written(look.head_in_layers, '.1f')} layers; a step takes "
            + ", ".join(
                f"{written(1e3 * seconds[-1], '.0f')} ms with {rows} {'row' if rows == 1 else 'rows'}"
                for rows, seconds in (look.steps.seconds.items() if look.steps else ())
            )
        )

    @property
    def first_look(self) -> FirstLook:
        return FirstLook(SweepFigures.read(self.at(LOOK)))

    @property
    def _speed(self) -> Speed:
        """By the first step; and by the settings that were tried, once they were."""
        look, rows = self.first_look, self.asked.timed_batches[-1]
        start = float(self.record.plans["start"])
        key = f"{UNALTERED}/{READS_ALL[0]}/{READS_ALL[1]:g}"
        plain, reading = (rows / look.seconds(name, rows) for name in (NORMAL, key))
        return Speed(plain, min(reading, float(self.record.plans.get("tried_speed", math.inf))), start)

    @property
    def search_sizes(self) -> SearchSizes:
        """What the search has room for: planned once, after the first step."""
        if "search" not in self.record.plans:
            planned = sizes.search_sizes(
                self._seconds_left, self._speed, self.available, self.asked.common["max_new_tokens"],
                self.asked.enough, self.asked.minutes,
            )  # fmt: skip
            self.record.plans["search"] = sizes.stored(planned)
            self._remark(*planned.left_out)
        return SearchSizes.of(self.record.plans["search"])

    # 2. What could be saved at most.

    def _find_ceiling(self) -> None:
        self._sweep(self.asked.ceiling(self.parts.some(PILOT, self.search_sizes.pilot), Way()), CEILING, 1.0)
        self._say_ceiling(CEILING, "with the lens")

    def _say_ceiling(self, name: str, how: str) -> None:
        look = self.first_look
        top = SweepFigures.read(self.at(name)).contender(ORACLE_KEY, "", look.steps, self.asked.batches)
        in_time = ", ".join(f"{percent(share, 0)} at {batch}" for batch, share in top.allowed.items())
        self.steps.say(
            f"{how}, the oracle {ORACLE} would save {percent(top.theory)} of the multiply-adds, and of the time "
            f"{in_time} rows at a time"
        )

    @property
    def _best_ceiling(self) -> SweepFigures:
        """Of the lens and what was learned, the one by which the oracle saves more."""
        there = [SweepFigures.read(self.at(name)) for name in (CEILING, CEILING_LEARNED) if self._is_there(name)]
        return max(there, key=lambda figures: figures.saved(ORACLE_KEY, "cost_needed"))

    # 3. What can be learned from texts of the model's own.

    def _learn(self) -> None:
        planned = self.search_sizes
        if not planned.learns:
            return
        prompts = self.parts.some(TRAINING, planned.training)
        self._sweep(self.asked.texts(prompts, planned.seeds), TEXTS, sizes.SHARE_OF_TEXTS)
        wanted = [each for each in LEARNED if each.what in planned.learns]
        part = (1 - sizes.SHARE_OF_TEXTS) / (len(wanted) + ("curve" in planned.learns))
        folders: dict[str, str] = {}
        for each in wanted:
            self.steps.work(part)
            folders[each.role] = self._exits(each.what)
            through: dict[str, Any] = {"readout": folders["readout"]} if each.role != "readout" else {}
            card = self.place.train(self.at(TEXTS), each.what, folders[each.role], **through)
            if each.role == "readout" and "curve" in planned.learns:
                self.steps.work(part)
                few = self.place.train(self.at(TEXTS), each.what, self._exits(f"{each.what}-few"), one_in=ONE_IN)
                self._say_agreement(few, card)

    def _exits(self, what: str) -> str:
        return str(self.out / EXITS / what)

    def _say_agreement(self, few: Card, many: Card) -> None:
        """As final at the last exitable layer, by the tokens that were learned from."""
        layer = many.layers[-1]
        told = [
            f"{percent(row['agreement'])} with {card.data['n_tokens']:,} tokens"
            for card in (few, many)
            for row in card.held_out
            if row["layer"] == layer and row["readout"] == card.what
        ]
        self.steps.say(f"as full depth at layer {layer}, learned: {', '.join(told)}")

    # 4. Which settings are worth a run.

    def _search(self) -> None:
        pilot = self.parts.some(PILOT, self.search_sizes.pilot)
        ways = self._ways()
        for at, (name, way) in enumerate(ways.items()):
            if at:
                self._sweep(self.asked.ceiling(pilot, way), name, 0.2)
                self._say_ceiling(name, "as was learned")
            self._replay(name, way, 0.5 / len(ways))
        found = {name: self._found(name) for name in ways}
        margin = self.asked.margin
        name = min(found, key=lambda each: cost_within(found[each], margin))
        exit_set = best_set(found[name], margin)
        chosen = front(of_set(found[name], exit_set), margin, sizes.MOST_TRIED)
        way, rules = ways[name], rules_of((each.rule, each.parameter) for each in chosen)
        if not any(each.exits for each in chosen):
            self.record.plans["front"] = None
            self._remark("no setting was run: in replays, no token leaves early at any of them")
            return
        began, is_new = time.monotonic(), not self._is_there(TRIED)
        way = self._try(pilot, way, rules, exit_set)
        if is_new:
            self._note_speed(time.monotonic() - began)
        self.record.plans["front"] = {
            "readout": way.readout,
            "decide_on": way.decide_on,
            "probe": way.probe,
            "exit_set": exit_set,
            "order": self._order(),
        }
        self.record.write()

    def _try(self, pilot: Sequence[Prompt], way: Way, rules: Rules, exit_set: str) -> Way:
        """Run the front's settings on the pilot, through a screen where that can be had; returns how they read."""
        screened = self._screened(way, rules)
        try:
            self._sweep(self.asked.settings(pilot, screened, rules, exit_set), TRIED, 0.3)
        except UsageError as refused:
            if screened == way:
                raise
            self._remark(f"a screen, which this model can't have ({refused})")
            self._sweep(self.asked.settings(pilot, way, rules, exit_set), TRIED, 0.3)
            return way
        return screened

    def _ways(self) -> dict[str, Way]:
        """How layers can be read, by the folder of the ceiling."""
        roles = {each.role: self._exits(each.what) for each in LEARNED if each.what in self.search_sizes.learns}
        return {CEILING: Way(), **({CEILING_LEARNED: Way(**roles)} if "readout" in roles else {})}

    def _screened(self, way: Way, rules: Rules) -> Way:
        """The same way through a screen, where a read of the head costs more than a layer."""
        reads = any(name not in learned.FREE for name in rules)
        if self.first_look.head_in_layers <= 1 or not reads:
            return way
        return Way(way.readout, SCREEN, way.probe)

    def _replay(self, name: str, way: Way, part: float) -> None:
        """Replays of all settings that can be had in this way; what is there is not replayed again."""
        layers = read_finished(self.at(name), ["status"]).manifest.exitable_layers
        own = {rule: values for each in LEARNED if getattr(way, each.role, None) for rule, values in each.rules.items()}
        searches: list[tuple[Rules, Sequence[str]]] = [(learned.RULES, learned.exit_sets(layers))]
        searches += [(own, (EVERY,))] if own and way.probe else []
        for rules, exit_sets in searches:
            self.steps.work(part / len(searches))
            if set(rules) <= {row["rule"] for row in self._replays(name)}:
                continue
            settings = SettingsToReplay((), rules, (UNALTERED,), exit_sets)
            probe = way.probe if rules is own else None
            plan = partial(make_replay_plan, asked=settings, text_of=NORMAL, probe=probe)
            self.place.study(self.at(name), plan, ("prompt_id", "status"))

    def _replays(self, name: str) -> Sequence[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = REPLAYS.read(open_store(self.at(name))).to_pylist()
        return rows

    def _found(self, name: str) -> list[Found]:
        sweep, look = read_finished(self.at(name), ["status"]), self.first_look
        screens = look.head_in_layers > 1
        prices = LookPrices(look.head, look.head * (learned.SCREENED if screens else 1.0))
        n_layers, layers = int(sweep.manifest.model["n_layers"]), sweep.manifest.exitable_layers
        return [found_of(row, layers, n_layers, prices) for row in self._replays(name)]

    def _note_speed(self, seconds: float) -> None:
        """Tokens per second of the settings that were tried, which say more than the first step."""
        n_tokens = sum(filter(None, read_columns(open_store(self.at(TRIED)), ["n_tokens"])["n_tokens"].to_pylist()))
        self.record.plans["tried_speed"] = sizes.OBSERVING * n_tokens / max(seconds - self.record.plans["start"], 1.0)

    @property
    def _tried(self) -> SweepFigures | None:
        return SweepFigures.read(self.at(TRIED)) if self._is_there(TRIED) else None

    def _question(self, pilot: str | None) -> ChoiceQuestion:
        return ChoiceQuestion(self.parts.risk, self.asked.margin, self.asked.confidence, pilot=pilot)

    def _order(self) -> list[str]:
        """The settings that none beats on the pilot in both loss and cost, from safe to bold."""
        question = self._question(None)
        evidence = Evidence(read_finished(self.at(TRIED), question.columns), self.at(TRIED), question)
        found, costs = evidence.losses("all"), evidence.costs_of("all")
        risks = np.array([loss.mean() if len(loss := found.of(key)) else math.nan for key in evidence.keys])
        at = pareto_sequence(risks, np.array([costs[key] for key in evidence.keys]))
        return [evidence.keys[index] for index in at]

    # 5. The few of them, on prompts that chose nothing.

    @property
    def _runs(self) -> bool:
        return self._is_there(RUN)

    def _run(self) -> None:
        plan = self.record.plans.get("front")
        if not plan:
            return
        figures = self._tried
        assert figures is not None
        saves = [key for key in plan["order"] if figures.saved(key, "cost_run") > 0]
        if not saves:
            self._remark(
                "no setting was run on the prompts for choosing: on the pilot, each that was tried runs more than full "
                "depth"
            )
            return
        planned = self._run_sizes(saves)
        keys = saves[: planned.settings]
        prompts = [*self.parts.some(CHOOSING, planned.choosing), *self.parts.some(REPORTING, planned.reporting)]
        controls = [each for each in controls_of(self.at(TRIED)) if each.of in keys] if planned.controls else []
        entries = {entry["key"]: entry for entry in figures.sweep.manifest.configurations}
        rules = rules_of((entries[key]["rule"], entries[key]["parameter"]) for key in keys)
        way = Way(plan["readout"], plan["decide_on"], plan["probe"])
        self._sweep(self.asked.settings(prompts, way, rules, plan["exit_set"], controls), RUN, 1.0)

    def _run_sizes(self, keys: Sequence[str]) -> RunSizes:
        """What the run has room for: planned once, after the search."""
        if "run" not in self.record.plans:
            figures = self._tried
            assert figures is not None
            tokens = [row["n_tokens"] for rows in figures.by_key.values() for row in rows]
            look = self.first_look
            of_a_round = sum(
                4 * sizes.TIMED_TOKENS * -(-sizes.TIMED_PROMPTS // batch) * look.seconds(NORMAL, batch)
                for batch in self.asked.batches
            )
            planned = sizes.run_sizes(
                self._seconds_left, self._speed, self.available, float(np.mean(tokens)), self.asked.enough, len(keys),
                of_a_round,
            )  # fmt: skip
            self.record.plans["run"] = sizes.stored(planned)
            self._remark(*planned.left_out)
        return RunSizes.of(self.record.plans["run"])

    # 6. Which of them may be used.

    def _choose(self) -> None:
        if not self._runs or latest_choice(read_finished(self.at(RUN), ["status"])):
            return
        question = self._question(self.at(TRIED))
        self.steps.work(1.0)
        self.place.study(self.at(RUN), lambda sweep, results: ChoosingStudy(sweep, results, question), question.columns)

    # 7. How long they take.

    def _time(self) -> None:
        if not self._runs or self._has_timing(RUN):
            return
        sweep = read_finished(self.at(RUN), ["status"])
        choice = latest_choice(sweep)
        assert choice is not None
        rounds = RunSizes.of(self.record.plans["run"]).rounds
        keys = to_time(sweep, choice)
        tokens = max(3, min(sizes.TIMED_TOKENS, self.asked.common["max_new_tokens"]))
        what = WhatToTime(keys, self.asked.batches, sizes.TIMED_PROMPTS, tokens, rounds)
        self.steps.work(1.0)
        self._time_it(RUN, what)

    # What the steps are made of.

    def _sweep(self, config: SweepConfig, name: str, part: float) -> None:
        self.steps.work(part)
        self.place.sweep(config, self.at(name))

    def _time_it(self, name: str, what: WhatToTime) -> None:
        columns = (*COLUMNS, *(("configuration", "exit_layer_counts") if what.with_steps else ()))
        self.place.study(self.at(name), lambda sweep, results: make_plan(sweep, results, what), columns)

    def _has_timing(self, name: str) -> bool:
        """Whether all rounds of a timing are there: the latest call ended with its last one."""
        rows = TIMINGS.read(open_store(self.at(name))).to_pylist()
        wanted = sizes.LOOK_ROUNDS if name == LOOK else RunSizes.of(self.record.plans["run"]).rounds
        return any(row["round"] >= wanted for row in rows)

    def _drafts(self, name: str) -> list[str]:
        entries = read_finished(self.at(name), ["status"]).manifest.configurations
        return [entry["key"] for entry in entries if entry["draft_layer"] is not None]

    def _is_there(self, name: str) -> bool:
        return Path(self.at(name), MANIFEST).is_file()
