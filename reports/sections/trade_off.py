"""Figures of the trade-off: quality against what is saved, and the table of configurations beside it."""

from collections.abc import Iterator, Sequence
from typing import Final

import pandas as pd

from eexit.messages import findings
from eexit.messages.wording import counted
from eexit.quality.rubric import ASPECTS
from reports.charts.styles import HOLLOW, Looks
from reports.charts.trade_off import TradeOff, trade_off_chart
from reports.frames import axes
from reports.frames.runs import GAINED, LOST, P_VALUE
from reports.frames.savings import Savings
from reports.read.judgements import BEST, PREFERRED, SCORE
from reports.read.parameters import labels_are
from reports.read.sweep import Sweep
from reports.read.timings import Measured
from reports.sections.figures import Columns, Figure, Variant, basis
from reports.sections.findings.sweep import is_sampled

_CONTROLS: Final = (
    "Grey, with a dotted line from its configuration: its control, which exits equally often at each layer, but at "
    "random tokens: the same depth without the knowledge."
)


def trade_off_figures(sweep: Sweep, trade: pd.DataFrame, savings: Savings | None, looks: Looks) -> Iterator[Figure]:
    """A figure for each measure that every sweep has, with a variant for each sense in which it is known what is saved;
    and one for the scores of a file, with a variant for each.
    """
    rows, costs = (savings.rows, [axes.SKIPPING, *savings.costs]) if savings else (trade, [axes.SKIPPING])
    if rows.empty:
        return
    beside = pd.concat([rows, savings.generate], ignore_index=True) if savings else rows
    columns, sampled = tuple(trade_off_columns(sweep, savings)), is_sampled(sweep)
    scores = [
        axes.Measure(key, label, label, axes.SCORES, higher_is_better=None) for key, label in sweep.scores.items()
    ]
    for key, measures, choice in (
        *((name, [axes.MEASURES[name]], "Saved") for name in (axes.DISAGREEMENT, axes.PERPLEXITY, axes.FIDELITY)),
        ("scores", scores, "Score"),
    ):
        shown = [TradeOff(rows, measure, cost, looks) for measure in measures for cost in costs]
        variants = [_variant(each, choice, sampled) for each in shown if each.is_drawn]
        if variants:
            name = "Scores" if measures is scores else measures[0].label
            title = f"{name} against {'what is saved' if len(costs) > 1 else costs[0].label}"
            caption, second = str(variants[0].caption), _second(columns, *(measure.column for measure in measures))
            limit = key if key == axes.DISAGREEMENT else None
            yield Figure(
                f"trade-{key}", title, caption, variants, beside, second, choice=choice, static=True, limit=limit
            )


def _variant(shown: TradeOff, choice: str, sampled: bool) -> Variant:
    caption = " ".join(_caption(shown, sampled))
    chart = trade_off_chart(shown, f"{shown.measure.label} against {shown.cost.label}. {caption}")
    return Variant(shown.cost.label if choice == "Saved" else shown.measure.label, chart, caption)


def _caption(shown: TradeOff, sampled: bool) -> Iterator[str]:
    """How the chart is read, for what is known of the sweep."""
    yield reading_of(shown)
    if sampled and shown.measure.column == axes.DISAGREEMENT:
        yield findings.SAMPLED
    yield reading_of_points(shown.rows)
    yield basis(shown.rows, shown.measure.column, "Error bars")


def reading_of(shown: TradeOff) -> str:
    """Which way is better, and what the axes mean."""
    measure, better = shown.measure, {True: "Up and right is better.", False: "Down and right is better.", None: ""}
    log = "The axis is logarithmic." if shown.is_logarithmic else ""
    parts = [better[measure.higher_is_better], measure.meaning, log, _meaning(shown.cost)]
    return " ".join(filter(None, parts))


def _meaning(cost: axes.CostAxis) -> str:
    if cost.measured:
        return f"Realised: time, beside full depth on the same path ({timed_over([cost.measured])}), bars over rounds."
    return {
        axes.THEORETICAL: "Theoretical: multiply-adds of decided tokens that the exits need, if deciding were free.",
        axes.RUN: "Run: multiply-adds of decided tokens, of what was run; oracles save nothing at run time.",
        axes.ELSEWHERE: "Run, at another model's prices: the same exits by share of depth, attention left out. Where "
        "that model's tokens would exit is not known.",
    }.get(cost.column, "")


