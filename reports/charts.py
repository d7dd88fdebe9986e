"""Data frame → Altair chart. Every chart reads the named data `rows`; the page brings the rows and the theme.

Colours and shapes of modes come from the theme's category and symbol ranges, those of exit layers from the palette. The
parameter `picked` holds the key of a configuration: the page sets it in all charts at once.
"""

import json
from collections.abc import Iterator
from typing import Any, TypeVar

import altair as alt
import pandas as pd

from reports.bootstrap import LEVEL, MIN_PROMPTS
from reports.labels import PLOT_WIDTH, Axis, label_places
from reports.palette import exit_colours
from reports.sweep import NORMAL

ROWS = alt.NamedData("rows")
LIGHT = {
    "background": None,
    "font": "system-ui, sans-serif",
    "range": {
        "category": ["#6b7280", "#0072b2", "#c2500a", "#00795a", "#a8457f", "#7a6a00"],
        "symbol": ["square", "circle", "triangle-up", "diamond", "cross", "triangle-down"],
    },
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "gridOpacity": 0.5, "labelFlush": False, "labelSeparation": 6},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "orient": "top", "symbolOpacity": 1},
    "view": {"stroke": None},
}
HEIGHT, WIDTH = 300, 520
ROOM, LABEL_ROOM = 16, 24  # pixels between the outermost marks and the axes; where there are labels above and below
LAYERS_SKIPPED = "Layers skipped (theoretical)"  # 1 − mean depth, called so wherever it is shown
_PERCENT = alt.Axis(format=".0%", tickMinStep=0.01)
INTERVAL = f"{LEVEL:.0%} interval"
_Part = TypeVar("_Part")
OPACITY = alt.when("picked == '' || picked == datum.configuration").then(alt.value(1)).otherwise(alt.value(0.2))
# Not the exit colours: a number is no layer.
RAMP = ["#eef4ea", "#cfe3cb", "#a5cea6", "#74b180", "#459662", "#1f7546", "#0a452b"]


