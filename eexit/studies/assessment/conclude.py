"""Whether early exit pays, each answer by an interval, and what fixing alone would gain most.

*Yes*: a setting is certified, its test loss is not beyond the bound, it runs fewer multiply-adds, and it takes less
time. *No*: one of these intervals lies on the wrong side. *Not known*: one has both sides in it; `needed` is what would
decide. Where texts have chains of thought, a right answer has to take fewer multiply-adds too.

The cause is what fixing alone certainly gains most, by a point: the mode (C − D), the knowledge (B − D), deciding (D
less what is saved as run) or proof (that less what is certified); the ceiling, where A itself is small. Where
multiply-adds are saved and time is not, it is batches or overhead.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import pyarrow.compute as pc

from eexit.errors import UsageError
from eexit.output.text import describe_precision, pluralize
from eexit.plan.configuration import GENERATE, mode_of
from eexit.quality.cost_per_correct import COLUMNS as OF_RIGHT
from eexit.quality.cost_per_correct import COST_RUN
from eexit.quality.estimates import Estimate
from eexit.quality.intervals import NORMAL_TAIL, clopper_pearson
from eexit.quality.risk_tests import MOST_PROMPTS
from eexit.quality.risks import RISKS
from eexit.results.finished_sweep import FinishedSweep, read_finished, refuse_changed_model
from eexit.studies.assessment.cells import AS_RUN, CELLS, CERTIFIED, COSTS, A, Attribution, B, C, D, PromptTable
from eexit.studies.assessment.times import difference, time_gaps
from eexit.studies.assessment.verdict import (
    BATCHES,
    BOTH,
    CEILING,
    DECIDING,
    KNOWLEDGE,
    MODE,
    OVERHEAD,
    PROOF,
    TIME,
    Bound,
    Cell,
    Interval,
    JudgedSetting,
    Line,
    Needed,
    TimedContender,
    Verdict,
    Why,
)
from eexit.studies.replay.shortlist import CellSettings, Pilot
from eexit.studies.selection.study import choices_made
from eexit.studies.timing.calls import Times

PILOT, RUN, ORACLES, CHOICE, TIMES = "pilot", "run", "oracles", "choice", "times"  # what may be missing of steps
SMALL: Final = 0.05  # a ceiling below this share of full depth is itself the cause
MARGIN: Final = 0.01  # of full depth, by which a cause gains more than the others
WITH_POWER: Final = (NORMAL_TAIL + 0.8416) / NORMAL_TAIL  # half widths that exclude a value with a chance of 80 %
GAINS: Final[Mapping[str, Mapping[str, float]]] = {  # of fixing one thing alone
    MODE: {C: 1, D: -1},
    KNOWLEDGE: {B: 1, D: -1},
    BOTH: {A: 1, D: -1},
    DECIDING: {D: 1, AS_RUN: -1},
    PROOF: {AS_RUN: 1, CERTIFIED: -1},
}
COSTS_OF: Final[Mapping[str, Mapping[str, float]]] = {
    f"{MODE} alone": {A: 1, B: -1},
    f"{KNOWLEDGE} alone": {A: 1, C: -1},
    f"{MODE} on average": {A: 0.5, B: -0.5, C: 0.5, D: -0.5},
    f"{KNOWLEDGE} on average": {A: 0.5, C: -0.5, B: 0.5, D: -0.5},
}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class AssessmentSteps:
    """The folders of an assessment's finished sweeps; None where a step is not done. `missing` names what failed."""

    pilot: str | None = None
    run: str | None = None
    oracles: str | None = None
    missing: Sequence[str] = ()


class Answer(NamedTuple):
    """Whether it pays, None where that is not known; what that turns on; and what would decide it."""

    pays: bool | None
    why: Why
    needed: Needed | None = None


class Cause(NamedTuple):
    """What fixing alone certainly gains most; else None, and what may."""

    name: str | None = None
    undecided: Sequence[str] = ()


