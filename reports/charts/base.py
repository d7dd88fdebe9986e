"""Data frame → Altair chart. Every chart reads the named data `rows`; the page supplies the rows and the theme.

The colours and shapes of configurations are defined in `styles`, and the colours of exit layers in `palette`. Every
chart has a parameter `picked`, the key of the highlighted configuration, which the page sets in all charts at once.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import altair as alt
import pandas as pd

from eexit.quality.estimates import MIN_SAMPLES
from eexit.quality.intervals import LEVEL
from reports.charts.palette import exit_colours
from reports.charts.styles import Looks
from reports.read.parameters import exact_labels, is_doubling, parameter_title

ROWS = alt.NamedData("rows")
LIGHT: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "range": {
        "category": [
            *("#6b7280", "#0072b2", "#c2500a", "#00795a", "#a8457f", "#7a6a00"),
            *("#5b4bc4", "#8a4b2f", "#007c8a", "#4d7c0f", "#c026d3"),
            *("#be123c", "#1f2937", "#a16207", "#3730a3"),
        ],
        # In the section on learned exits, first what they are compared with.
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
        *("#fb7185", "#e5e7eb", "#eab308", "#818cf8"),
    ],
    "ordinal": ["#9ca3af", "#a99cf5", "#f28e4b", "#3fbf97", "#df8abf", "#c9b94a"],
}
# Of charts that are drawn without the page, which have room for few legend entries side by side.
NARROW = LIGHT | {"legend": LIGHT["legend"] | {"columns": 4, "layout": {"direction": "vertical"}}}
HEIGHT_PIXELS, WIDTH_PIXELS = 300, 520
ROOM_PIXELS = 16  # between the outermost marks and the axes
PERCENT = alt.Axis(format=".0%", tickMinStep=0.01)
INTERVAL = f"{LEVEL:.0%} interval"
_Part = TypeVar("_Part")
# Channels are given as objects of their classes: to find the class of a text or a dict, Altair looks at all it has.
OPACITY = alt.OpacityValue(0.2, condition=[{"test": "picked == '' || picked == datum.configuration", "value": 1}])
# For numbers. They differ from the exit colours, since a number must not be taken for a layer.
RAMP = ["#eef4ea", "#cfe3cb", "#a5cea6", "#74b180", "#459662", "#1f7546", "#0a452b"]


def specification(chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
    """The Vega-Lite specification without `$schema` and `config`, since the page applies its own theme."""
    # Validation would take as long as building the rest of the page; the tests notice a chart that draws nothing.
    whole = chart.to_dict(validate=False)
    spec = {name: part for name, part in whole.items() if name not in ("$schema", "config")}
    return spec | {"params": [{"name": "picked", "value": ""}]}


def exit_mix_chart(labels: list[str], x_title: str, description: str) -> alt.Chart:
    """The exit mix as one stacked bar per configuration, with early layers at the left. `labels` are in rank order."""
    tooltip = [
        alt.Tooltip("name:N", title="Configuration"),
        alt.Tooltip("layer:N", title="Exit layer"),
        alt.Tooltip("share:Q", title="Share", format=".1%"),
        alt.Tooltip("n:Q", title="n"),
    ]
    chart: alt.Chart = (
        alt.Chart(ROWS)
        .mark_bar(cursor="pointer")
        .encode(
            x=alt.X("share:Q", title=x_title, axis=alt.Axis(format=".0%")).scale(domain=[0, 1]),
            y=rows_of("name"),
            color=_layer_colour(labels),
            order=alt.Order("rank:Q"),
            opacity=OPACITY,
            tooltip=tooltip,
        )
    )
    return chart.properties(width=WIDTH_PIXELS, height=alt.Step(22), description=description)


def strip_chart(labels: list[str], description: str) -> alt.Chart:
    """Exit layers along the text, with one bar per run. A row of data is a stretch of tokens with one exit layer."""
    chart: alt.Chart = (
        alt.Chart(ROWS)
        .mark_rect(cursor="pointer")
        .encode(
            x=alt.X("start:Q", title="Token position").scale(nice=False, zero=True).axis(tickMinStep=1),
            x2=alt.X2("end:Q"),
            y=rows_of("name"),
            color=_layer_colour(labels),
            opacity=OPACITY,
            tooltip=alt.Tooltip("words:N"),  # a single field keeps thousands of marks fast
        )
    )
    return chart.properties(width=WIDTH_PIXELS, height=alt.Step(20), description=description)


def heat_chart(description: str) -> alt.LayerChart:
    """A heat map of prompts × configurations. A row of data has `value`, its text `words`, `failed`, and the prompt's
    place in the order, `order`.
    """
    x = alt.X("shown_as:N", title=None, sort=None).axis(orient="top", labelAngle=-40, labelLimit=200)
    y = alt.Y("name:N", title=None, sort=alt.SortField("order")).axis(labelLimit=260)
    base = alt.Chart(ROWS).encode(x=x, y=y)
    tooltip = [
        alt.Tooltip("name:N", title="Prompt"),
        alt.Tooltip("shown_as:N", title="Configuration"),
        alt.Tooltip("words:N", title="Value"),
    ]
    colour = alt.Color("value:Q", title=None).scale(range=RAMP, clamp=True).legend(gradientLength=240)
    # The other columns must not fade, since a paler cell means a smaller value here.
    picked = [{"test": "picked != '' && picked == datum.configuration", "value": "#c2500a"}]
    frame = alt.StrokeValue(None, condition=picked)
    shade = base.mark_rect(cursor="pointer", strokeWidth=1).encode(color=colour, stroke=frame, tooltip=tooltip)
    cross = base.transform_filter("datum.failed").mark_text(
        text="✕", color="#d1242f", fontWeight="bold", cursor="pointer"
    )
    return layered(
        shade.transform_filter("isValid(datum.value)"), cross.encode(tooltip=tooltip), description=description
    ).properties(height=alt.Step(20), padding={"left": 5, "top": 5, "bottom": 5, "right": 60})


@dataclass(frozen=True)
class Difference:
    """A column of a paired frame. `none` means no difference: it is 1 for a ratio."""

    column: str
    label: str
    title: str  # of its axis
    form: str = "points"  # of its column in a table
    none: float = 0.0


def paired_chart(frame: pd.DataFrame, difference: Difference, description: str, looks: Looks) -> alt.LayerChart:
    """A difference with its interval, one row per configuration, from top to bottom by the rows' `order`.

    The dashed line is at no difference. The axis of a ratio is logarithmic, so that half and double are equally far
    from it.
    """
    x, x_title, none = difference.column, difference.title, difference.none
    scale = scale_of(logarithmic=bool(none), zero=False, padding=ROOM_PIXELS)
    shape = looks.shape(frame).legend(None)  # the rows have names
    points = "datum.value == 0 ? '0' : format(100 * datum.value, '+~g')"  # a share's hundredths, as the title says
    axis = alt.Axis(labelExpr=points) if difference.form == "points" else alt.Axis(format="~g")
    channel = alt.X(f"{x}:Q", title=x_title, scale=scale, axis=axis)
    y = rows_of("shown_as", alt.SortField("order"))
    base = alt.Chart(ROWS).encode(y=y, color=looks.colour(frame).legend(None), opacity=OPACITY)
    return layered(
        alt.Chart(ROWS).mark_rule(aria=False, strokeDash=[5, 4]).encode(x=alt.XDatum(none)),
        *interval_bars(base.mark_rule(aria=False, strokeWidth=2), frame, x, x_title, along="x"),
        base.transform_calculate(interval=interval_words(x, ".4~g"))
        .mark_point(filled=True, size=80, cursor="pointer")
        .encode(x=channel, shape=shape, tooltip=estimate_tooltip(frame, x, x_title, ".4~g")),
        description=description,
    ).properties(height=alt.Step(22))


def dose_chart(frame: pd.DataFrame, rule: str, y: str, y_title: str, description: str, looks: Looks) -> alt.LayerChart:
    """Column `y` of a dose frame, a fraction, against one rule's parameter. The dashed line is `normal`."""
    frame = frame[(frame["rule"] == rule) | frame["rule"].isna()]
    scale = alt.Scale(zero=True) if y == "exit_rate" else alt.Scale(zero=False, domainMax=1)
    y_channel = alt.Y(f"{y}:Q", title=y_title, axis=PERCENT, scale=scale)
    values = sorted(frame["parameter"].dropna().unique().tolist())
    scale_x = alt.Scale(zero=False, nice=False, padding=ROOM_PIXELS)
    if is_doubling(rule):
        scale_x = alt.Scale(type="log", base=2, nice=False, padding=ROOM_PIXELS)
    axis = alt.Axis(values=values, labelExpr=exact_labels(values))
    x = alt.X("parameter:Q", title=parameter_title(rule), scale=scale_x, axis=axis)
    dosed = alt.Chart(ROWS).transform_filter(f"datum.rule === {json.dumps(rule)}")
    dosed = dosed.encode(x=x, color=looks.colour(frame, one_rule=True))
    reference = alt.Chart(ROWS).transform_filter("!isValid(datum.rule)")
    tooltip = estimate_tooltip(frame, y, y_title, ".1%")
    return layered(
        *where_known(
            frame.loc[frame["rule"].isna(), y],
            reference.mark_rule(aria=False, strokeDash=[5, 4]).encode(
                y=y_channel, color=looks.colour(frame, one_rule=True)
            ),
        ),
        dosed.mark_line(aria=False, opacity=0.7).encode(y=y_channel),
        *interval_bars(dosed.mark_rule(aria=False).encode(opacity=OPACITY), frame, y, y_title),
        dosed.transform_calculate(interval=interval_words(y, ".1%"))
        .mark_point(filled=True, size=80, cursor="pointer")
        .encode(y=y_channel, shape=looks.shape(frame, one_rule=True), opacity=OPACITY, tooltip=tooltip),
        description=description,
    )


