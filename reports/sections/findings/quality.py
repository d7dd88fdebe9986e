"""What a sweep says of quality, as sentences: accuracy, what judges say, and which setting was certified."""

import math
from collections.abc import Iterator
from typing import Any, Final

from eexit.messages.wording import counted
from eexit.messages.written import percent, written
from eexit.plan.configuration import NORMAL
from eexit.quality.bootstrap import MIN_PROMPTS
from reports.frames.quality import DIFFERENCE, SKIPPED, CostAxis, Quality, of_series
from reports.frames.runs import CORRECT
from reports.frames.savings import RUN
from reports.read.judgements import BEST, PREFERRED, SCORE, Judge
from reports.sections.findings.choices import choice_findings
from reports.sections.findings.savings import change
from reports.sections.findings.sweep import is_known, with_interval

NO_NORMAL: Final = f"There are no runs of {NORMAL} to compare with."
Row = dict[Any, Any]


def quality_findings(quality: Quality, n_failed: int) -> list[str]:
    """First accuracy, then each judge, then what was chosen; at the end what is counted and in no mean."""
    return [
        *_accuracy(quality),
        *(sentence for judge in quality.judges for sentence in _judged(quality, judge)),
        *choice_findings(quality.choices),
        *_left_out(quality, n_failed),
    ]


def headline(quality: Quality) -> list[str]:
    """A sentence for the top of the report: how often answers are right, and how many settings that a deployed model
    could use keep them right. None without answers of `normal`.
    """
    normal = _normal(quality, CORRECT)
    if normal is None:
        return []
    n = f"{counted(normal['n'], 'prompt')}{_seeds(normal)}"
    said = f"Answers: {NORMAL} gets {with_interval(normal, CORRECT)} right (n = {n})"
    difference = f"{CORRECT}{DIFFERENCE}"
    online = quality.settings[~quality.settings["oracle"] & quality.settings[f"{difference}_high"].notna()]
    if online.empty:
        return [f"{said}."]
    settings, fine = counted(len(online), "setting"), online[online[f"{difference}_high"] >= 0]
    if fine.empty:
        return [f"{said}. It is certainly less with each of the {settings} of rules that a deployed model can follow."]
    rows = fine.to_dict("records")
    cost = _cost_of(quality, rows)
    best = _cheapest(rows, cost)
    loop = f", though {percent(best['loop_share'])} of its text is one loop" if best["looping"] else ""
    return [
        f"{said}. It is not certainly less with {len(fine)} of the {settings} of rules that a deployed model can "
        f"follow; of these, {best['configuration']} costs least: it {_saves(best, cost)}, at "
        f"{_beside(best, difference, is_share=True)}{loop}."
    ]


def _accuracy(quality: Quality) -> Iterator[str]:
    if quality.rows[CORRECT].isna().all():
        return
    normal = _normal(quality, CORRECT)
    if normal is None:
        yield f"Accuracy: {NO_NORMAL}"
        return
    yield (
        f"Accuracy: {NORMAL} answers {with_interval(normal, CORRECT)} of the prompts that bring an answer "
        f"correctly (n = {counted(normal['n'], 'prompt')}{_seeds(normal)})."
    )
    yield from _not_below(quality, CORRECT, "accuracy", is_share=True)


def _judged(quality: Quality, judge: Judge) -> Iterator[str]:
    score = judge.column(SCORE)
    if quality.rows[score].notna().any():
        normal = _normal(quality, score)
        if normal is None:
            yield f"Judge {judge.name}: {NO_NORMAL}"
        else:
            yield (
                f"Judge {judge.name} gives {NORMAL} a score of {with_interval(normal, score, '.2f')} of {BEST}, the "
                "mean of coherence, completeness, clarity and no repetition (n = "
                f"{counted(normal['n'], 'prompt')}{_seeds(normal)})."
            )
            yield from _not_below(quality, score, "score", preferred=judge.column(PREFERRED))
    if judge.errors:
        n = sum(judge.errors.values())
        yield (
            f"Judge {judge.name} gave no usable answer for {n:,} of {counted(n + judge.n_judged, 'run')}, which are in "
            "no mean of its scores."
        )


def _normal(quality: Quality, column: str) -> Row | None:
    """The row of `normal`, with the n of this column as its own; None if it is not known there."""
    rows = quality.rows[(quality.rows["configuration"] == NORMAL) & quality.rows[column].notna()].to_dict("records")
    return rows[0] | {"n": rows[0][f"{column}_n"]} if rows else None