def specification(chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
    """Without Altair's address of the schema and its configuration, for which the page has its theme."""
    # Unchecked: a check takes as long as all the rest of the page, and a wrong one draws nothing in the tests.
    whole = chart.to_dict(validate=False)
    spec = {name: part for name, part in whole.items() if name not in ("$schema", "config")}
    return spec | {"params": [{"name": "picked", "value": ""}]}


def trade_off_chart(frame: pd.DataFrame, y: str, y_title: str, description: str, share: bool = False) -> alt.LayerChart:
    """A trade-off frame as layers skipped (theoretical) against column `y`; lines join the KL factors of a mode.

    A `share` is written in per cent, on an axis that starts at none.
    """
    x_title, written = LAYERS_SKIPPED, ".1%" if share else ".4~g"
    x_axis = alt.Axis(format=".0%", labelExpr="datum.value < 0 ? '' : datum.label")
    x = alt.X("layers_skipped:Q", title=x_title, axis=x_axis, scale=alt.Scale(zero=True, nice=False, padding=ROOM))
    y_scale = alt.Scale(zero=True, nice=False, padding=ROOM) if share else _scale(frame[y])
    y_channel = alt.Y(f"{y}:Q", title=y_title, scale=y_scale, axis=x_axis if share else alt.Axis())
    base = alt.Chart(ROWS).encode(x=x, y=y_channel, color=_mode_colour(frame))
    tooltip = [
        alt.Tooltip("configuration:N", title="Configuration"),
        alt.Tooltip("layers_skipped:Q", title=x_title, format=".1%"),
        alt.Tooltip(f"{y}:Q", title=y_title, format=written),
        *_where_known(frame[f"{y}_low"], alt.Tooltip("interval:N", title=INTERVAL)),
        alt.Tooltip(f"{y}_n:Q", title="n prompts"),
    ]
    return _finish(
        base.mark_line(aria=False, opacity=0.7).encode(order="kl_factor:Q"),
        *_where_known(
            frame[f"{y}_low"],
            base.mark_rule(aria=False).encode(y=alt.Y(f"{y}_low:Q", title=y_title), y2=f"{y}_high:Q", opacity=OPACITY),
        ),
        *_where_known(
            frame["layers_skipped_low"],
            base.mark_rule(aria=False).encode(
                x=alt.X("layers_skipped_low:Q", title=x_title, axis=x_axis),
                x2="layers_skipped_high:Q",
                opacity=OPACITY,
            ),
        ),
        base.transform_calculate(interval=_interval(y, written))
        .mark_point(filled=True, size=80, cursor="pointer")
        .encode(shape=_mode_shape(frame), opacity=OPACITY, tooltip=tooltip),
        *_labels(base, frame, y, share),
        description=description,
    )


def _labels(base: alt.Chart, frame: pd.DataFrame, y: str, share: bool) -> Iterator[alt.Chart]:
    """KL factors beside the points, of many only the outer ones and that nearest to 1, where they cover nothing."""
    factors = sorted(frame["kl_factor"].dropna().unique().tolist())
    if len(factors) > 4:
        factors = [factors[0], min(factors, key=lambda k: abs(k - 1)), factors[-1]]
    across, up = (
        Axis(PLOT_WIDTH, ROOM, zero=True),
        Axis(HEIGHT, LABEL_ROOM, zero=False, logarithmic=is_logarithmic(frame[y])),
    )
    axes = (across, Axis(HEIGHT, ROOM, zero=True) if share else up)
    for at, configurations in label_places(frame, y, factors, _modes(frame)[:2], axes).items():
        these = base.transform_filter(f"indexof({json.dumps(configurations)}, datum.configuration) >= 0")
        marks = these.mark_text(aria=False, dx=at.dx, dy=at.dy, align=at.align, fontSize=11)
        yield marks.encode(text="label:N", opacity=OPACITY)


def exit_mix_chart(labels: list[str], x_title: str, description: str) -> alt.Chart:
    """Rows of an exit mix as one stacked bar per configuration, early layers at the left; `labels` in rank order."""
    tooltip = [
        alt.Tooltip("name:N", title="Configuration"),
        alt.Tooltip("layer:N", title="Exit layer"),
        alt.Tooltip("share:Q", title="Share", format=".1%"),
        alt.Tooltip("n:Q", title="n"),
    ]
    chart = (
        alt.Chart(ROWS)
        .mark_bar(cursor="pointer")
        .encode(
            x=alt.X("share:Q", title=x_title, axis=alt.Axis(format=".0%")).scale(domain=[0, 1]),
            y=_rows_of("name"),
            color=_layer_colour(labels),
            order=alt.Order("rank:Q"),
            opacity=OPACITY,
            tooltip=tooltip,
        )
    )
    return chart.properties(width=WIDTH, height=alt.Step(22), description=description)


def strip_chart(labels: list[str], description: str) -> alt.Chart:
    """Exit layers along the text, one row per run; a row of data is a stretch of tokens read at the same layer."""
    chart = (
        alt.Chart(ROWS)
        .mark_rect(cursor="pointer")
        .encode(
            x=alt.X("start:Q", title="Token position").scale(nice=False, zero=True).axis(tickMinStep=1),
            x2="end:Q",
            y=_rows_of("name"),
            color=_layer_colour(labels),
            opacity=OPACITY,
            tooltip="words:N",  # one field: thousands of marks
        )
    )
    return chart.properties(width=WIDTH, height=alt.Step(20), description=description)


def heat_chart(description: str) -> alt.LayerChart:
    """Prompt × configuration: rows with `value` and its words, `failed` and the prompt's place in `order`."""
    x = alt.X("configuration:N", title=None, sort=None).axis(orient="top", labelAngle=-40, labelLimit=160)
    y = alt.Y("name:N", title=None, sort=alt.SortField("order")).axis(labelLimit=260)
    base = alt.Chart(ROWS).encode(x=x, y=y)
    tooltip = [
        alt.Tooltip("name:N", title="Prompt"),
        alt.Tooltip("configuration:N", title="Configuration"),
        alt.Tooltip("words:N", title="Value"),
    ]
    colour = alt.Color("value:Q", title=None).scale(range=RAMP, clamp=True).legend(gradientLength=240)
    # A frame, not a fading of the other columns: paler is less here.
    frame = (
        alt.when("picked != '' && picked == datum.configuration").then(alt.value("#c2500a")).otherwise(alt.value(None))
    )
    shade = base.mark_rect(cursor="pointer", strokeWidth=1).encode(color=colour, stroke=frame, tooltip=tooltip)
    cross = base.transform_filter("datum.failed").mark_text(
        text="✕", color="#d1242f", fontWeight="bold", cursor="pointer"
    )
    return _finish(
        shade.transform_filter("isValid(datum.value)"), cross.encode(tooltip=tooltip), description=description
    ).properties(height=alt.Step(20), padding={"left": 5, "top": 5, "bottom": 5, "right": 60})


def paired_chart(
    frame: pd.DataFrame, x: str, x_title: str, none: float, description: str, order: list[str]
) -> alt.LayerChart:
    """A paired frame's column `x` with its interval, one row per configuration, those in `order` from the top; the line
    is at no difference.

    Where that is 1 it is a ratio, on a logarithmic axis: half and double are equally far.
    """
    scale = alt.Scale(type="log" if none else "linear", zero=False, nice=False, padding=ROOM)
    channel = alt.X(f"{x}:Q", title=x_title, scale=scale, axis=alt.Axis(format="~g"))
    base = alt.Chart(ROWS).encode(y=_rows_of("configuration", order), color=_mode_colour(frame), opacity=OPACITY)
    tooltip = [
        alt.Tooltip("configuration:N", title="Configuration"),
        alt.Tooltip(f"{x}:Q", title=x_title, format=".4~g"),
        *_where_known(frame[f"{x}_low"], alt.Tooltip("interval:N", title=INTERVAL)),
        alt.Tooltip(f"{x}_n:Q", title="n prompts"),
    ]
    return _finish(
        alt.Chart(ROWS).mark_rule(aria=False, strokeDash=[5, 4]).encode(x=alt.datum(none)),
        *_where_known(
            frame[f"{x}_low"],
            base.mark_rule(aria=False, strokeWidth=2).encode(x=alt.X(f"{x}_low:Q", title=x_title), x2=f"{x}_high:Q"),
        ),
        base.transform_calculate(interval=_interval(x, ".4~g"))
        .mark_point(filled=True, size=80, cursor="pointer")
        .encode(x=channel, shape=_mode_shape(frame), tooltip=tooltip),
        description=description,
    ).properties(height=alt.Step(22))


def dose_chart(frame: pd.DataFrame, y: str, y_title: str, description: str) -> alt.LayerChart:
    """A dose frame's column `y`, a fraction, against the KL factor on a log2 scale; `normal` is the dashed line."""
    scale = alt.Scale(zero=True) if y == "exit_rate" else alt.Scale(zero=False, domainMax=1)
    y_channel = alt.Y(f"{y}:Q", title=y_title, axis=_PERCENT, scale=scale)
    factors = sorted(frame["kl_factor"].dropna().unique().tolist())
    x = alt.X("kl_factor:Q", title="KL factor (log2; higher: more conservative)")
    x = x.scale(type="log", base=2, nice=False, padding=ROOM).axis(values=factors, format="~g")
    dosed = alt.Chart(ROWS).transform_filter("isValid(datum.kl_factor)").encode(x=x, color=_mode_colour(frame))
    reference = alt.Chart(ROWS).transform_filter("!isValid(datum.kl_factor)")
    tooltip = [
        alt.Tooltip("configuration:N", title="Configuration"),
        alt.Tooltip(f"{y}:Q", title=y_title, format=".1%"),
        *_where_known(frame[f"{y}_low"], alt.Tooltip("interval:N", title=INTERVAL)),
        alt.Tooltip(f"{y}_n:Q", title="n prompts"),
    ]
    return _finish(
        *_where_known(
            frame.loc[frame["kl_factor"].isna(), y],
            reference.mark_rule(aria=False, strokeDash=[5, 4]).encode(y=y_channel, color=_mode_colour(frame)),
        ),
        dosed.mark_line(aria=False, opacity=0.7).encode(y=y_channel),
        *_where_known(
            frame[f"{y}_low"],
            dosed.mark_rule(aria=False).encode(y=alt.Y(f"{y}_low:Q", title=y_title), y2=f"{y}_high:Q", opacity=OPACITY),
        ),
        dosed.transform_calculate(interval=_interval(y, ".1%"))
        .mark_point(filled=True, size=80, cursor="pointer")
        .encode(y=y_channel, shape=_mode_shape(frame), opacity=OPACITY, tooltip=tooltip),
        description=description,
    )


def depth_chart(frame: pd.DataFrame, description: str) -> alt.LayerChart:
    """Mean depth along the text with its band, one line per mode; the page shows one KL factor at a time."""
    width = int(frame["width"].iloc[0])
    x = alt.X("position:Q", title="Token position" + (f" (means of {width} tokens)" if width > 1 else ""))
    x = x.scale(zero=False, nice=False, padding=ROOM).axis(tickMinStep=1)
    y_title = "Mean depth (fraction of layers)"
    y = alt.Y("depth:Q", title=y_title, axis=_PERCENT, scale=alt.Scale(zero=False, domainMax=1))
    base = alt.Chart(ROWS).encode(x=x, color=_mode_colour(frame))
    tooltip = [
        alt.Tooltip("configuration:N", title="Configuration"),
        alt.Tooltip("position:Q", title="Position", format=".0f"),
        alt.Tooltip("depth:Q", title="Mean depth", format=".1%"),
        alt.Tooltip("depth_n:Q", title="n prompts"),
    ]
    return _finish(
        *_where_known(
            frame["depth_low"],
            base.mark_area(aria=False, opacity=0.2).encode(y=alt.Y("depth_low:Q", title=y_title), y2="depth_high:Q"),
        ),
        base.mark_line(aria=False).encode(y=y),
        base.mark_point(filled=True, size=25, cursor="pointer").encode(
            y=y, shape=_mode_shape(frame), opacity=OPACITY, tooltip=tooltip
        ),
        description=description,
    )


def _where_known(values: pd.Series, part: _Part) -> list[_Part]:
    """The layer or tooltip, or none where it would have nothing to show and no extent for its axis."""
    return [part] if values.notna().any() else []


def _interval(name: str, written: str) -> str:
    """The expression for a row's interval in words."""
    low, high = (f"format(datum['{name}_{end}'], '{written}')" for end in ("low", "high"))
    return f"isValid(datum['{name}_low']) ? {low} + ' to ' + {high} : 'none below {MIN_PROMPTS} prompts'"


def _finish(*layers: alt.Chart, description: str) -> alt.LayerChart:
    return alt.LayerChart(layer=list(layers), data=ROWS, width=WIDTH, height=HEIGHT, description=description)


def _rows_of(name: str, order: list[str] | None = None) -> alt.Y:
    """Configurations or runs from top to bottom: in order, or as they come."""
    return alt.Y(f"{name}:N", title=None, sort=order).axis(labelLimit=200).scale(paddingInner=0.12)


def _layer_colour(labels: list[str]) -> alt.Color:
    return alt.Color("layer:N", title="Exit layer", sort=labels).scale(domain=labels, range=exit_colours(len(labels)))


def _modes(frame: pd.DataFrame) -> list[str]:
    return sorted(dict.fromkeys(frame["mode"]), key=lambda mode: mode != NORMAL)


def _mode_colour(frame: pd.DataFrame) -> alt.Color:
    return alt.Color("mode:N", title=None).scale(domain=_domain(frame)).legend(values=_modes(frame))


def _mode_shape(frame: pd.DataFrame) -> alt.Shape:
    return alt.Shape("mode:N", title=None).scale(domain=_domain(frame)).legend(values=_modes(frame))


def _domain(frame: pd.DataFrame) -> list[str]:
    """`normal` first whether or not it's there: a mode looks the same in every chart."""
    return list(dict.fromkeys([NORMAL, *_modes(frame)]))


def _scale(values: pd.Series) -> alt.Scale:
    """Logarithmic where positive values spread over more than a factor of ten."""
    return alt.Scale(type="log" if is_logarithmic(values) else "linear", zero=False, nice=False, padding=LABEL_ROOM)


def is_logarithmic(values: pd.Series) -> bool:
    return bool(values.min() > 0 and values.max() > 10 * values.min())
