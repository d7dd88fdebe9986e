"""Answer to whether early exit pays, with its number, its setting and its certainty.

It is the verdict of an assessment (`eexit.studies.assessment`) or, without one, follows from the sweep's answers and
selections.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from eexit.output.text import is_known, percent, pluralize, short_percent
from eexit.output.text_table import TextTable
from eexit.quality.certificate import certificate_sentences, none_certified
from eexit.quality.estimates import Estimate
from eexit.studies.assessment import verdict_text
from eexit.studies.assessment.verdict import Verdict
from reports.read.judgements import BEST, SCORE, WORST
from reports.shared.figures import table
from reports.shared.measures import CORRECT, DIFFERENCE, DISAGREEMENT, RUN, SKIPPED, THEORETICAL
from reports.shared.number_format import Row, costs_words, difference, points, skips, with_interval
from reports.shared.paired import LOST
from reports.shared.quality import (
    QualityTable,
    cost_of,
    held_against_normal,
    how_many_keep,
    kept_of,
    not_held,
    row_of_normal,
)
from reports.shared.savings import best_within, saves

OF_GAINS: Final = "Multiply-adds that fixing one thing alone would save, with its interval."


@dataclass(frozen=True)
class VerdictCard:
    """First card of the report; `pays` is None if unknown.

    The `headline` has a number of the `setting`, whose key follows it. `cells` are an assessment's cells as a table of
    text. `weights` are bars of shares of full depth.
    """

    answer: str
    headline: str
    sentences: list[str]
    pays: bool | None
    where: str | None = None  # what an assessment measured, and where
    cause: str | None = None
    setting: str | None = None
    cells: list[list[str]] = field(default_factory=list)  # heads, then rows
    weights: list[dict[str, Any]] = field(default_factory=list)
    about: str | None = None  # these weights
    tables: list[dict[str, Any]] = field(default_factory=list)  # of an assessment, each with a title and a caption


def verdict(given: Verdict | None, quality: QualityTable | None) -> VerdictCard | None:
    """Return the card; None for a sweep without exits."""
    if given is None:
        return _of_sweep(quality) if quality is not None and len(quality.settings) else None
    cause, cells = verdict_text.cause(given), next(verdict_text.tables(given), None)
    return VerdictCard(
        verdict_text.ANSWERS[given.pays],
        verdict_text.explain(given).removesuffix("."),
        [sentence for sentence in verdict_text.sentences(given) if sentence != cause],
        given.pays,
        where=given.where,
        cause=cause,
        setting=given.setting.key if given.setting and not given.missing else None,
        cells=[[*row] for row in (cells.heads, *cells.rows)] if cells and given.cells else [],
        weights=[_gain(name, gain, given.cause) for name, gain in given.gains.items()],
        about=OF_GAINS if given.gains else None,
        tables=[_table(each) for each in verdict_text.tables(given)],
    )


def _gain(name: str, gain: Estimate, cause: str | None) -> dict[str, Any]:
    """Return a gain as a bar, or without one if it was not measured."""
    if math.isnan(gain.mean):
        return {"label": name, "from": None, "to": None, "text": verdict_text.NOT_MEASURED}
    return _bar(name, gain.mean, verdict_text.share(gain)) | {"largest": name == cause}


def _table(given: TextTable) -> dict[str, Any]:
    shown = table(pd.DataFrame(given.rows, columns=[*given.heads]), tuple((head, head, "text") for head in given.heads))
    return {"title": given.title, "about": given.caption, "table": shown}


def _of_sweep(quality: QualityTable) -> VerdictCard:
    if quality.settings["oracle"].all():
        return _of_oracles(quality)
    row, pays, headline, said = _beside_full_depth(quality) or _by_disagreement(quality)
    key, weights = (row["configuration"], _weights(row)) if row else (None, [])
    said = [*said, *filter(None, [quality.cut_warning]), _certificate_sentence(quality.choices)]
    return VerdictCard(verdict_text.ANSWERS[pays], headline, said, pays, setting=key, weights=weights)


def _of_oracles(quality: QualityTable) -> VerdictCard:
    rows = [row for row in quality.settings.to_dict("records") if is_known(row[SKIPPED])]
    sound = [row for row in rows if not row["looping"]] or rows
    best = best_within(sound, SKIPPED)
    row = best[0][1] if best else None
    said = [
        "Every rule of this sweep is an oracle, which runs all layers to decide where tokens exit. Try an online rule "
        "with --rules, such as confidence=0.9."
    ]
    shown = f"What they show: a rule that knew as much {skips(row)}" if row else ""
    headline = shown or "All layers are run to decide"
    if row and is_known(row[DISAGREEMENT]):
        differs = with_interval(row | {"n": row[f"{DISAGREEMENT}_n"]}, DISAGREEMENT)
        said = [f"It differs from full depth on {differs} of decided tokens.", *said]
    key, weights = (row["configuration"], _weights(row)) if row else (None, [])
    return VerdictCard("Oracles save nothing.", headline, said, None, setting=key, weights=weights)


Found = tuple[Row | None, bool | None, str, list[str]]  # the setting, whether it pays, the headline, further sentences


def _beside_full_depth(quality: QualityTable) -> Found | None:
    """Compare settings with `normal` by right answers, else by the first judge's scores.

    Return None if neither is known.
    """
    scores = [(judge.column(SCORE), False, quality.margin * (BEST - WORST)) for judge in quality.judges]
    for column, is_share, margin in [(CORRECT, True, quality.margin), *scores[:1]]:
        changed = f"{column}{DIFFERENCE}"
        known = held_against_normal(quality, changed)
        if known:
            kept = kept_of(known, changed, margin)
            nearest = max(known, key=lambda row: row[f"{changed}_low"])
            if is_share and (n_right := _all_lost(quality, known)):
                return None, False, f"No setting keeps any of the {pluralize(n_right, 'right answer')}", []
            cost = cost_of(quality, kept or [nearest])
            best = max(kept or [nearest], key=lambda row: row[cost.column] if is_known(row[cost.column]) else -math.inf)
            keeps = how_many_keep(len(kept), len(known), points(margin) if is_share else f"{margin:.2g}")
            of = "right answers" if is_share else "the judge's score"
            level = f"Beside full depth, it is at {difference(best, changed, is_share)} in {of}."
            name = "The best safe setting" if kept else "No setting is shown to be as good as full depth; the nearest"
            return best, bool(kept) and saves(best, cost.column), f"{name} {costs_words(best, cost)}", [keeps, level]
    return None


def _all_lost(quality: QualityTable, known: list[Row]) -> int:
    """Return the number of full depth's right answers if all these settings lose all of them, else 0."""
    normal = row_of_normal(quality)
    n_right = normal[CORRECT] * normal["n"] if normal else 0.0
    return round(n_right) if all(row[f"{CORRECT}{LOST}"] >= n_right - 1e-9 for row in known) else 0


