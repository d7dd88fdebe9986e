"""Data frame → Altair chart. Every chart reads the named data `rows`; the page supplies the rows and the theme.

`styles` defines the colours and shapes of configurations, `palette` the colours of exit layers. Every chart has a
parameter `picked`, the key of the highlighted configuration, which the page sets in all charts at once.
"""

from functools import cache
from typing import Any, Literal, TypeVar

import altair as alt
import pandas as pd

ROWS = alt.NamedData("rows")
RING = "ring"  # a style in the theme: the colour of ink
LABELLED = "labelled"  # the layer of points where the page has Vega place one label per `series`
# No rule has red, which marks late exits, nor the colour for wrong answers in the page's styles.
LIGHT: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "range": {
        "category": [
            *("#6b7280", "#0072b2", "#c2500a", "#00795a", "#a8457f", "#7a6a00"),
            *("#5b4bc4", "#8a4b2f", "#007c8a", "#4d7c0f", "#c026d3"),
            *("#155e75", "#1f2937", "#a16207", "#3730a3", "#57534e"),
        ],
        # For artefacts; their baseline has the first colour.
        "ordinal": ["#8a929e", "#5b4bc4", "#c2500a", "#00795a", "#a8457f", "#7a6a00"],
    },
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "gridOpacity": 0.5, "labelFlush": False, "labelSeparation": 6},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "orient": "top", "symbolOpacity": 1},
    "view": {"stroke": None},
}
# The same colours on a dark page.
DARK = {
    "category": [
        *("#9ca3af", "#4ba3e3", "#f28e4b", "#3fbf97", "#df8abf", "#c9b94a"),
        *("#a99cf5", "#d99a7a", "#4cc3d3", "#9bd04a", "#e879f9"),
        *("#5eead4", "#e5e7eb", "#eab308", "#818cf8", "#d6d3d1"),
    ],
    "ordinal": ["#9ca3af", "#a99cf5", "#f28e4b", "#3fbf97", "#df8abf", "#c9b94a"],
}
HEIGHT_PIXELS, WIDTH_PIXELS = 300, 520
CONTROL_GREY = "#8a929e"
LABEL_ROOM_PIXELS = 24  # between the outermost marks and the axes, with space for labels above and below points
ROOM_PIXELS = 16  # between the outermost marks and the axes
WITHIN_SHARES = "datum.value < 0 || datum.value > 1 ? '' : datum.label"  # labels from 0 to 1 only
PERCENT = alt.Axis(format=".0%", tickMinStep=0.01, labelExpr=WITHIN_SHARES)
Columns = tuple[tuple[str, str, str], ...]  # of a table: key, label and form
# Vega's formats for the forms of columns, the same as the page's.
FORMATS = {"count": ",.1~f", "share": ".1%", "real": ".4~g", "times": ".2f", "points": "+.1%", "change": "+.1f"}
_Part = TypeVar("_Part")
# Channels are objects of their classes, since Altair searches all classes for the one of a text or dict. They get all
# their options at once: a method such as `axis` first generates its documentation.
OPACITY = alt.OpacityValue(0.2, condition=[{"test": "picked == '' || picked == datum.configuration", "value": 1}])
# For numbers. They differ from the exit colours, so that no number is mistaken for a layer.
RAMP = ["#eef4ea", "#cfe3cb", "#a5cea6", "#74b180", "#459662", "#1f7546", "#0a452b"]


def specification(chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
    """Return the Vega-Lite specification without `$schema` and `config`, since the page applies its own theme."""
    # Validation would take as long as building the rest of the page; the tests detect a chart that draws nothing. The
    # chart's own method would also copy each layer again, only to add schema and theme.
    spec = alt.SchemaBase.to_dict(chart, validate=False, context={"top_level": False, "data": chart.data})
    return spec | {"params": [{"name": "picked", "value": ""}]}


def rows_where(test: str) -> alt.Chart:
    """Return a chart of the rows for which a Vega expression is true.

    Altair's own method would validate the chart first.
    """
    return alt.Chart(ROWS, transform=[{"filter": test}])


def where_known(values: pd.Series, *parts: _Part) -> list[_Part]:
    """Return `parts` (layers or tooltips of a chart) if any of `values` is known, else an empty list."""
    return list(parts) if values.notna().any() else []


def interval_bars(
    marks: alt.Chart, frame: pd.DataFrame, column: str, title: str, along: Literal["x", "y"] = "y"
) -> list[alt.Chart]:
    """Return `marks` from the low to the high end of a column's intervals, if any is known."""
    low, high = (alt.X, alt.X2) if along == "x" else (alt.Y, alt.Y2)
    bars = marks.encode(low(f"{column}_low:Q", title=title), high(f"{column}_high:Q"))
    return where_known(frame[f"{column}_low"], bars)


def with_tooltips(base: alt.Chart, columns: Columns, frame: pd.DataFrame) -> tuple[alt.Chart, list[alt.Tooltip]]:
    """Return the chart and its tooltips, which show the columns of the table beside it, with intervals."""
    tooltips = []
    for key, label, form in columns:
        if key not in frame or frame[key].isna().all():
            continue
        if form == "text":
            name = "shown_as" if key == "configuration" and "shown_as" in frame else key
            tooltips.append(alt.Tooltip(f"{name}:N", title=label))
            continue
        value, low, high = (f"format(datum['{key}{end}'], '{FORMATS[form]}')" for end in ("", "_low", "_high"))
        has_interval = f"{key}_low" in frame and frame[f"{key}_low"].notna().any()
        without = " (too few prompts for an interval)" if has_interval else ""
        interval = f"isValid(datum['{key}_low']) ? ' [' + {low} + ', ' + {high} + ']' : '{without}'"
        words = f"isValid(datum['{key}']) ? {value} + ({interval}) : null"
        base = base.transform_calculate(**{f"{key}_words": words})
        tooltips.append(alt.Tooltip(f"{key}_words:N", title=label))
    return base, tooltips


def layered(*layers: alt.Chart, description: str, height: int | alt.Step = HEIGHT_PIXELS) -> alt.LayerChart:
    # All options are set at once: setting one later copies each layer several times.
    return alt.LayerChart(layer=list(layers), data=ROWS, width=WIDTH_PIXELS, height=height, description=description)


@cache
def scale_of(logarithmic: bool, zero: bool, padding: float) -> alt.Scale:
    """Return a scale between the outermost marks, with padding in pixels. A logarithmic scale ignores `zero`."""
    if logarithmic:
        return alt.Scale(type="log", nice=False, padding=padding)
    return alt.Scale(type="linear", zero=zero, nice=False, padding=padding)


def rows_of(name: str, sort: alt.SortField | None = None) -> alt.Y:
    """Return a channel with configurations or runs from top to bottom, in the data's order without `sort`."""
    axis, scale = {"labelLimit": 330, "grid": False}, {"type": "band", "paddingInner": 0.12}
    return alt.Y(f"{name}:N", title=None, sort=sort, axis=axis, scale=scale)


def is_logarithmic(values: pd.Series) -> bool:
    """Return True if the values are positive and span more than a factor of ten."""
    return bool(values.min() > 0 and values.max() > 10 * values.min())
