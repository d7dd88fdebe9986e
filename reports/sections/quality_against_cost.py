"""The overview's section "Quality against cost": its chart, and how it is read.

The chart shows each measure of quality against each sense of saving. A line joins the parameters of a mode and rule.
Controls (rule `random`, which copies another configuration's exit layers), replayed settings and the chosen one have
marks of their own. The page's script chooses the rows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import altair as alt
import pandas as pd

from eexit.method.rules import RULES
from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import ENDS, Estimate
from eexit.sweeps.summary.contradicted import Contradicted, contradicted_rules
from reports.read.sweep import Sweep
from reports.read.timings import timed_over
from reports.sections.full_table import configuration_columns
from reports.shared import measures
from reports.shared.charts import (
    CONTROL_GREY,
    LABEL_ROOM_PIXELS,
    LABELLED,
    OPACITY,
    RING,
    ROOM_PIXELS,
    ROWS,
    WITHIN_SHARES,
    Columns,
    interval_bars,
    is_logarithmic,
    layered,
    rows_where,
    scale_of,
    where_known,
    with_tooltips,
)
from reports.shared.figures import ChartVariant, Figure, basis, table
from reports.shared.measures import DISAGREEMENT, LAYERS_SKIPPED, SKIPPED, CostAxis, Measure
from reports.shared.per_configuration import CONTRADICTED_EXITS
from reports.shared.quality import QualityTable
from reports.shared.savings import SavingsTable
from reports.shared.styles import HOLLOW, ChartStyle

REPLAYED: Final[Columns] = (
    ("configuration", "Replayed configuration", "text"),
    ("text_of", "On texts of", "text"),
    (SKIPPED, LAYERS_SKIPPED, "share"),
    (DISAGREEMENT, "Expected disagreement", "share"),
    ("kl", "Expected KL, nats", "real"),
    ("theoretical", "Saving, theoretical", "share"),
    ("n", "n prompts", "count"),
)
HEIGHT_PIXELS: Final = 330
MOST_TICKS: Final = 10
RING_PIXELS: Final = 340  # the area of the ring around a chosen setting
_RULES_WITHOUT_A_SCORE: Final = sorted(name for name, rule in RULES.items() if not rule.score_name)
# Above the axis, since upright text is hard to read.
_TITLE_ABOVE: Final[dict[str, Any]] = {
    "titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleX": -40, "titleY": -12, "titleLimit": 600,
}  # fmt: skip
_POINT: Final = f"!datum.replayed && datum.mode !== '{NORMAL}' && isValid(datum.mode) && !isValid(datum.beneath)"
_ONLINE: Final = (
    "isValid(datum.rule) && !datum.oracle && !datum.replayed && !isValid(datum.control_of) && "
    f"indexof({json.dumps(_RULES_WITHOUT_A_SCORE)}, datum.rule) < 0"
)


@dataclass(frozen=True)
class TradeOff:
    """One measure of quality against one sense of saving, for a chart of the configurations."""

    quality: QualityTable
    measure: Measure
    cost: CostAxis
    looks: ChartStyle

    @cached_property
    def points(self) -> pd.DataFrame:
        """Configurations that are drawn as points: neither `normal` nor controls of configurations in the sweep."""
        rows = self.quality.rows
        return rows[(rows["mode"] != NORMAL) & rows["beneath"].isna()]

    @cached_property
    def drawn(self) -> pd.DataFrame:
        """Points with a known measure and a known cost."""
        return self.points[self.points[[self.measure.column, self.cost.column]].notna().all(axis=1)]

    @property
    def level(self) -> float | None:
        """Value of the measure for `normal`, which is full depth; None if unknown."""
        rows = self.quality.rows
        of_normal = rows.loc[rows["mode"] == NORMAL, self.measure.column].dropna()
        return float(of_normal.iloc[0]) if len(of_normal) else None

    @property
    def is_logarithmic(self) -> bool:
        return not self.measure.is_share and is_logarithmic(self.quality.rows[self.measure.column])

    @property
    def has_replays(self) -> bool:
        """True if replays are known and this chart is of disagreement against layers skipped."""
        return (self.measure.column, self.cost.column) == (DISAGREEMENT, SKIPPED) and len(self.quality.replayed) > 0

    @property
    def columns(self) -> Columns:
        """The columns in a point's tooltip."""
        form, cost = "share" if self.measure.is_share else "real", self.cost
        return (
            ("configuration", "Configuration", "text"),
            (self.measure.column, self.measure.label, form),
            *([(measures.CUT, measures.CUT_TEXTS, "share")] if self.measure.column == measures.CORRECT else []),
            (cost.column, cost.title, "share"),
            (f"{self.measure.column}_control", "Its control", form),
            (f"{cost.column}_control", "Its control's saving", "share"),
            ("loop_share", "In one loop", "share"),
            (measures.CONTRADICTED, measures.EARLY_CONTRADICTED, "share"),
            ("chosen", "Chosen for", "text"),
            (f"{self.measure.column}_n", "n prompts", "count"),
        )