def conclude(steps: AssessmentSteps, bound: Bound, batch: int = 1, is_look: bool = False) -> Verdict:
    """Return what the tables of these steps say, with so many rows at a time; a smoke run never says whether it pays.

    Raises `UsageError` where a folder holds no finished sweep, and where two of them are of different models.
    """
    columns = columns_of(bound.risk)
    run, oracles = (read_finished(each, columns) if each else None for each in (steps.run, steps.oracles))
    pilot = Pilot.read(steps.pilot, bound.risk, bound.max_risk) if steps.pilot else None
    sweeps = [each for each in (run, oracles, pilot.sweep if pilot else None) if each]
    for other in sweeps[1:]:
        refuse_changed_model(other, sweeps[0].manifest.model)
    settings = cell_settings(pilot, [run, oracles]) if pilot and run and oracles else None
    choice = latest_choice(run, bound) if run else None
    found = {PILOT: pilot, RUN: run, ORACLES: oracles, CHOICE: choice}
    missing = [*steps.missing, *(name for name, done in found.items() if not done)]
    if not missing and settings is None:
        missing = ["settings of the cells"]
    return verdict_of(run, oracles, settings, choice, run.timings if run else [], bound, batch, missing, is_look)


def columns_of(risk: str) -> Sequence[str]:
    """Return the columns of runs that are read."""
    identity = ("prompt_id", "prompt", "configuration", "seed", "status", "exit_layer_counts")
    return tuple(dict.fromkeys([*identity, *COSTS, RISKS[risk].column, *OF_RIGHT]))


def cell_settings(pilot: Pilot, sweeps: Sequence[FinishedSweep]) -> CellSettings | None:
    """Return the settings that the pilot picked; None where it picked none, or others than were run."""
    there = {each["key"] for sweep in sweeps for each in sweep.manifest.configurations}
    try:
        found = pilot.cells
    except UsageError:
        return None
    return found if found.keys <= there else None


def verdict_of(
    run: FinishedSweep | None, oracles: FinishedSweep | None, settings: CellSettings | None, choice: Row | None,
    timings: Sequence[Row], bound: Bound, batch: int, missing: Sequence[str] = (), is_look: bool = False,
) -> Verdict:  # fmt: skip
    """Return the verdict of finished steps, whose tables are read."""
    table = PromptTable([each for each in (run, oracles) if each], bound.risk) if run else None
    setting = setting_of(run, choice, table) if run and choice and table else None
    certified = setting.key if setting and setting.certified else None
    attribution = Attribution(table, settings, bound.max_risk, certified) if table and oracles and settings else None
    rows = [row for row in timings if row["batch"] == batch]
    times = Times(rows, setting.key if setting and keeps(setting, bound) else None)
    gaps: Mapping[str, Estimate] = {}
    if run and setting:
        time = Times(rows, setting.key).of(setting.key)
        setting = setting.model_copy(update={"time": Interval.from_estimate(time)})
        own = replace(run, runs=run.runs.filter(pc.field("configuration") == setting.key))
        share = dict(zip(run.exit_layers_G, own.exit_share_G(setting.key), strict=True))
        gaps = time_gaps(timings, batch, share, run.n_layers, time)
    missing = [*missing, *([] if not run or times.are_whole else [TIMES])]
    as_run = Interval.from_estimate(attribution.estimate({AS_RUN: 1})) if attribution else None
    answer = judge(setting, as_run, choice, bound, missing, is_look)
    cause = cause_of(attribution, gaps, answer)
    told = dict.fromkeys(key for key in (setting and setting.key, GENERATE, times.fastest) if key)
    return Verdict(
        pays=answer.pays,
        why=answer.why,
        cause=cause.name,
        undecided=list(cause.undecided),
        needed=answer.needed,
        missing=list(dict.fromkeys(missing)),
        bound=bound,
        batch=batch,
        where=_where([each for each in (run, oracles) if each], timings, batch),
        setting=setting,
        cells=_cells(attribution) if attribution else [],
        gains=_lines(attribution, GAINS) if attribution else [],
        costs=_lines(attribution, COSTS_OF) if attribution else [],
        gaps=[Line(name=name, share=Interval.from_estimate(each)) for name, each in gaps.items()],
        timed=[
            TimedContender(
                setting=key,
                time=over,
                of_generate=None if key == GENERATE else Interval.from_estimate(times.of(key, GENERATE)),
            )
            for key in told
            if (over := Interval.from_estimate(times.of(key)))
        ],
    )