def reading_of_points(rows: pd.DataFrame) -> str:
    """What labels and grey points are, and what a click does."""
    labels = labels_are(rows)
    said = f"Means over prompts; {f'{labels}; ' if labels else ''}a click opens the configuration."
    said += f" {_CONTROLS}" if rows["beneath"].notna().any() else ""
    return f"{said} {HOLLOW}" if rows["looping"].any() else said


def timed_over(measured: Sequence[Measured]) -> str:
    """The rounds and prompts of what was timed."""
    rounds = dict.fromkeys(f"{counted(each.rounds, 'round')} on {each.machine}" for each in measured)
    return f"median of {', '.join(rounds)}; {counted(max(each.prompts for each in measured), 'prompt')}"


def _second(columns: Columns, *keys: str) -> Columns:
    """The columns, with those of `keys` moved right after the configuration, where a narrow table shows them too."""
    return tuple(sorted(columns, key=lambda column: (column[0] != "configuration", column[0] not in keys)))


def trade_off_columns(sweep: Sweep, savings: Savings | None) -> Iterator[tuple[str, str, str]]:
    """The columns of a table of configurations, as key, label and form; a table shows those that have a value."""
    measured = savings.measured if savings else ()
    yield "configuration", "Configuration", "text"
    yield axes.CORRECT, "Accuracy", "share"
    yield f"{axes.CORRECT}{axes.DIFFERENCE}", "Accuracy, beside normal", "points"
    yield f"{axes.CORRECT}{GAINED}", "Right here, wrong in normal", "real"
    yield f"{axes.CORRECT}{LOST}", "Wrong here, right in normal", "real"
    yield f"{axes.CORRECT}{P_VALUE}", "McNemar’s p", "fine"
    for judge in sweep.judges:
        by = f", {judge.name}" if len(sweep.judges) > 1 else ""
        yield judge.column(SCORE), f"Judge's score of {BEST}{by}", "real"
        yield f"{judge.column(SCORE)}{axes.DIFFERENCE}", f"Score, beside normal{by}", "fine"
        yield judge.column(PREFERRED), f"Win rate{by}", "share"
        yield from ((judge.column(name), f"{name.replace('_', ' ').capitalize()}{by}", "real") for name in ASPECTS)
    yield from ((key, label, "real") for key, label in sweep.scores.items())
    yield axes.SKIPPED, axes.LAYERS_SKIPPED, "share"
    yield axes.DISAGREEMENT, "Disagreement", "share"
    yield "loop_share", "In one loop", "share"
    for each in measured:
        yield each.column(axes.REALISED), f"Saving, realised, {each.label}", "share"
        yield each.column("lacks"), f"Realised lacks of run, {each.label}", "points"
    yield axes.RUN, "Saving, run", "share"
    if savings and savings.elsewhere:
        yield axes.ELSEWHERE, f"Saving, run, these exits at the prices of {savings.elsewhere}", "share"
    yield axes.THEORETICAL, "Saving, theoretical", "share"
    yield "exit_rate", "Early exits", "share"
    yield axes.PERPLEXITY, "Perplexity", "real"
    yield axes.FIDELITY, "Same as normal until", "real"
    yield "lcs_share", "Agreement with normal", "share"
    yield "distinct_2", "Distinct 2-grams", "share"
    for each in measured:
        yield each.column("tokens_per_s"), f"Tokens/s, {each.label}", "real"
        yield each.column("run_timed"), f"Saving, run, of what was timed, {each.label}", "share"
    yield "chosen", "Chosen for", "text"
    yield "certified", "Certified for", "text"
    yield "n", "n prompts", "count"
    yield f"{axes.CORRECT}_n", "n with an answer", "count"
    yield "n_failed", "Failed runs", "count"
    yield "judge_errors", "Judge's errors", "count"
