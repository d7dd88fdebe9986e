"""The trade-off chart: what skipping layers costs, a point per configuration, with labels, intervals and controls."""

import json
from collections.abc import Iterator
from typing import Any, Final

import altair as alt
import pandas as pd

from reports.charts import HEIGHT_PIXELS, INTERVAL, OPACITY, ROOM_PIXELS, ROWS, interval_words, layered, where_known
from reports.labels import PLOT_WIDTH_PIXELS, Axis, label_places
from reports.looks import Looks
from reports.parameters import representative

LAYERS_SKIPPED: Final = "Layers skipped (theoretical)"  # 1 − mean depth, called so wherever it is shown
LABEL_ROOM_PIXELS: Final = 24  # pixels between the outermost marks and the axes, where there are labels above and below
MOST_LABELS: Final = 4  # of one mode and rule


def trade_off_chart(
    frame: pd.DataFrame, y: str, y_title: str, description: str, looks: Looks, share: bool = False
) -> alt.LayerChart:
    """A trade-off frame as layers skipped (theoretical) against column `y`.

    Lines join the parameters of a mode and rule. A control is a tick at its own value, joined to the point of its
    configuration. A `share` is written in per cent, on an axis that starts at none.
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
        alt.Tooltip("configuration:N", title="Configuration"),
        alt.Tooltip("layers_skipped:Q", title=x_title, format=".1%"),
        alt.Tooltip(f"{y}:Q", title=y_title, format=written),
        *where_known(frame[f"{y}_low"], alt.Tooltip("interval:N", title=INTERVAL)),
        *where_known(controls, alt.Tooltip(f"{y}_control:Q", title="Its control", format=written)),
        alt.Tooltip(f"{y}_n:Q", title="n prompts"),
    ]
    return layered(
        base.mark_line(aria=False, opacity=0.7).encode(
            order="parameter:Q", detail="series:N", strokeDash=looks.dash(points)
        ),
        *where_known(controls, *_controls(base, y, y_title, tooltip)),
        *where_known(
            frame[f"{y}_low"],
            base.mark_rule(aria=False).encode(y=alt.Y(f"{y}_low:Q", title=y_title), y2=f"{y}_high:Q", opacity=OPACITY),
        ),
        *where_known(
            frame["layers_skipped_low"],
            base.mark_rule(aria=False).encode(
                x=alt.X("layers_skipped_low:Q", title=x_title, axis=x_axis),
                x2="layers_skipped_high:Q",
                opacity=OPACITY,
            ),
        ),
        base.transform_calculate(interval=interval_words(y, written))
        .mark_point(filled=True, size=80, cursor="pointer")
        .encode(shape=looks.shape(points), opacity=OPACITY, tooltip=tooltip),
        *_labels(base, frame, y, share),
        description=description,
    )


def _controls(base: alt.Chart, y: str, y_title: str, tooltip: list[alt.Tooltip]) -> Iterator[alt.Chart]:
    """From each configuration that has a control to a tick at the control's value."""
    controlled = base.transform_filter(f"isValid(datum['{y}_control'])")
    yield controlled.mark_rule(aria=False, strokeDash=[2, 3]).encode(y2=f"{y}_control:Q", opacity=OPACITY)
    ticks = controlled.mark_tick(orient="horizontal", thickness=2.5, size=14, cursor="pointer")
    yield ticks.encode(y=alt.Y(f"{y}_control:Q", title=y_title), opacity=OPACITY, tooltip=tooltip)


def _labels(base: alt.Chart, frame: pd.DataFrame, y: str, share: bool) -> Iterator[alt.Chart]:
    """Parameters beside the points, where they cover nothing; of many, the outer ones and the representative one."""
    shown = [key for (_, rule), rows in _parametric(frame) for key in _labelled(rule, rows)]
    across, up = (
        Axis(PLOT_WIDTH_PIXELS, ROOM_PIXELS, zero=True),
        Axis(HEIGHT_PIXELS, LABEL_ROOM_PIXELS, zero=False, logarithmic=is_logarithmic(frame[y])),
    )
    axes = (across, Axis(HEIGHT_PIXELS, ROOM_PIXELS, zero=True) if share else up)
    for at, configurations in label_places(frame, y, shown, axes).items():
        these = base.transform_filter(f"indexof({json.dumps(configurations)}, datum.configuration) >= 0")
        marks = these.mark_text(aria=False, dx=at.dx, dy=at.dy, align=at.align, fontSize=11)
        yield marks.encode(text="label:N", opacity=OPACITY)


def _parametric(frame: pd.DataFrame) -> Any:
    """The rows of each mode and rule that have parameters."""
    return frame[frame["parameter"].notna()].groupby(["mode", "rule"], sort=False)


def _labelled(rule: str, rows: pd.DataFrame) -> list[str]:
    rows = rows.sort_values("parameter")
    if len(rows) > MOST_LABELS:
        standing = rows["parameter"] == representative(rule, rows["parameter"].tolist())
        rows = pd.concat([rows.head(1), rows[standing], rows.tail(1)])
    return rows["configuration"].tolist()


def _scale(values: pd.Series) -> alt.Scale:
    """Logarithmic where positive values spread over more than a factor of ten."""
    return alt.Scale(
        type="log" if is_logarithmic(values) else "linear", zero=False, nice=False, padding=LABEL_ROOM_PIXELS
    )


def is_logarithmic(values: pd.Series) -> bool:
    return bool(values.min() > 0 and values.max() > 10 * values.min())
