"""The chart of the trade-off: a measure of quality against what is saved, with controls, `normal`, replayed settings
and the chosen one.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import altair as alt
import pandas as pd

from eexit.plan.configuration import NORMAL
from reports.charts.base import (
    HEIGHT_PIXELS,
    INTERVAL,
    OPACITY,
    ROOM_PIXELS,
    ROWS,
    interval_bars,
    interval_words,
    layered,
    scale_of,
    where_known,
)
from reports.charts.labels import PLOT_WIDTH_PIXELS, Axis, LabelPosition, label_positions
from reports.charts.styles import Looks
from reports.frames.axes import DISAGREEMENT, SKIPPED, CostAxis, Measure
from reports.read.parameters import representative

LABEL_ROOM_PIXELS: Final = 24  # between the outermost marks and the axes, with space for labels above and below points
MOST_LABELS: Final = 4  # up to this many points of one mode and rule, each is labelled
MOST_TICKS: Final = 10
CONTROL_GREY: Final = "#8a929e"
RING_PIXELS: Final = 340  # the area of the ring around a chosen setting
RING: Final = "ring"  # the style of it, in the page's theme
_POINT: Final = f"!datum.replayed && datum.mode !== '{NORMAL}' && isValid(datum.mode) && !isValid(datum.beneath)"


@dataclass(frozen=True)
class TradeOff:
    """What a trade-off chart shows: the rows of `runs.trade_off` or of what adds to it, and the replayed settings."""

    rows: pd.DataFrame
    measure: Measure
    cost: CostAxis
    looks: Looks
    replayed: pd.DataFrame | None = None  # shown where disagreement is set against layers skipped

    @property
    def points(self) -> pd.DataFrame:
        """The configurations that are points: not `normal`, and no controls of what the sweep has."""
        return self.rows[(self.rows["mode"] != NORMAL) & self.rows["beneath"].isna()]

    @property
    def drawn(self) -> pd.DataFrame:
        """The points whose measure and cost are both known."""
        return self.points[self.points[[self.measure.column, self.cost.column]].notna().all(axis=1)]

    @property
    def is_drawn(self) -> bool:
        """Whether there is any point to draw."""
        return len(self.drawn) > 0

    @property
    def controlled(self) -> pd.Series:
        """For each point that is drawn, whether its control's measure and cost are both known; else NaN."""
        names = [f"{self.measure.column}_control", f"{self.cost.column}_control"]
        both = self.drawn.reindex(columns=names).notna().all(axis=1)
        return both.where(both)

    @property
    def is_logarithmic(self) -> bool:
        return not self.measure.is_share and is_logarithmic(self.rows[self.measure.column])

    @property
    def is_disagreement_by_layers(self) -> bool:
        return (self.measure.column, self.cost.column) == (DISAGREEMENT, SKIPPED)

    @property
    def form(self) -> str:
        """How values of the measure are written."""
        return ".1%" if self.measure.is_share else ".4~g"

    def column(self, name: str) -> pd.Series:
        """A column of the rows; without values if they lack it."""
        return self.rows.get(name, pd.Series(dtype=float))


def trade_off_chart(shown: TradeOff, description: str) -> alt.LayerChart:
    """A line for each mode and rule, with a point and its intervals for each parameter.

    In grey: controls, each joined to its configuration by a dotted line. Settings that were only replayed are thin
    lines. `normal` is a dashed line, and a chosen setting has a ring.
    """
    measure, cost, looks, points = shown.measure, shown.cost, shown.looks, shown.points
    x = alt.X(f"{cost.column}:Q", title=cost.title, scale=alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS))
    x = x.axis(_percent_axis(least=0 if cost.column == SKIPPED else None))
    y = alt.Y(
        f"{measure.column}:Q",
        title=measure.title,
        scale=scale_of(shown.is_logarithmic, measure.is_share, LABEL_ROOM_PIXELS),
    )
    y = y.axis(_percent_axis(least=0, most=1) if measure.is_share else alt.Axis())
    known = f"isValid(datum['{cost.column}']) && isValid(datum['{measure.column}'])"
    base = alt.Chart(ROWS).transform_filter(f"{_POINT} && {known}").encode(x=x, y=y, color=looks.colour(points))
    base = base.transform_calculate(interval=interval_words(measure.column, shown.form))
    tooltip = list(_tooltip(shown))
    return layered(
        base.mark_line(aria=False, opacity=0.7).encode(
            order=alt.Order("parameter:Q"), detail=alt.Detail("series:N"), strokeDash=looks.dash(points)
        ),
        *_even(shown, y),
        *_replays(shown, x, y),
        # After the lines, from which the legend of modes is taken.
        *where_known(shown.controlled, *_controls(base, shown, tooltip)),
        *_intervals(base, shown),
        *where_known(shown.drawn.get("chosen", pd.Series(dtype=object)), _ring(x, y, known)),
        *_marks(base, shown, tooltip),
        *_labels(base, shown),
        description=description,
    )


