"""The trade-off chart: layers skipped against a cost, one point per configuration, with intervals and controls."""

import json
from collections.abc import Iterator
from typing import Any, Final

import altair as alt
import pandas as pd

from reports.charts.base import (
    HEIGHT_PIXELS,
    INTERVAL,
    OPACITY,
    ROOM_PIXELS,
    ROWS,
    interval_words,
    layered,
    where_known,
)
from reports.charts.labels import PLOT_WIDTH_PIXELS, Axis, label_positions
from reports.charts.styles import Looks, hollow
from reports.frames.runs import LAYERS_SKIPPED
from reports.read.parameters import representative

LABEL_ROOM_PIXELS: Final = 24  # between the outermost marks and the axes, with space for labels above and below points
MOST_LABELS: Final = 4  # up to this many points of one mode and rule, each is labelled


def trade_off_chart(
    frame: pd.DataFrame, y: str, y_title: str, description: str, looks: Looks, share: bool = False
) -> alt.LayerChart:
    """A chart of column `y` of a trade-off frame against layers skipped.

    A line joins the points of one mode and rule. A control is a tick at its value of `y`, joined to the point of its
    configuration by a dotted line. If `y` is a `share`, it is shown in per cent and its axis starts at 0.
    """
    x_title, written = LAYERS_SKIPPED, ".1%" if share else ".4~g"
    x_axis = alt.Axis(format=".0%", labelExpr="datum.value < 0 ? '' : datum.label")
    x = alt.X(
        "layers_skipped:Q", title=x_title, axis=x_axis, scale=alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS)
    )
    y_scale = alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS) if share else _scale(frame[y])
    y_channel = alt.Y(f"{y}:Q", title=y_title, scale=y_scale, axis=x_axis if share else alt.Axis())
    points = frame[frame["beneath"].isna()]
    base = alt.Chart(ROWS).transform_filter("!isValid(datum.beneath)")
    base = base.encode(x=x, y=y_channel, color=looks.colour(points))
    controls = frame.get(f"{y}_control", pd.Series(dtype=float))
    tooltip = [
        alt.Tooltip("shown_as:N", title="Configuration"),
        alt.Tooltip("layers_skipped:Q", title=x_title, format=".1%"),
        alt.Tooltip(f"{y}:Q", title=y_title, format=written),
        *where_known(frame[f"{y}_low"], alt.Tooltip("interval:N", title=INTERVAL)),
        *where_known(controls, alt.Tooltip(f"{y}_control:Q", title="Its control", format=written)),
        *where_known(frame["loop_share"], alt.Tooltip("loop_share:Q", title="In one loop", format=".1%")),
        alt.Tooltip(f"{y}_n:Q", title="n prompts"),
    ]
    return layered(
        base.mark_line(aria=False, opacity=0.7).encode(
            order=alt.Order("parameter:Q"), detail=alt.Detail("series:N"), strokeDash=looks.dash(points)
        ),
        *where_known(controls, *_controls(base, y, y_title, tooltip)),
        *where_known(
            frame[f"{y}_low"],
            base.mark_rule(aria=False).encode(
                y=alt.Y(f"{y}_low:Q", title=y_title), y2=alt.Y2(f"{y}_high:Q"), opacity=OPACITY
            ),
        ),
        *where_known(
            frame["layers_skipped_low"],
            base.mark_rule(aria=False).encode(
                x=alt.X("layers_skipped_low:Q", title=x_title, axis=x_axis),
                x2=alt.X2("layers_skipped_high:Q"),
                opacity=OPACITY,
            ),
        ),
        base.transform_calculate(interval=interval_words(y, written))
        .mark_point(filled=True, size=80, cursor="pointer")
        .encode(shape=looks.shape(points), opacity=OPACITY, tooltip=tooltip, **hollow(points, looks.outline())),
        *parameter_labels(base, frame, "layers_skipped", y, _axes(frame[y], share)),
        description=description,
    )


def _controls(base: alt.Chart, y: str, y_title: str, tooltip: list[alt.Tooltip]) -> Iterator[alt.Chart]:
    """For each configuration that has a control: a tick at the control's value, and a dotted line to it."""
    controlled = base.transform_filter(f"isValid(datum['{y}_control'])")
    yield controlled.mark_rule(aria=False, strokeDash=[2, 3]).encode(y2=alt.Y2(f"{y}_control:Q"), opacity=OPACITY)
    ticks = controlled.mark_tick(orient="horizontal", thickness=2.5, size=14, cursor="pointer")
    yield ticks.encode(y=alt.Y(f"{y}_control:Q", title=y_title), opacity=OPACITY, tooltip=tooltip)


def parameter_labels(
    base: alt.Chart, frame: pd.DataFrame, x: str, y: str, axes: tuple[Axis, Axis]
) -> Iterator[alt.Chart]:
    """The parameters as labels beside the points of `base`, where they cover nothing. Of more than `MOST_LABELS` points
    of one mode and rule, only the outer ones and the representative one are labelled.
    """
    shown = [key for (_, rule), rows in _parametric(frame) for key in _labelled(rule, rows)]
    for at, configurations in label_positions(frame, x, y, shown, axes).items():
        these = base.transform_filter(f"indexof({json.dumps(configurations)}, datum.configuration) >= 0")
        marks = these.mark_text(aria=False, dx=at.dx, dy=at.dy, align=at.align, fontSize=11)
        yield marks.encode(text=alt.Text("label:N"), opacity=OPACITY)


def _axes(values: pd.Series, share: bool) -> tuple[Axis, Axis]:
    """The axes of the chart, as labels are placed on them."""
    up = Axis(HEIGHT_PIXELS, LABEL_ROOM_PIXELS, zero=False, logarithmic=is_logarithmic(values))
    up = Axis(HEIGHT_PIXELS, ROOM_PIXELS, zero=True) if share else up
    return Axis(PLOT_WIDTH_PIXELS, ROOM_PIXELS, zero=True), up


def _parametric(frame: pd.DataFrame) -> Any:
    """The rows that have a parameter, grouped by mode and rule."""
    return frame[frame["parameter"].notna()].groupby(["mode", "rule"], sort=False)


def _labelled(rule: str, rows: pd.DataFrame) -> list[str]:
    rows = rows.sort_values("parameter")
    if len(rows) > MOST_LABELS:
        standing = rows["parameter"] == representative(rule, rows["parameter"].tolist())
        rows = pd.concat([rows.head(1), rows[standing], rows.tail(1)])
    return rows["configuration"].tolist()


def _scale(values: pd.Series) -> alt.Scale:
    """A logarithmic scale if `is_logarithmic`, otherwise a linear one."""
    return alt.Scale(
        type="log" if is_logarithmic(values) else "linear", zero=False, nice=False, padding=LABEL_ROOM_PIXELS
    )


def is_logarithmic(values: pd.Series) -> bool:
    """Whether the values are positive and span more than a factor of ten."""
    return bool(values.min() > 0 and values.max() > 10 * values.min())
