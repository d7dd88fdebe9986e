"""The overview's section "Quality": answers, judges, agreement and perplexity against cost, and what is certified."""

from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from eexit.results.study_tables import SCORES
from reports.charts.styles import Looks
from reports.charts.trade_off import TradeOff, trade_off_chart
from reports.frames.axes import DISAGREEMENT, LAYERS_SKIPPED, SKIPPED
from reports.frames.quality import Quality
from reports.frames.savings import Savings
from reports.read.sweep import Sweep
from reports.sections.figures import Columns, Figure, Variant, basis, table
from reports.sections.findings.quality import quality_findings
from reports.sections.trade_off import reading_of, reading_of_points, trade_off_columns

REPLAYED: Final[Columns] = (
    ("configuration", "Replayed setting", "text"),
    ("text_of", "On texts of", "text"),
    (SKIPPED, LAYERS_SKIPPED, "share"),
    (DISAGREEMENT, "Expected disagreement", "share"),
    ("kl", "Expected KL, nats", "real"),
    ("theoretical", "Saving, theoretical", "share"),
    ("n", "n prompts", "count"),
)
HARNESS: Final[Columns] = (
    ("configuration", "Configuration", "text"),
    ("task", "Task", "text"),
    ("metric", "Metric", "text"),
    ("filter", "Filter", "text"),
    ("value", "Value", "real"),
    ("stderr", "± standard error", "real"),
    ("n", "n documents", "count"),
    ("n_shot", "Shots", "count"),
    (SKIPPED, LAYERS_SKIPPED, "share"),
    ("seed", "Seed", "count"),
    ("limit", "Limit", "real"),
    ("first_token", "First token of continuations", "text"),
)
ONLY_WHERE_SEVERAL: Final = ("seed", "first_token")  # columns that say nothing where all rows have the same
TEACHER_FORCED: Final = (
    "Thin lines: settings that were replayed on recorded texts (teacher-forced: what exits do to later tokens is left "
    "out)."
)


def quality_section(sweep: Sweep, frames: Quality, saves: Savings | None) -> dict[str, Any] | None:
    """Findings and tables; None for a sweep that has nothing of it."""
    if not frames.is_studied:
        return None
    scores = sweep.rows_of(SCORES)
    return {
        "findings": quality_findings(frames, len(sweep.failed)),
        "table": table(frames.rows, tuple(trade_off_columns(sweep, saves))),
        "harness": table(scores_of_harness(scores), HARNESS) if len(scores) else None,
    }


def quality_figure(sweep: Sweep, frames: Quality, saves: Savings | None) -> Figure | None:
    """A chart of each measure against each cost; None if there is nothing to draw."""
    looks, columns = Looks.of(sweep.configurations), tuple(trade_off_columns(sweep, saves))
    caption = reading_of_points(frames.rows)
    if frames.settings["chosen"].notna().any():
        caption += " Ringed: the chosen setting."
    variants = []
    for measure in frames.measures:
        for cost in frames.costs:
            shown = TradeOff(frames.rows, measure, cost, looks, frames.replayed)
            if shown.is_drawn:
                chart = trade_off_chart(shown, f"{measure.label} against {cost.label}. {caption}")
                note, named = " ".join(_note(shown)), ("configuration", measure.column, cost.column, "chosen")
                variants.append(
                    Variant("", chart, y=measure.label, x=cost.label, note=note, shown=named, axes=_axes(shown))
                )
    if not variants:
        return None
    replayed = table(frames.replayed, REPLAYED) if len(frames.replayed) else None
    title, rows = "Quality against cost", frames.rows
    return Figure("quality", title, caption, variants, rows, columns, wide=True, static=True, replayed=replayed)


def _axes(shown: TradeOff) -> dict[str, Any]:
    """What the page needs to know of a measure and a cost, to place labels and find what nothing beats."""
    measure = shown.measure
    return {
        "y": measure.column,
        "x": shown.cost.column,
        "better": measure.higher_is_better,
        "is_share": measure.is_share,
        "logarithmic": shown.is_logarithmic,
        "even": measure.even,
    }


def _note(shown: TradeOff) -> Iterator[str]:
    """What is particular to a measure and a cost."""
    yield reading_of(shown)
    yield basis(shown.points, shown.measure.column, "Bars")
    if shown.replayed is not None and len(shown.replayed) and shown.is_disagreement_by_layers:
        yield TEACHER_FORCED


def scores_of_harness(scores: pd.DataFrame) -> pd.DataFrame:
    """The latest score of each configuration, seed, task, metric, filter and convention, by task and metric."""
    what = ["task", "metric", "filter", "n_shot", "limit", "first_token"]
    may_exit = scores["first_token_exits"].astype("boolean").fillna(True)  # null in scores that say nothing of it
    said = scores.assign(first_token=may_exit.map({True: "may exit", False: "full depth's"}))
    latest = said.drop_duplicates(["configuration", "seed", *what], keep="last")
    found = latest.assign(**{SKIPPED: 1 - latest["mean_depth"].astype(float)})
    names = [key for key, _, _ in HARNESS if key not in ONLY_WHERE_SEVERAL or latest[key].nunique() > 1]
    return found.sort_values(what, kind="stable")[names].reset_index(drop=True)