def judge(
    setting: JudgedSetting | None, as_run: Interval | None, choice: Row | None, bound: Bound, missing: Sequence[str],
    is_look: bool,
) -> Answer:  # fmt: skip
    """Return the answer by the intervals of the setting, and by what could be saved as run within the bound."""
    if is_look:
        return Answer(None, "look")
    if missing or setting is None or choice is None:
        return Answer(None, "missing")
    costs_more = as_run is not None and as_run.is_below(0)
    if not setting.certified:
        if all(
            clopper_pearson(each["mean_loss"] * each["n"], each["n"])[0] > bound.max_risk for each in choice["tested"]
        ):
            return Answer(False, "loses too much")
        return Answer(False, "costs more") if costs_more else Answer(None, "not certified", _for_certificate(choice))
    saved, per_right, time = setting.saved, setting.per_right, setting.time
    if not keeps(setting, bound):
        return Answer(False, "not kept")
    if saved and saved.is_below(0):
        return Answer(False, "costs more") if costs_more else Answer(None, "not certified", _for_certificate(choice))
    if per_right and per_right.is_above(1):
        return Answer(False, "dear answers")
    if saved is None or not saved.is_above(0):
        return Answer(None, "costs open", _needed(saved, 0.0, "prompts") if saved else None)
    if time and time.is_above(1):
        return Answer(False, "slower")
    if per_right and not per_right.is_below(1):
        return Answer(None, "answers open", _needed(per_right, 1.0, "prompts"))
    if time is None or time.high is None:
        return Answer(None, "not timed")
    return Answer(True, "pays") if time.is_below(1) else Answer(None, "time open", _needed(time, 1.0, "calls"))


def keeps(setting: JudgedSetting, bound: Bound) -> bool:
    """Return True if the setting is certified, and its test loss is not certainly beyond the bound."""
    return setting.certified and not (setting.test_loss and setting.test_loss.is_above(bound.max_risk))


def cause_of(attribution: Attribution | None, gaps: Mapping[str, Estimate], answer: Answer) -> Cause:
    """Return what fixing alone gains most, if it does not pay, or is not known to."""
    if answer.pays or answer.why == "missing":
        return Cause()
    if answer.why == "slower":
        return Cause(_cause_of_time(gaps[BATCHES], gaps[OVERHEAD]))
    return _cause_of_cells(attribution) if attribution and answer.why not in ("not timed", "time open") else Cause()


def _cause_of_cells(attribution: Attribution) -> Cause:
    gains = {name: weights for name, weights in GAINS.items() if name != BOTH}

    def is_more(one: str, other: str) -> bool:
        levels = {*gains[one], *gains[other]}
        return attribution.is_above({of: gains[one].get(of, 0) - gains[other].get(of, 0) for of in levels}, MARGIN)

    if attribution.is_above({A: -1}, -SMALL):
        return Cause(CEILING)
    may_be = [each for each in gains if not any(is_more(other, each) for other in gains if other != each)]
    is_small = not attribution.is_above({A: 1}, SMALL)
    if len(may_be) == 1 and not is_small and attribution.is_above(gains[may_be[0]], MARGIN):
        return Cause(may_be[0])
    return Cause(None, [CEILING] * is_small + may_be)


