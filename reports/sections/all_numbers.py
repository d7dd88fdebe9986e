"""The overview's fold "All numbers": all that is known of every configuration, and scores of the harness."""

from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from eexit.quality.rubric import ASPECTS
from eexit.results.study_tables import SCORES
from reports.read.judgements import BEST, SCORE
from reports.read.sweep import Sweep
from reports.sections.findings import quality_findings
from reports.shared import measures
from reports.shared.charts import Columns
from reports.shared.figures import table
from reports.shared.measures import DISAGREEMENT, LAYERS_SKIPPED, SKIPPED
from reports.shared.paired import GAINED, LOST, P_VALUE
from reports.shared.quality import Quality
from reports.shared.savings import Savings

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


def quality_section(
    sweep: Sweep, quality: Quality | None, saves: Savings | None, has_chart: bool
) -> dict[str, Any] | None:
    """The findings of quality and the tables behind them, beside the chart, which has the first one; None for a sweep
    that has nothing of it.
    """
    if quality is None or not quality.is_studied:
        return None
    scores = sweep.rows_of(SCORES)
    return {
        "findings": quality_findings(quality, len(sweep.failed)),
        "table": None if has_chart else table(quality.rows, tuple(configuration_columns(sweep, saves))),
        "harness": table(scores_of_harness(scores), HARNESS) if len(scores) else None,
    }


def configuration_columns(sweep: Sweep, savings: Savings | None) -> Iterator[tuple[str, str, str]]:
    """The columns of a table of configurations, as key, label and form; a table shows those that have a value."""
    measured = savings.measured if savings else ()
    yield "configuration", "Configuration", "text"
    yield measures.CORRECT, "Accuracy", "share"
    yield f"{measures.CORRECT}{measures.DIFFERENCE}", "Accuracy, beside normal", "points"
    yield f"{measures.CORRECT}{GAINED}", "Right here, wrong in normal", "real"
    yield f"{measures.CORRECT}{LOST}", "Wrong here, right in normal", "real"
    yield f"{measures.CORRECT}{P_VALUE}", "McNemar’s p", "fine"
    for judge in sweep.judges:
        by = f", {judge.name}" if len(sweep.judges) > 1 else ""
        yield judge.column(SCORE), f"Judge's score of {BEST}{by}", "real"
        yield f"{judge.column(SCORE)}{measures.DIFFERENCE}", f"Score, beside normal{by}", "fine"
        yield from ((judge.column(name), f"{name.replace('_', ' ').capitalize()}{by}", "real") for name in ASPECTS)
    yield from ((key, label, "real") for key, label in sweep.scores.items())
    yield SKIPPED, LAYERS_SKIPPED, "share"
    yield DISAGREEMENT, "Disagreement", "share"
    yield "loop_share", "In one loop", "share"
    for each in measured:
        yield each.column(measures.REALISED), f"Saving, realised, {each.label}", "share"
        yield each.column("lacks"), f"Realised lacks of run, {each.label}", "points"
    yield measures.RUN, "Saving, run", "share"
    if savings and savings.elsewhere:
        yield measures.ELSEWHERE, f"Saving, run, these exits at the prices of {savings.elsewhere}", "share"
    yield measures.THEORETICAL, "Saving, theoretical", "share"
    for column, sense in measures.SENSES.items():
        yield column, f"Saving per right answer, {sense}", "share"
    yield "exit_rate", "Early exits", "share"
    yield measures.PERPLEXITY, "Perplexity", "real"
    yield measures.FIDELITY, "Same as normal until", "real"
    yield "lcs_share", "Agreement with normal", "share"
    yield "distinct_2", "Distinct 2-grams", "share"
    for each in measured:
        yield each.column("tokens_per_s"), f"Tokens/s, {each.label}", "real"
        yield each.column("run_timed"), f"Saving, run, of what was timed, {each.label}", "share"
    yield "chosen", "Chosen for", "text"
    yield "certified", "Certified for", "text"
    yield "n", "n prompts", "count"
    yield f"{measures.CORRECT}_n", "n with an answer", "count"
    yield "n_failed", "Failed runs", "count"
    yield "judge_errors", "Judge's errors", "count"


def scores_of_harness(scores: pd.DataFrame) -> pd.DataFrame:
    """The latest score of each configuration, seed, task, metric, filter and convention, by task and metric."""
    what = ["task", "metric", "filter", "n_shot", "limit", "first_token"]
    said = scores.assign(first_token=scores["first_token_exits"].map({True: "may exit", False: "full depth's"}))
    latest = said.drop_duplicates(["configuration", "seed", *what], keep="last")
    found = latest.assign(**{SKIPPED: 1 - latest["mean_depth"].astype(float)})
    names = [key for key, _, _ in HARNESS if key not in ONLY_WHERE_SEVERAL or latest[key].nunique() > 1]
    return found.sort_values(what, kind="stable")[names].reset_index(drop=True)