def quality_figure(sweep: Sweep, quality: QualityTable, saves: SavingsTable | None) -> Figure | None:
    """Return a chart of each measure against each cost; None if there is nothing to draw."""
    # The axis title is at the top.
    looks = replace(ChartStyle.for_configurations(sweep.configurations), legends="bottom")
    caption = _how_points_are_read(quality.rows)
    rows, found = quality.rows.set_index("configuration").to_dict("index"), {}
    for each in (each for each in sweep.configurations if each.key in rows):
        share = Estimate(*(rows[each.key][f"{measures.CONTRADICTED}{end}"] for end in ENDS))
        found[each] = Contradicted(share, int(rows[each.key][CONTRADICTED_EXITS]))
    if warning := contradicted_rules(found):
        caption = f"{warning} {caption}"
    if quality.settings["chosen"].notna().any():
        caption += " Ringed: the chosen setting."
    variants = []
    for shown in (TradeOff(quality, measure, cost, looks) for measure in quality.measures for cost in quality.costs):
        y, x = shown.measure.label, shown.cost.label
        if len(shown.drawn):
            axes = {"y": shown.measure.column, "x": shown.cost.column}
            chart = trade_off_chart(shown, f"{y} against {x}. {caption}")
            variants.append(ChartVariant("", chart, y=y, x=x, note=" ".join(_note(shown, sweep.is_sampled)), axes=axes))
    if not variants:
        return None
    return Figure(
        "quality",
        "Quality against cost",
        caption,
        variants,
        pd.concat([quality.rows, saves.generate], ignore_index=True) if saves else quality.rows,
        tuple(configuration_columns(sweep, saves)),
        wide=True,
        replayed=table(quality.replayed, REPLAYED) if len(quality.replayed) else None,
    )


def _note(shown: TradeOff, sampled: bool) -> Iterator[str]:
    """Yield sentences on a measure and a cost: the better direction, and the meaning of the axes."""
    measure = shown.measure
    if measure.higher_is_better is not None:
        yield f"{'Up' if measure.higher_is_better else 'Down'} and right is better."
    yield measure.meaning
    if measure.column == measures.CORRECT and shown.quality.cut_warning:
        yield shown.quality.cut_warning
    if sampled and measure.column == DISAGREEMENT:
        yield "Tokens are sampled, so that normal disagrees too."
    if shown.is_logarithmic:
        yield "The axis is logarithmic."
    if measure.column == measures.CORRECT and shown.quality.margin:
        yield "Grey band: as good as full depth."
    if measure.higher_is_better is not None and not shown.quality.settings["oracle"].all():
        yield "Thick line: what no online setting that is shown beats in both."
    yield from _meaning(shown.cost)
    yield basis(shown.points, measure.column, "Bars")
    if shown.has_replays:
        yield (
            "Thin lines: settings that were replayed on recorded texts (teacher-forced: without what exits do to "
            "later tokens)."
        )


def _meaning(cost: CostAxis) -> Iterator[str]:
    if cost.measured:
        yield f"Realised: time, beside full depth on the same path ({timed_over([cost.measured])}), bars over calls."
    match cost.column:
        case measures.THEORETICAL:
            yield "Theoretical: multiply-adds of decided tokens that the exits need, if deciding were free."
        case measures.RUN:
            yield "Run: multiply-adds of decided tokens, of what was run; oracles save nothing at run time."
        case measures.ELSEWHERE:
            yield (
                "Run, at another model's unit costs: the same exits by share of depth, attention left out. Where that "
                "model's tokens would exit is not known."
            )


def _how_points_are_read(rows: pd.DataFrame) -> str:
    """Return the part of the caption on grey points and on clicks."""
    said = "Means over prompts; a click opens the configuration."
    if rows["beneath"].notna().any():
        said += (
            " Grey, with a dotted line from its configuration: its control, which exits equally often at each layer, "
            "but at random tokens: the same depth without the knowledge."
        )
    return f"{said} {HOLLOW}" if rows["looping"].any() else said


