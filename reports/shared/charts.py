"""Data frame → Altair chart. Every chart reads the named data `rows`; the page supplies the rows and the theme.

The colours and shapes of configurations are defined in `styles`, and the colours of exit layers in `palette`. Every
chart has a parameter `picked`, the key of the highlighted configuration, which the page sets in all charts at once.
"""

from typing import Any, Literal, TypeVar

import altair as alt
import pandas as pd

from eexit.quality.estimates import MIN_SAMPLES
from eexit.quality.intervals import LEVEL
from reports.shared.palette import exit_colours

ROWS = alt.NamedData("rows")
RING, HALO = "ring", "halo"  # styles in the theme: the colour of ink, and that of paper around labels
LIGHT: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "range": {
        "category": [
            *("#6b7280", "#0072b2", "#c2500a", "#00795a", "#a8457f", "#7a6a00"),
            *("#5b4bc4", "#8a4b2f", "#007c8a", "#4d7c0f", "#c026d3"),
            *("#be123c", "#1f2937", "#a16207", "#3730a3", "#65313f"),
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
        *("#fb7185", "#e5e7eb", "#eab308", "#818cf8", "#d6a5b1"),
    ],
    "ordinal": ["#9ca3af", "#a99cf5", "#f28e4b", "#3fbf97", "#df8abf", "#c9b94a"],
}
# Of charts that are drawn without the page, which have room for few legend entries side by side.
NARROW = LIGHT | {
    "style": {RING: {"color": "#16191d", "stroke": "#16191d"}, HALO: {"stroke": "#ffffff", "color": "#ffffff"}},
    "legend": LIGHT["legend"] | {"columns": 4, "layout": {"direction": "vertical"}},
}
HEIGHT_PIXELS, WIDTH_PIXELS = 300, 520
LABELS = alt.NamedData("labels")  # where they stand, which the page's script finds
CONTROL_GREY = "#8a929e"
LABEL_ROOM_PIXELS = 24  # between the outermost marks and the axes, with space for labels above and below points
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


def layer_colour(labels: list[str]) -> alt.Color:
    return alt.Color("layer:N", title="Exit layer", sort=labels).scale(domain=labels, range=exit_colours(len(labels)))


def is_logarithmic(values: pd.Series) -> bool:
    """Whether the values are positive and span more than a factor of ten."""
    return bool(values.min() > 0 and values.max() > 10 * values.min())


def label_layers(x: alt.X, y: alt.Y, colour: alt.Color, at: tuple[str, str]) -> list[alt.Chart]:
    """The named data `labels` beside their points, which are at the columns `at`: `text`, where it stands from there
    in pixels (`dx`, `dy`), its `align`, and whether a line leads to it (`leads`).
    """
    base = alt.Chart(LABELS).encode(x=x, y=y)
    dx, dy, align = ({"expr": f"datum.{name}"} for name in ("dx", "dy", "align"))
    font: dict[str, Any] = {"aria": False, "fontSize": 11.5, "fontWeight": 600, "baseline": "middle"}
    beside: dict[str, Any] = {"dx": dx, "dy": dy, "align": align} | font
    lead: Any = {"x2Offset": dx, "y2Offset": dy, "aria": False}
    across, up = at
    text = base.encode(text=alt.Text("text:N"))
    return [
        base.transform_filter("datum.leads").mark_rule(**lead).encode(x2=alt.X2(across), y2=alt.Y2(up)),
        text.mark_text(style=HALO, strokeWidth=4, **beside),
        text.mark_text(**beside).encode(color=colour),
    ]
