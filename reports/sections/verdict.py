"""Whether early exit pays, in three sentences: which setting may be used, what it costs, and how sure that is.

An assessment says so itself (`reports.read.verdict`). Without one, a sweep's own answers and choices are told.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from eexit.output.text import bracketed, counted, is_known, percent, short_percent, written
from eexit.quality.risks import RISKS
from eexit.studies.choosing.words import none_certified
from eexit.studies.verdict_file import KNOWING, MEANINGS, STATE
from reports.read.judgements import BEST, SCORE, WORST
from reports.read.verdict import AssessedLedger, AssessedVerdict
from reports.shared.figures import table
from reports.shared.measures import CORRECT, DIFFERENCE, DISAGREEMENT, RUN, SKIPPED, THEORETICAL
from reports.shared.numbers import Row, cheapest_of_kept, difference, points, saved_words, with_interval
from reports.shared.quality import (
    NONE_COSTS_LESS,
    Quality,
    cheapest,
    cost_of,
    held_against_normal,
    how_many_keep,
    kept_of,
    not_held,
)
from reports.shared.savings import best_within, saves

ASSESSED: Final = "assessment"
SWEPT: Final = "sweep"
ENDS: Final = ("_low", "_high")
LABELS: Final = {STATE: "state left behind", KNOWING: "knowing where to exit"}  # of what its own name doesn't say
SHARES: Final = ("saved_", "allowed_", "loss")  # what columns of shares begin with


@dataclass(frozen=True)
class Told:
    """The first card of the report. `pays` is None where nothing was found that says so; `cause` says in words why not;
    `weights` are shares of full depth, by what they are, from where to where they go, for the setting that the
    sentences name.
    """

    sentences: list[str]
    pays: bool | None
    source: str
    cause: str | None = None
    setting: str | None = None
    weights: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, Any] | None = None  # a table


def verdict(given: AssessedVerdict | None, quality: Quality | None) -> Told | None:
    """None for a sweep in which nothing exits early."""
    swept = _of_sweep(quality) if quality is not None and len(quality.settings) else None
    if given is None:
        return swept
    weights = _waterfall(given.ledger) if given.ledger else _of_losses(given) or (swept.weights if swept else [])
    setting = given.setting or (swept.setting if swept else None)
    cause = MEANINGS.get(given.cause or "", given.cause)
    rows = pd.DataFrame([_told(row) for row in given.rows])
    columns = tuple((str(key), str(key).replace("_", " "), "text") for key in rows)
    told = table(rows, columns) if len(rows) else None
    instead = [given.instead.sentence] if given.instead else []
    return Told([*given.sentences, *instead], given.pays, ASSESSED, cause, setting, weights, told)


def _waterfall(ledger: AssessedLedger) -> list[dict[str, Any]]:
    """From what an oracle saves down to what is left, each line beginning where the one before ended."""
    top, last = ledger.ceiling, ledger.lines[-1].left
    largest = max(line.taken for line in ledger.lines)
    rows = "" if ledger.batch is None else f", {counted(ledger.batch, 'row')} at a time"
    return [
        _bar("ceiling", 0.0, top.saved, percent(top.saved) + _ends(top.low, top.high)),
        *(
            _bar(
                LABELS.get(line.restriction, line.restriction),
                line.left + line.taken,
                line.left,
                percent(-line.taken) + _ends(_negative(line.high), _negative(line.low)),
            )
            | {"largest": line.taken == largest > 0}
            for line in ledger.lines
        ),
        _bar(f"left{rows}", 0.0, last, percent(last)),
    ]


def _negative(share: float | None) -> float | None:
    return None if share is None else -share


def _ends(low: float | None, high: float | None) -> str:
    ends = [written(100 * end, ".1f") for end in (low, high) if end is not None and is_known(end)]
    return f" ({' to '.join(ends)})" if len(ends) == 2 else ""


def _of_losses(given: AssessedVerdict) -> list[dict[str, Any]]:
    """Those of format 1, which had no ledger."""
    return _weighed([(name, loss) for name, loss in given.losses.items() if is_known(loss)])


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is shown: times with their intervals, and shares in percent; n and p are in the file."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key.startswith("time_at_") and not key.endswith(ENDS):
            low, high = (row.get(f"{key}{end}") for end in ENDS)
            found[key] = written(value, ".2f") + bracketed(low, high, ".2f")
        elif key.startswith(SHARES):
            found[key] = percent(value)
        elif key in ("setting", "role"):
            found[key] = value
    return found


def _of_sweep(quality: Quality) -> Told:
    row, pays, said = _beside_full_depth(quality) or _by_disagreement(quality)
    key, weights = (row["configuration"], _weights(row)) if row else (None, [])
    return Told([*said, _certain(quality.choices)], pays, SWEPT, setting=key, weights=weights)


def _beside_full_depth(quality: Quality) -> tuple[Row | None, bool | None, list[str]] | None:
    """By right answers, or else by the first judge's scores; None where settings can't be held against full depth."""
    scores = [(judge.column(SCORE), False, quality.margin * (BEST - WORST)) for judge in quality.judges]
    for column, is_share, margin in [(CORRECT, True, quality.margin), *scores[:1]]:
        changed = f"{column}{DIFFERENCE}"
        known = held_against_normal(quality, changed)
        if known:
            kept = kept_of(known, changed, margin)
            nearest = max(known, key=lambda row: row[f"{changed}_low"])
            best, cost = cheapest(quality, kept or [nearest])
            keeps = how_many_keep(len(kept), len(known), points(margin) if is_share else f"{margin:.2g}")
            if kept and not saves(best, cost.column):
                return best, False, [keeps, NONE_COSTS_LESS]
            change = difference(best, changed, is_share)
            nearest_words = f"The nearest, {best['shown_as']}, is at {change} and {saved_words(best, cost)}."
            return best, bool(kept), [keeps, cheapest_of_kept(best, cost, change) if kept else nearest_words]
    return None


def _by_disagreement(quality: Quality) -> tuple[Row | None, bool | None, list[str]]:
    """Where no answer says what is good enough: what saves most where little differs from full depth."""
    rows = quality.settings.to_dict("records")
    sound = [row for row in rows if not row["looping"]] or rows
    cost = cost_of(quality, sound)
    known = [row for row in sound if is_known(row[cost.column])]
    best = best_within(known, cost.column)
    if not best:
        cheap = max(known, key=lambda row: row[cost.column], default=None)
        if cheap is None:
            return None, None, [not_held(quality)]
        least = f"No setting certainly saves; the cheapest, {cheap['shown_as']}, {saved_words(cheap, cost)}."
        is_sure = cost.column != SKIPPED and is_known(cheap.get(f"{cost.column}_high"))
        return cheap, False if is_sure else None, [not_held(quality), least]
    _, row = best[0]
    saved = saved_words(row, cost)
    if is_known(row[DISAGREEMENT]):
        differs = with_interval(row | {"n": row[f"{DISAGREEMENT}_n"]}, DISAGREEMENT)
        return (
            row,
            None,
            [
                not_held(quality),
                f"{row['shown_as']} {saved}, and differs from full depth on {differs} of decided tokens.",
            ],
        )
    return row, None, [not_held(quality), f"{row['shown_as']} {saved}, the most of all settings."]


def _certain(choices: pd.DataFrame) -> str:
    """The strictest promise that is kept, or that none is."""
    rows = choices.to_dict("records")
    if not rows:
        return "Nothing is certified: python jobs/choose.py RESULTS does that."
    chosen = [row for row in rows if isinstance(row["configuration"], str)]
    row = min(chosen or rows[-1:], key=lambda each: each["at_most"])
    if not chosen:
        return none_certified(row)
    bound = RISKS[row["risk"]].bound if row["risk"] in RISKS else row["risk"]
    confidence, at_most, cost = (short_percent(row[name]) for name in ("confidence", "at_most", "cost"))
    setting = row["configuration"]
    return (
        f"With {confidence} confidence, {bound} is at most {at_most} under {setting}, at {cost} of full depth's cost."
    )


def _weights(row: Row) -> list[dict[str, Any]]:
    """What the exits skip, what that would save, what deciding adds, and what is left: shares of full depth."""
    found = [("layers skipped", row[SKIPPED])]
    theoretical, run = (row.get(name, math.nan) for name in (THEORETICAL, RUN))
    if is_known(theoretical):
        found.append(("saved if deciding were free", theoretical))
    if is_known(theoretical) and is_known(run):
        found.append(("added by deciding", theoretical - run))
    return _weighed([(label, share) for label, share in found if is_known(share)])


def _weighed(shares: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [_bar(label, 0.0, share, percent(share)) for label, share in shares]


def _bar(label: str, start: float, end: float, text: str) -> dict[str, Any]:
    return {"label": label, "from": start, "to": end, "text": text}