def trade_off_chart(shown: TradeOff, description: str) -> alt.LayerChart:
    """Return a chart with a line per mode and rule, and a point with its interval per parameter.

    Scales fit the page's rows. In grey: controls, each joined to its configuration by a dotted line, and a band of what
    counts as good as full depth. A thick line joins full depth and the online settings that no other beats in both
    measure and cost. Replayed settings are thin lines; a chosen setting has a ring.
    """
    measure, cost, looks, points = shown.measure, shown.cost, shown.looks, shown.points
    scale = alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS)
    label = WITHIN_SHARES if cost.column == SKIPPED else alt.Undefined  # savings may be negative
    x_axis = alt.Axis(format="~%", tickCount=MOST_TICKS, labelExpr=label)
    x = alt.X(f"{cost.column}:Q", title=cost.title, scale=scale, axis=x_axis)
    axis = alt.Axis(**_TITLE_ABOVE)
    if measure.is_share:
        axis = alt.Axis(format="~%", tickCount=MOST_TICKS, labelExpr=WITHIN_SHARES, **_TITLE_ABOVE)
    y = alt.Y(f"{measure.column}:Q", title=measure.title, scale=_fitted(shown), axis=axis)
    known = f"isValid(datum['{cost.column}']) && isValid(datum['{measure.column}'])"
    base = rows_where(f"{_POINT} && {known}").encode(x=x, y=y, color=looks.colour(points))
    base, tooltip = with_tooltips(base, shown.columns, shown.quality.rows)
    # Many bars would hide the lines, so only the highlighted point's bar is opaque.
    picked = {"test": "picked == datum.configuration", "value": 0.8}
    bars = base.mark_rule(aria=False, clip=True).encode(opacity=alt.OpacityValue(0.12, condition=[picked]))
    return layered(
        *_as_good(shown),
        *_frontier(shown, known, x, y),
        base.mark_line(aria=False, opacity=0.7)
        .encode(order=alt.Order("parameter:Q"), detail=alt.Detail("series:N"), strokeDash=looks.dash(points))
        .properties(name="lines"),
        *_replays(shown, x, y),
        # After the lines, which supply the legend of modes.
        *_controls(base, shown, tooltip),
        *interval_bars(bars.properties(name="bars"), shown.drawn, measure.column, measure.title),
        *where_known(shown.drawn["chosen"], _ring(x, y, known)),
        _marks(base, shown, tooltip),
        *_full_depth(known, x, y),
        description=description,
        height=HEIGHT_PIXELS,
    )


def _fitted(shown: TradeOff) -> alt.Scale:
    """Return a scale that fits the page's points, or 0 to 1 if all points are the same share without an interval."""
    y = shown.measure.column
    if shown.measure.is_share and shown.quality.rows[[y, f"{y}_high"]].stack().nunique() < 2:
        return alt.Scale(domain=[0, 1], padding=ROOM_PIXELS)
    return scale_of(shown.is_logarithmic, zero=False, padding=LABEL_ROOM_PIXELS)


def _as_good(shown: TradeOff) -> Iterator[alt.Chart]:
    """Yield a dashed line at full depth's value, and a band of values that count as good as full depth."""
    level, margin = shown.level, shown.quality.margin
    if level is None:
        return
    once = alt.Chart(ROWS).transform_aggregate(n="count()")
    if shown.measure.column == measures.CORRECT and margin:
        within = alt.YDatum(max(0.0, level - margin), title=shown.measure.title)
        yield once.mark_rect(aria=False, color=CONTROL_GREY, opacity=0.2).encode(y=within, y2=alt.Y2Datum(level))
    even = once.encode(y=alt.YDatum(level, title=shown.measure.title))
    yield even.mark_rule(aria=False, strokeDash=[5, 4]).properties(name="even")