def _by_disagreement(quality: QualityTable) -> Found:
    """Return the setting that saves most among those with little disagreement, for sweeps without answers or scores."""
    rows = quality.settings[~quality.settings["oracle"]].to_dict("records")
    sound = [row for row in rows if not row["looping"]] or rows
    cost = cost_of(quality, sound)
    known = [row for row in sound if is_known(row[cost.column])]
    best = best_within(known, cost.column)
    if not best:
        cheap = max(known, key=lambda row: row[cost.column], default=None)
        if cheap is None:
            return None, None, "", [not_held(quality)]
        is_sure = cost.column != SKIPPED and is_known(cheap.get(f"{cost.column}_high"))
        said = f"No setting certainly saves; the cheapest {costs_words(cheap, cost)}"
        return cheap, False if is_sure else None, said, [not_held(quality)]
    _, row = best[0]
    sentences = [not_held(quality)]
    if is_known(row[DISAGREEMENT]):
        differs = with_interval(row | {"n": row[f"{DISAGREEMENT}_n"]}, DISAGREEMENT)
        sentences.append(f"It differs from full depth on {differs} of decided tokens.")
        return row, None, f"Where little differs, the best setting {costs_words(row, cost)}", sentences
    return row, None, f"The setting that saves most {costs_words(row, cost)}", sentences


def _certificate_sentence(choices: pd.DataFrame) -> str:
    """Return a sentence on the strictest certificate, or on the lack of certificates."""
    rows = choices.to_dict("records")
    if not rows:
        return "Nothing is certified: eexit choose does that."
    chosen = [row for row in rows if isinstance(row["configuration"], str)]
    row = min(chosen or rows[-1:], key=lambda each: each["max_risk"])
    bounded = row["risk"], row["max_risk"], row["confidence"]
    if not chosen:
        return none_certified(*bounded, any(is_known(each.get("loss_of_prompts")) for each in row["tested"]))
    tested = next(each for each in row["tested"] if each["configuration"] == row["configuration"])
    said = " ".join(certificate_sentences(*bounded, tested))
    return f"Certified: {row['configuration']}, at {short_percent(row['cost'])} of full depth. {said}"


def _weights(row: Row) -> list[dict[str, Any]]:
    """Return the bars of skipped layers, of the saving with free decisions, and of the cost of deciding."""
    found = [("layers skipped", row[SKIPPED])]
    theoretical, run = (row.get(name, math.nan) for name in (THEORETICAL, RUN))
    if is_known(theoretical):
        found.append(("saved if deciding were free", theoretical))
    if is_known(theoretical) and is_known(run):
        found.append(("added by deciding", theoretical - run))
    return [_bar(label, share, percent(share)) for label, share in found if is_known(share)]


def _bar(label: str, share: float, text: str) -> dict[str, Any]:
    return {"label": label, "from": 0.0, "to": share, "text": text}
