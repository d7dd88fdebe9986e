"""The overview's section "Quality": answers, judges, agreement and perplexity against cost, and what is certified."""

from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from eexit.messages.wording import counted
from eexit.quality.bootstrap import LEVEL
from eexit.quality.rubric import ASPECTS
from eexit.results.study_tables import SCORES
from reports.charts.quality import quality_chart
from reports.charts.styles import Looks
from reports.frames.quality import DIFFERENCE, DISAGREEMENT, SKIPPED, CostAxis, Measure, Quality, quality
from reports.frames.runs import CORRECT, LAYERS_SKIPPED
from reports.frames.savings import RUN, Savings
from reports.read.judgements import BEST, PREFERRED, SCORE
from reports.read.parameters import labels_are
from reports.read.sweep import Sweep
from reports.sections.findings.quality import headline, quality_findings
from reports.sections.overview import Columns, chart_entry, table

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


def quality_section(
    sweep: Sweep, trade: pd.DataFrame, paired: pd.DataFrame, saves: Savings | None
) -> dict[str, Any] | None:
    """Findings, a chart and tables; None for a sweep that has nothing of it. The frames are as in `quality`."""
    frames = quality(sweep, trade, paired, saves)
    if frames is None:
        return None
    columns = tuple(_columns(frames))
    chart = _chart(frames, columns, Looks.of(sweep.configurations))
    return {
        "headline": headline(frames),  # of the whole report
        "findings": quality_findings(frames, len(sweep.failed)),
        "chart": chart,
        "table": None if chart else table(frames.rows, columns),  # else that of the chart
        "harness": table(scores_of_harness(sweep.rows_of(SCORES)), HARNESS) if len(sweep.rows_of(SCORES)) else None,
    }


def _chart(frames: Quality, columns: Columns, looks: Looks) -> dict[str, Any] | None:
    """The chart, with a variant for each measure and cost; None if there is nothing to draw."""
    pairs = [
        (measure, cost) for measure in frames.measures for cost in frames.costs if _is_drawn(frames, measure, cost)
    ]
    if not pairs:
        return None
    caption = " ".join(_caption(frames))
    drawn = [
        ("", quality_chart(frames, measure, cost, f"{measure.label} against {cost.label}. {caption}", looks))
        for measure, cost in pairs
    ]
    entry = chart_entry("quality", "Quality against cost", caption, drawn, frames.rows, columns)
    for variant, (measure, cost) in zip(entry["variants"], pairs, strict=True):
        variant |= {"y": measure.label, "x": cost.label, "note": " ".join(_note(frames, measure, cost))}
        variant["shown"] = ["configuration", measure.column, cost.column, "chosen"]
    replayed = table(frames.replayed, REPLAYED) if len(frames.replayed) else None
    return entry | {"wide": True, "heading": "h3", "replayed": replayed}


def _is_drawn(frames: Quality, measure: Measure, cost: CostAxis) -> bool:
    return bool((frames.settings[measure.column].notna() & frames.settings[cost.column].notna()).any())


def _caption(frames: Quality) -> Iterator[str]:
    """What is the same for all measures."""
    labels = labels_are(frames.settings)
    yield f"Means over prompts{f'; {labels}' if labels else ''}; a click opens the configuration."
    if frames.settings[f"{SKIPPED}_low"].notna().any():
        yield f"Bars: {LEVEL:.0%} intervals over prompts; of realised time, over rounds."
    if frames.rows["beneath"].notna().any():
        yield (
            "Grey, with a dotted line from its configuration: its control, which exits equally often at each layer, "
            "but at random tokens: the same depth without the knowledge."
        )
    if frames.settings["chosen"].notna().any():
        yield "Ringed: the chosen setting."
    if frames.settings["oracle"].any():
        yield "Oracles save nothing at run time."


def _note(frames: Quality, measure: Measure, cost: CostAxis) -> Iterator[str]:
    """What is particular to a measure and a cost."""
    yield f"{'Up' if measure.higher_is_better else 'Down'} and right is better. {measure.meaning}"
    n = frames.settings.loc[frames.settings[measure.column].notna(), f"{measure.column}_n"]
    count = (
        counted(int(n.max()), "prompt") if n.min() == n.max() else f"{n.min():,} to {counted(int(n.max()), 'prompt')}"
    )
    yield f"n = {count}{f', {frames.n_seeds} seeds averaged first' if frames.n_seeds > 1 else ''}."
    if (measure.column, cost.column) == (DISAGREEMENT, SKIPPED) and len(frames.replayed):
        yield TEACHER_FORCED


def _columns(frames: Quality) -> Iterator[tuple[str, str, str]]:
    """The columns of the table, as key, label and form."""
    yield "configuration", "Configuration", "text"
    yield CORRECT, "Accuracy", "share"
    yield f"{CORRECT}{DIFFERENCE}", "Accuracy, beside normal", "points"
    for judge in frames.judges:
        by = f", {judge.name}" if len(frames.judges) > 1 else ""
        yield judge.column(SCORE), f"Judge's score of {BEST}{by}", "real"
        yield f"{judge.column(SCORE)}{DIFFERENCE}", f"Score, beside normal{by}", "fine"
        yield judge.column(PREFERRED), f"Win rate{by}", "share"
        for aspect in ASPECTS:
            yield judge.column(aspect), f"{aspect.replace('_', ' ').capitalize()}{by}", "real"
    yield DISAGREEMENT, "Disagreement", "share"
    yield "lcs_share", "Agreement with normal", "share"
    yield "perplexity", "Perplexity", "real"
    yield SKIPPED, LAYERS_SKIPPED, "share"
    for cost in frames.costs:
        if cost.column == RUN:
            yield RUN, "Saving, run", "share"
        elif cost.measured:
            yield cost.column, f"Saving, realised, {cost.measured.label}", "share"
    yield "chosen", "Chosen for", "text"
    yield "certified", "Certified for", "text"
    yield "n", "n prompts", "count"
    yield f"{CORRECT}_n", "n with an answer", "count"
    if frames.rows["n_failed"].any():
        yield "n_failed", "Failed runs", "count"
    yield "judge_errors", "Judge's errors", "count"


def scores_of_harness(scores: pd.DataFrame) -> pd.DataFrame:
    """The latest score of each configuration, seed, task, metric, filter and convention, by task and metric."""
    what = ["task", "metric", "filter", "n_shot", "limit", "first_token"]
    may_exit = scores["first_token_exits"].astype("boolean").fillna(True)  # null in scores that say nothing of it
    said = scores.assign(first_token=may_exit.map({True: "may exit", False: "full depth's"}))
    latest = said.drop_duplicates(["configuration", "seed", *what], keep="last")
    found = latest.assign(**{SKIPPED: 1 - latest["mean_depth"].astype(float)})
    names = [key for key, _, _ in HARNESS if key not in ONLY_WHERE_SEVERAL or latest[key].nunique() > 1]
    return found.sort_values(what, kind="stable")[names].reset_index(drop=True)