def _frontier(shown: TradeOff, known: str, x: alt.X, y: alt.Y) -> Iterator[alt.Chart]:
    """Yield a line along the Pareto front of measure and cost, of full depth and the visible online settings."""
    measure, cost = shown.measure, shown.cost
    if measure.higher_is_better is None:
        return
    first = "descending" if measure.higher_is_better else "ascending"
    so_far: Any = [{"op": "max" if measure.higher_is_better else "min", "field": measure.column, "as": "best"}]
    order: Any = [{"field": cost.column, "order": "descending"}, {"field": measure.column, "order": first}]
    kept = rows_where(f"{known} && (datum.mode === '{NORMAL}' || {_ONLINE})")
    kept = kept.transform_window(so_far, sort=order).transform_filter(f"datum['{measure.column}'] === datum.best")
    line = kept.mark_line(aria=False, strokeWidth=9, strokeCap="round", opacity=0.22, color=CONTROL_GREY)
    yield line.encode(x=x, y=y, order=alt.Order(f"{cost.column}:Q"))


def _marks(base: alt.Chart, shown: TradeOff, tooltip: list[alt.Tooltip]) -> alt.Chart:
    """Return the points, hollow for configurations whose text is mostly one loop."""
    looks: dict[str, Any] = {"filled": True, "size": 80, "cursor": "pointer"}
    if shown.drawn["looping"].any():
        outline = f"scale('color', datum.{'family' if shown.looks.has_several_rules else 'mode'})"
        looks |= {"strokeWidth": 2, "stroke": {"expr": outline}, "fillOpacity": {"expr": "datum.looping ? 0 : 1"}}
    marks = base.mark_point(**looks).encode(shape=shown.looks.shape(shown.points), opacity=OPACITY, tooltip=tooltip)
    named: alt.Chart = marks.properties(name=LABELLED)
    return named


def _full_depth(known: str, x: alt.X, y: alt.Y) -> Iterator[alt.Chart]:
    normal = rows_where(f"datum.mode === '{NORMAL}' && {known}").encode(x=x, y=y)
    square = normal.mark_point(style=RING, shape="square", filled=True, size=110, aria=False)
    yield square.properties(name="full_depth")
    beside: dict[str, Any] = {"align": "left", "dx": 9, "dy": -9, "strokeWidth": 0}
    text = normal.mark_text(style=RING, aria=False, **beside).encode(text=alt.TextValue("full depth"))
    yield text.properties(name="full_depth_text")


def _controls(base: alt.Chart, shown: TradeOff, tooltip: list[alt.Tooltip]) -> Iterator[alt.Chart]:
    """Yield controls as grey points, each with a dotted line to the configuration whose exit layers it copies."""
    across, up = f"{shown.cost.column}_control", f"{shown.measure.column}_control"
    if not shown.drawn.reindex(columns=[across, up]).notna().all(axis=1).any():
        return
    controlled = base.transform_filter(f"isValid(datum['{across}']) && isValid(datum['{up}'])")
    controlled = controlled.encode(color=alt.ColorValue(CONTROL_GREY), opacity=OPACITY)
    yield controlled.mark_rule(aria=False, strokeDash=[2, 3]).encode(x2=alt.X2(f"{across}:Q"), y2=alt.Y2(f"{up}:Q"))
    yield controlled.mark_point(filled=True, size=50, cursor="pointer").encode(
        x=alt.X(f"{across}:Q", title=shown.cost.title),
        y=alt.Y(f"{up}:Q", title=shown.measure.title),
        shape=shown.looks.shape(shown.points),
        tooltip=tooltip,
    )


def _ring(x: alt.X, y: alt.Y, known: str) -> alt.Chart:
    chosen = rows_where(f"{_POINT} && {known} && isValid(datum.chosen)")
    ring = chosen.mark_point(style=RING, filled=False, shape="circle", size=RING_PIXELS, strokeWidth=2.5, aria=False)
    found: alt.Chart = ring.encode(x=x, y=y).properties(name="chosen")
    return found


def _replays(shown: TradeOff, x: alt.X, y: alt.Y) -> Iterator[alt.Chart]:
    """Yield a thin line along the replayed settings, for each mode and rule in the chart."""
    replayed, points, looks = shown.quality.replayed, shown.points, shown.looks
    if not shown.has_replays:
        return
    drawn = replayed[replayed["mode"].isin(looks.modes) & replayed["rule"].isin(points["rule"])]
    if drawn.empty:
        return
    curves = f"indexof({json.dumps(sorted(drawn['curve'].unique()))}, datum.curve) >= 0"
    base = rows_where(f"datum.replayed && {curves}")
    base = base.encode(x=x, y=y, color=looks.colour(points))
    yield base.mark_line(aria=False, strokeWidth=1).encode(
        order=alt.Order("parameter:Q"), detail=alt.Detail("curve:N"), strokeDash=looks.dash(points)
    )