def _marks(base: alt.Chart, shown: TradeOff, tooltip: list[alt.Tooltip]) -> Iterator[alt.Chart]:
    """The points; those of configurations whose text is mostly one loop are hollow."""
    shape, loops = shown.looks.shape(shown.points), shown.drawn["looping"]
    encoded = base.encode(shape=shape, opacity=OPACITY, tooltip=tooltip)
    sound = encoded.transform_filter("!datum.looping") if loops.any() else encoded
    if not loops.all():
        yield sound.mark_point(filled=True, size=80, cursor="pointer")
    if loops.any():
        hollow = encoded.transform_filter("datum.looping")
        yield hollow.mark_point(filled=False, size=80, strokeWidth=2, cursor="pointer")


def _percent_axis(least: float | None, most: float | None = None) -> alt.Axis:
    """Without labels where there is room beside the values that there can be."""
    beyond = [f"datum.value < {least}"] * (least is not None) + [f"datum.value > {most}"] * (most is not None)
    label = f"{' || '.join(beyond)} ? '' : datum.label" if beyond else alt.Undefined
    return alt.Axis(format="~%", tickCount=MOST_TICKS, labelExpr=label)


def _even(shown: TradeOff, y: alt.Y) -> Iterator[alt.Chart]:
    """A dashed line at what `normal` has or, for a win rate, at as many wins as losses."""
    measure = shown.measure
    is_normal = f"datum.mode === '{NORMAL}' && isValid(datum['{measure.column}'])"
    line = alt.Chart(ROWS).transform_filter(is_normal).encode(y=y)
    words, known = NORMAL, shown.rows.loc[shown.rows["mode"] == NORMAL, measure.column]
    if measure.even is not None:
        line = alt.Chart(ROWS).transform_aggregate(n="count()").encode(y=alt.YDatum(measure.even, title=measure.title))
        words, known = f"as good as {NORMAL}", pd.Series([measure.even])
    yield from where_known(
        known,
        line.mark_rule(aria=False, strokeDash=[5, 4]),
        line.mark_text(aria=False, text=words, fontSize=11, align="right", baseline="bottom", dy=-2).encode(
            x=alt.value("width")
        ),
    )


def _controls(base: alt.Chart, shown: TradeOff, tooltip: list[alt.Tooltip]) -> Iterator[alt.Chart]:
    """Grey points, each with a dotted line from the configuration that it exits as often as."""
    across, up = f"{shown.cost.column}_control", f"{shown.measure.column}_control"
    controlled = base.transform_filter(f"isValid(datum['{across}']) && isValid(datum['{up}'])")
    controlled = controlled.encode(color=alt.ColorValue(CONTROL_GREY), opacity=OPACITY)
    yield controlled.mark_rule(aria=False, strokeDash=[2, 3]).encode(x2=alt.X2(f"{across}:Q"), y2=alt.Y2(f"{up}:Q"))
    yield controlled.mark_point(filled=True, size=50, cursor="pointer").encode(
        x=alt.X(f"{across}:Q", title=shown.cost.title),
        y=alt.Y(f"{up}:Q", title=shown.measure.title),
        shape=shown.looks.shape(shown.points),
        tooltip=tooltip,
    )


def _intervals(base: alt.Chart, shown: TradeOff) -> list[alt.Chart]:
    bars = base.mark_rule(aria=False).encode(opacity=OPACITY)
    return [
        *interval_bars(bars, shown.drawn, shown.measure.column, shown.measure.title),
        *interval_bars(bars, shown.drawn, shown.cost.column, shown.cost.title, along="x"),
    ]