def _seeds(row: Row) -> str:
    return f", {row['n_seeds']} seeds averaged first" if row["n_seeds"] > 1 else ", 1 seed"


def _not_below(
    quality: Quality, column: str, name: str, is_share: bool = False, preferred: str | None = None
) -> Iterator[str]:
    """A sentence for each mode: of each rule, the setting that saves most and is not certainly below `normal`, and how
    its control does. `preferred` is a column of win rates, told beside.
    """
    difference = f"{column}{DIFFERENCE}"
    settings = quality.settings[quality.settings[difference].notna()]
    if settings.empty:
        return
    if settings[f"{difference}_low"].isna().all():
        yield f"Fewer than {MIN_PROMPTS} prompts are too few to say which settings are below {NORMAL} in {name}."
        return
    controls = quality.rows[quality.rows["beneath"].notna()].set_index("beneath")
    n = counted(int(settings[f"{difference}_n"].max()), "prompt")
    for mode, of_mode in settings.groupby("mode", sort=False):
        told, below = [], []
        for rows in of_series(of_mode).values():
            fine = [row for row in rows if is_known(row[f"{difference}_high"]) and row[f"{difference}_high"] >= 0]
            cost = _cost_of(quality, rows)
            if not fine:
                below.append(str(rows[0]["rule"]))
                continue
            best = _cheapest(fine, cost)
            asides = []
            if preferred and is_known(best[preferred]):
                asides.append(f"win rate {with_interval(best | {'n': best[f'{preferred}_n']}, preferred)}")
            if best["configuration"] in controls.index and is_known(controls.at[best["configuration"], difference]):
                control = controls.loc[best["configuration"]].to_dict()
                asides.append(f"its control: {_beside(control, difference, is_share)}")
            asides += [f"but {percent(best['loop_share'])} of its text is one loop"] if best["looping"] else []
            aside = f" ({'; '.join(asides)})" if asides else ""
            setting = str(best["shown_as"]).removeprefix(f"{mode}/")
            told.append(f"{setting} {_saves(best, cost)} at {_beside(best, difference, is_share)}{aside}")
        whole = [*told, *([f"certainly below at every setting: {', '.join(below)}"] if below else [])]
        yield (
            f"{mode}, the settings that save most without being certainly below {NORMAL} in {name} (difference paired "
            f"over {n}): {'; '.join(whole)}."
        )


def _beside(row: Row, difference: str, is_share: bool) -> str:
    """A difference from `normal` with its interval, as “−2.0 [−8.0, +4.0] pp”, or as “−0.12 [−0.30, +0.10]”."""
    form, times = ("+.1f", 100) if is_share else ("+.2f", 1)
    mean, low, high = (
        written(times * row[f"{difference}{end}"], form).replace("-", "−") for end in ("", "_low", "_high")
    )
    interval = f" [{low}, {high}]" if is_known(row[f"{difference}_low"]) else ""
    return f"{mean}{interval}{' pp' if is_share else ''}"


def _cost_of(quality: Quality, rows: list[Row]) -> CostAxis:
    """The sense of saving that says most of these settings: time if any was timed, else what was run, else layers."""
    timed = [cost for cost in quality.costs if cost.measured]
    others = [cost for cost in quality.costs if not cost.measured]
    for cost in [*timed, *reversed(others)]:
        if any(is_known(row[cost.column]) for row in rows):
            return cost
    return CostAxis(SKIPPED, "", "")


def _cheapest(rows: list[Row], cost: CostAxis) -> Row:
    return max(rows, key=lambda row: row[cost.column] if is_known(row[cost.column]) else -math.inf)


def _saves(row: Row, cost: CostAxis) -> str:
    if not is_known(row[cost.column]):
        return "(saving unknown)"
    if cost.measured:
        return f"took {change(row, cost.column, 'time')} at {cost.measured.label}"
    if cost.column == RUN:
        return f"ran {change(row, RUN, 'multiply-adds')}"
    return f"would skip {with_interval(row | {'n': row[f'{SKIPPED}_n']}, SKIPPED)} of the layers"


def _left_out(quality: Quality, n_failed: int) -> Iterator[str]:
    if n_failed:
        yield f"{counted(n_failed, 'run')} failed, and {'is' if n_failed == 1 else 'are'} in no mean."
