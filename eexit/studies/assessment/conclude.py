"""The verdict: whether early exit pays, and if it does not, which restriction takes most of what exits could save.

It pays if a setting is certified on the prompts for choosing, keeps the bound on those for reporting, runs fewer
multiply-adds than full depth, and takes less time, each by its interval's end. Where texts have chains of thought, a
right answer has to take fewer multiply-adds too. It does not if all of that was measured, and one of it does not hold;
a time whose interval has full depth's in it leaves it open.

Where multiply-adds are saved and time is not, the cause is one of time; else it is one of multiply-adds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eexit.output.text import counted, precision
from eexit.plan.configuration import GENERATE
from eexit.quality.per_right import COST_RUN
from eexit.results.finished_sweep import FinishedSweep, read_finished, refuse_changed_model
from eexit.studies.assessment.ledger import Cause, Imposed, Ledger
from eexit.studies.assessment.tables import PILOT, RUN, PromptTables, columns_of, of_pilot, of_run
from eexit.studies.assessment.time_ledger import TimeLedger, allowed
from eexit.studies.assessment.times import Times
from eexit.studies.assessment.verdict import (
    BATCHES,
    KNOWING,
    OVERHEAD,
    RESTRICTIONS,
    Bound,
    Contender,
    Instead,
    Interval,
    JudgedSetting,
    Level,
    Line,
    TakenAfter,
    TimeLine,
    Verdict,
    Why,
)
from eexit.studies.choosing.study import choices_made

REPLAYS, CHOICE, REPORTING, TIMES = "replays", "choice", "reporting", "times"  # what may be missing of steps
Row = Mapping[str, Any]


@dataclass(frozen=True)
class AssessmentSteps:
    """The folders of the finished sweeps of an assessment; None where a step is not done. `missing` names what else is
    not done.
    """

    pilot: str | None = None
    run: str | None = None
    missing: Sequence[str] = ()


def conclude(steps: AssessmentSteps, bound: Bound, batch: int = 1, is_look: bool = False) -> Verdict:
    """What the tables of these steps say, with so many rows at a time; of a look, it is not said whether it pays.

    Raises `UsageError` where a folder holds no finished sweep, and where two of them are of different models.
    """
    pilot, run = (
        None if folder is None else read_finished(folder, columns_of(bound)) for folder in (steps.pilot, steps.run)
    )
    sweeps = [each for each in (run, pilot) if each is not None]
    for other in sweeps[1:]:
        refuse_changed_model(other, sweeps[0].manifest.model)
    timings = run.timings if run else []
    choice = latest_choice(run, bound) if run else None
    setting = setting_of(run, choice, bound) if run and choice else None
    rows = [row for row in timings if row["batch"] == batch]
    times = Times(rows, setting.key if setting and keeps(setting, bound) else None)
    of_time = TimeLedger()
    if run and setting:
        time = Times(rows, setting.key).of(setting.key)
        setting = setting.model_copy(update={"time": Interval.of(time)})
        share = dict(zip(run.exit_layers_G, run.exit_share_G(setting.key), strict=True))
        of_rows = {n: allowed(timings, n, share, run.n_layers) for n in (1, batch)}
        of_time = TimeLedger(of_rows[1], of_rows[batch], time.complement)
    ledger = Ledger({**(of_pilot(pilot, bound) if pilot else {}), **(of_run(run, choice, bound) if run else {})})
    there = {
        PILOT: pilot,
        REPLAYS: frozenset([KNOWING]) in ledger.measured,
        RUN: run,
        CHOICE: choice,
        REPORTING: setting and (setting.reporting_n or not setting.certified),
        TIMES: times.are_whole,
    }
    missing = list(dict.fromkeys([*steps.missing, *(name for name, found in there.items() if not found)]))
    pays, why = judge(setting, bound, missing, is_look)
    cause = cause_of(ledger, of_time, pays, why)
    return Verdict(
        pays=pays,
        why=why,
        cause=cause.name,
        undecided=list(cause.undecided),
        missing=missing,
        bound=bound,
        batch=batch,
        where=_where(sweeps, timings, batch),
        setting=setting,
        levels=_levels(ledger),
        multiply_adds=_lines(ledger),
        time=[
            TimeLine(restriction=BATCHES, taken=Interval.of(of_time.batches)),
            TimeLine(restriction=OVERHEAD, taken=Interval.of(of_time.overhead)),
        ],
        contenders=[
            Contender(setting=key, time=float(np.exp(np.median(log_R))), rounds=len(log_R))
            for key, log_R in times.first_rounds.items()
        ],
        instead=_instead(times),
    )


def judge(
    setting: JudgedSetting | None, bound: Bound, missing: Sequence[str], is_look: bool
) -> tuple[bool | None, Why]:
    """Whether it pays, None where that is not known, and what that turns on."""
    if is_look:
        return None, "look"
    if missing or setting is None:
        return None, "missing"
    if not setting.certified:
        return False, "not certified"
    if not keeps(setting, bound):
        return False, "not kept"
    if not (setting.saved and setting.saved.low is not None and setting.saved.low > 0):
        return False, "saves nothing"
    if setting.per_right and not (setting.per_right.high is not None and setting.per_right.high < 1):
        return False, "dear answers"
    if setting.time is None or setting.time.low is None or setting.time.high is None:
        return None, "not timed"
    if setting.time.high < 1:
        return True, "pays"
    return (False, "slower") if setting.time.low >= 1 else (None, "time not sure")


def keeps(setting: JudgedSetting, bound: Bound) -> bool:
    """Whether it is certified, and keeps the bound on the prompts for reporting."""
    return setting.certified and setting.reporting_loss is not None and setting.reporting_loss <= bound.at_most


def cause_of(ledger: Ledger, of_time: TimeLedger, pays: bool | None, why: Why) -> Cause:
    """What takes most, if it does not pay: of time, if time alone is not saved."""
    if pays is not False:
        return Cause(None)
    return of_time.cause if why == "slower" else ledger.cause


def latest_choice(run: FinishedSweep, bound: Bound) -> Row | None:
    """The latest choice at this bound that came to an end."""
    asked = (bound.risk, bound.at_most, bound.confidence)
    made = choices_made(run.store)
    return next((row for row in reversed(made) if (row["risk"], row["at_most"], row["confidence"]) == asked), None)


def setting_of(run: FinishedSweep, choice: Row, bound: Bound) -> JudgedSetting:
    """The chosen setting; without one, that which loses least of the certified, or else of those that were tested."""
    pool = [each for each in choice["tested"] if each["certified"]] or choice["tested"]
    chosen = [each for each in choice["tested"] if each["configuration"] == choice["configuration"]]
    tested = (chosen or sorted(pool, key=lambda each: (each["mean_loss"], each["cost"])))[0]
    key = tested["configuration"]
    per_right = run.per_right[key][COST_RUN].beside_normal if key in run.per_right else None
    return JudgedSetting(
        key=key,
        certified=tested["certified"],
        ask=choice["question"] or 1,
        loss=tested["mean_loss"],
        n=tested["n"],
        loss_of_right=tested["loss_of_right"],
        n_of_right=tested["n_of_right"],
        saved=Interval.of(PromptTables(run, RUN, bound).saved_as_run(key)),
        per_right=per_right and Interval.of(per_right),
        reporting_loss=choice["reporting_mean_loss"] if chosen else None,
        reporting_n=choice["reporting_n"] if chosen else None,
    )


def _where(sweeps: Sequence[FinishedSweep], timings: Sequence[Row], batch: int) -> str:
    manifests = [each.manifest for each in sweeps[:1]]
    found = [
        *(each.config["model"] for each in manifests),
        *(precision(each.model, each.dtype_asked) for each in manifests),
        *((each.model.get("digest") or "").removeprefix("sha256:")[:12] for each in manifests),
        *(f"{row['machine']} · {counted(row['threads'], 'thread')}" for row in timings[-1:]),
        f"{counted(batch, 'row')} at a time",
    ]
    return " · ".join(filter(None, found))


def _levels(ledger: Ledger) -> list[Level]:
    in_order = sorted(ledger.measured, key=lambda imposed: (len(imposed), _named(imposed)))
    saved = {imposed: Interval.of(ledger.estimate({imposed: 1.0})) for imposed in in_order}
    return [Level(imposed=_named(each), saved=saved[each], setting=ledger.best[each].found.key) for each in in_order]


def _lines(ledger: Ledger) -> list[Line]:
    lines = []
    for each in RESTRICTIONS:
        taken = [
            TakenAfter(share=Interval.of(ledger.taken(each, of)), after=_named(of)) for of in ledger.contexts(each)
        ]
        first = taken[0] if len(taken) > 1 or (taken and not taken[0].after) else None
        last = taken[-1] if taken and taken[-1].after else None
        mean = Interval.of(ledger.on_the_mean(each))
        lines.append(Line(restriction=each, first=first, last=last, mean=mean))
    return lines


def _named(imposed: Imposed) -> list[str]:
    return [each for each in RESTRICTIONS if each in imposed]


def _instead(times: Times) -> Instead | None:
    if times.fastest is None:
        return None
    again = {"time": times.again(times.fastest), "of_generate": times.again(times.fastest, GENERATE)}
    found = {name: Interval.of(each) for name, each in again.items()}
    return Instead(setting=times.fastest, **found)