def depth_chart(frame: pd.DataFrame, description: str, looks: Looks) -> alt.LayerChart:
    """Mean depth along the text with a band for its interval, one line per mode. The page picks rule and parameter."""
    width = int(frame["width"].iloc[0])
    x = alt.X("position:Q", title="Token position" + (f" (means of {width} tokens)" if width > 1 else ""))
    x = x.scale(zero=False, nice=False, padding=ROOM_PIXELS).axis(tickMinStep=1)
    y_title = "Mean depth (fraction of layers)"
    y = alt.Y("depth:Q", title=y_title, axis=PERCENT, scale=alt.Scale(zero=False, domainMax=1))
    base = alt.Chart(ROWS).encode(x=x, color=looks.colour(frame, one_rule=True))
    tooltip = [
        alt.Tooltip("shown_as:N", title="Configuration"),
        alt.Tooltip("position:Q", title="Position", format=".0f"),
        alt.Tooltip("depth:Q", title="Mean depth", format=".1%"),
        alt.Tooltip("depth_n:Q", title="n prompts"),
    ]
    return layered(
        *interval_bars(base.mark_area(aria=False, opacity=0.2), frame, "depth", y_title),
        base.mark_line(aria=False).encode(y=y),
        base.mark_point(filled=True, size=25, cursor="pointer").encode(
            y=y, shape=looks.shape(frame, one_rule=True), opacity=OPACITY, tooltip=tooltip
        ),
        description=description,
    )