def _ring(x: alt.X, y: alt.Y, known: str) -> alt.Chart:
    chosen = alt.Chart(ROWS).transform_filter(f"{_POINT} && {known} && isValid(datum.chosen)")
    ring = chosen.mark_point(style=RING, filled=False, shape="circle", size=RING_PIXELS, strokeWidth=2.5, aria=False)
    found: alt.Chart = ring.encode(x=x, y=y)
    return found


def _replays(shown: TradeOff, x: alt.X, y: alt.Y) -> Iterator[alt.Chart]:
    """A thin line for each mode and rule that the chart has, along the settings that were replayed."""
    replayed, points, looks = shown.replayed, shown.points, shown.looks
    if replayed is None or not shown.is_disagreement_by_layers:
        return
    drawn = replayed[replayed["mode"].isin(looks.modes) & replayed["rule"].isin(points["rule"])]
    if drawn.empty:
        return
    curves = f"indexof({json.dumps(sorted(drawn['curve'].unique()))}, datum.curve) >= 0"
    base = alt.Chart(ROWS).transform_filter(f"datum.replayed && {curves}")
    base = base.encode(x=x, y=y, color=looks.colour(points))
    yield base.mark_line(aria=False, strokeWidth=1).encode(
        order=alt.Order("parameter:Q"), detail=alt.Detail("curve:N"), strokeDash=looks.dash(points)
    )


def _tooltip(shown: TradeOff) -> Iterator[alt.Tooltip]:
    up, across = shown.measure.column, shown.cost.column
    yield alt.Tooltip("shown_as:N", title="Configuration")
    yield alt.Tooltip(f"{up}:Q", title=shown.measure.label, format=shown.form)
    yield from where_known(shown.column(f"{up}_low"), alt.Tooltip("interval:N", title=INTERVAL))
    yield alt.Tooltip(f"{across}:Q", title=shown.cost.title, format=".1%")
    for column, title, form in (
        (f"{up}_control", "Its control", shown.form),
        (f"{across}_control", "Its control's saving", ".1%"),
        ("loop_share", "In one loop", ".1%"),
    ):
        yield from where_known(shown.column(column), alt.Tooltip(f"{column}:Q", title=title, format=form))
    yield from where_known(shown.column("chosen"), alt.Tooltip("chosen:N", title="Chosen for"))
    yield alt.Tooltip(f"{up}_n:Q", title="n prompts")


def _labels(base: alt.Chart, shown: TradeOff) -> Iterator[alt.Chart]:
    """The parameters as labels beside the points of `base`, where they cover nothing. Of more than `MOST_LABELS` points
    of one mode and rule, only the outer ones and the representative one are labelled.
    """
    axes = (
        Axis(PLOT_WIDTH_PIXELS, ROOM_PIXELS, zero=True),
        Axis(HEIGHT_PIXELS, LABEL_ROOM_PIXELS, zero=shown.measure.is_share, logarithmic=shown.is_logarithmic),
    )
    series: Any = shown.rows[shown.rows["parameter"].notna()].groupby(["mode", "rule"], sort=False)
    named = [key for (_, rule), rows in series for key in _labelled(rule, rows)]
    positions = label_positions(shown.rows, shown.cost.column, shown.measure.column, named, axes)
    yield from (label.encode(opacity=OPACITY) for label in labels_at(positions, base, "configuration"))


def labels_at(positions: Mapping[LabelPosition, list[str]], base: alt.Chart, key: str) -> Iterator[alt.Chart]:
    """The labels of rows at these positions beside their points; column `key` tells rows apart."""
    for at, keys in positions.items():
        these = base.transform_filter(f"indexof({json.dumps(keys)}, datum.{key}) >= 0")
        marks = these.mark_text(aria=False, dx=at.dx, dy=at.dy, align=at.align, fontSize=11)
        yield marks.encode(text=alt.Text("label:N"))


def _labelled(rule: str, rows: pd.DataFrame) -> list[str]:
    rows = rows.sort_values("parameter")
    if len(rows) > MOST_LABELS:
        standing = rows["parameter"] == representative(rule, rows["parameter"].tolist())
        rows = pd.concat([rows.head(1), rows[standing], rows.tail(1)])
    return rows["configuration"].tolist()


def is_logarithmic(values: pd.Series) -> bool:
    """Whether the values are positive and span more than a factor of ten."""
    return bool(values.min() > 0 and values.max() > 10 * values.min())