def _cause_of_time(batches: Estimate, overhead: Estimate) -> str:
    """Return which of both certainly takes more than the other and than nothing; else time as a whole."""
    more = difference(batches, overhead)
    if more.low > MARGIN and batches.low > MARGIN:
        return BATCHES
    return OVERHEAD if more.high < -MARGIN and overhead.low > MARGIN else TIME


def latest_choice(run: FinishedSweep, bound: Bound) -> Row | None:
    """Return the latest choice at this bound that came to an end."""
    asked = (bound.risk, bound.max_risk, bound.confidence)
    made = choices_made(run.store)
    return next((row for row in reversed(made) if (row["risk"], row["max_risk"], row["confidence"]) == asked), None)


def setting_of(run: FinishedSweep, choice: Row, table: PromptTable) -> JudgedSetting:
    """Return the certified setting; without one, that which loses least of those that were tested."""
    chosen = [each for each in choice["tested"] if each["configuration"] == choice["configuration"]]
    tested = (chosen or sorted(choice["tested"], key=lambda each: (each["mean_loss"], each["cost"])))[0]
    key, per_right, n = tested["configuration"], run.per_right, choice["reporting_n"] if chosen else 0
    mean = choice["reporting_mean_loss"]
    return JudgedSetting(
        key=key,
        certified=tested["certified"],
        use=choice["question"] or 1,
        loss=tested["mean_loss"],
        n=tested["n"],
        loss_of_right=tested["loss_of_right"],
        n_of_right=tested["n_of_right"],
        loss_of_prompts=tested.get("loss_of_prompts"),
        n_of_prompts=tested.get("n_of_prompts"),
        test_loss=Interval.from_estimate(Estimate(mean, *clopper_pearson(mean * n, n), n)) if n else None,
        saved=Interval.from_estimate(table.saved_as_run(key)),
        per_right=Interval.from_estimate(per_right[key][COST_RUN].beside_normal) if key in per_right else None,
    )


def _for_certificate(choice: Row) -> Needed:
    enough = [n for each in choice["tested"] if not each["certified"] and (n := each["prompts_needed"])]
    return Needed(what="calibration prompts", n=min(enough, default=None))


def _needed(found: Interval, value: float, what: Any) -> Needed:
    """Return how many prompts or calls would exclude a value with a chance of 80 %."""
    if found.low is None or found.high is None or found.mean == value:
        return Needed(what=what, n=None)
    half = found.high - found.mean if found.mean < value else found.mean - found.low
    n = math.ceil(found.n * (WITH_POWER * half / (found.mean - value)) ** 2)
    return Needed(what=what, n=n if n <= MOST_PROMPTS else None)


def _cells(attribution: Attribution) -> list[Cell]:
    cells = []
    for name in CELLS:
        saved = Interval.from_estimate(attribution.estimate({name: 1}))
        safe, bold = (None, attribution.settings.A) if name == A else attribution.pair(name)
        safe_share, bold_share, lost = attribution.mixture(name)
        if saved is not None:
            cells.append(Cell(name=name, mode=mode_of(bold), saved=saved, lost=lost, safe=safe, safe_share=safe_share,
                              bold=bold, bold_share=bold_share))  # fmt: skip
    return cells


def _lines(attribution: Attribution, sums: Mapping[str, Mapping[str, float]]) -> list[Line]:
    return [Line(name=name, share=Interval.from_estimate(attribution.estimate(sums[name]))) for name in sums]


def _where(sweeps: Sequence[FinishedSweep], timings: Sequence[Row], batch: int) -> str:
    manifests = [each.manifest for each in sweeps[:1]]
    found = [
        *(each.config["model"] for each in manifests),
        *(describe_precision(each.model, each.dtype_asked) for each in manifests),
        *((each.model.get("digest") or "").removeprefix("sha256:")[:12] for each in manifests),
        *(f"{row['machine']} · {pluralize(row['threads'], 'thread')}" for row in timings[-1:]),
        f"{pluralize(batch, 'row')} at a time",
    ]
    return " · ".join(filter(None, found))