def where_known(values: pd.Series, *parts: _Part) -> list[_Part]:
    """`parts`, which are layers or tooltips, if any of `values` is known; otherwise none."""
    return list(parts) if values.notna().any() else []


def interval_bars(
    marks: alt.Chart, frame: pd.DataFrame, column: str, title: str, along: Literal["x", "y"] = "y"
) -> list[alt.Chart]:
    """`marks` from the low to the high end of a column's intervals, if any is known."""
    low, high = (alt.X, alt.X2) if along == "x" else (alt.Y, alt.Y2)
    bars = marks.encode(low(f"{column}_low:Q", title=title), high(f"{column}_high:Q"))
    return where_known(frame[f"{column}_low"], bars)


def estimate_tooltip(frame: pd.DataFrame, column: str, title: str, written: str) -> list[alt.Tooltip]:
    """The configuration, its estimate with the interval (`interval_words`), and n."""
    return [
        alt.Tooltip("shown_as:N", title="Configuration"),
        alt.Tooltip(f"{column}:Q", title=title, format=written),
        *where_known(frame[f"{column}_low"], alt.Tooltip("interval:N", title=INTERVAL)),
        alt.Tooltip(f"{column}_n:Q", title="n prompts"),
    ]


def interval_words(name: str, written: str) -> str:
    """The Vega expression that writes a row's interval as text."""
    low, high = (f"format(datum['{name}_{end}'], '{written}')" for end in ("low", "high"))
    return f"isValid(datum['{name}_low']) ? {low} + ' to ' + {high} : 'none below {MIN_SAMPLES} prompts'"


def layered(*layers: alt.Chart, description: str) -> alt.LayerChart:
    return alt.LayerChart(
        layer=list(layers), data=ROWS, width=WIDTH_PIXELS, height=HEIGHT_PIXELS, description=description
    )


def scale_of(logarithmic: bool, zero: bool, padding: float) -> alt.Scale:
    """Between the outermost marks, with room beside them; a logarithmic scale has no zero."""
    if logarithmic:
        return alt.Scale(type="log", nice=False, padding=padding)
    return alt.Scale(type="linear", zero=zero, nice=False, padding=padding)


def rows_of(name: str, sort: alt.SortField | None = None) -> alt.Y:
    """Configurations or runs from top to bottom, as in the data unless `sort` says otherwise."""
    y = alt.Y(f"{name}:N", title=None, sort=sort)
    return y.axis(labelLimit=260, grid=False).scale(type="band", paddingInner=0.12)


def _layer_colour(labels: list[str]) -> alt.Color:
    return alt.Color("layer:N", title="Exit layer", sort=labels).scale(domain=labels, range=exit_colours(len(labels)))
