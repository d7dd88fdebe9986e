"""The chart of quality against cost, with controls, `normal`, replayed settings and the chosen one."""

import json
from collections.abc import Iterator
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
    interval_words,
    layered,
    where_known,
)
from reports.charts.labels import PLOT_WIDTH_PIXELS, Axis
from reports.charts.styles import Looks, hollow
from reports.charts.trade_off import LABEL_ROOM_PIXELS, is_logarithmic, parameter_labels
from reports.frames.quality import DISAGREEMENT, SKIPPED, CostAxis, Measure, Quality

CONTROL_GREY: Final = "#8a929e"
RING_PIXELS: Final = 340  # the area of the ring around a chosen setting
MOST_TICKS: Final = 10
RING: Final = "ring"  # the style of it, in the page's theme
_SETTING: Final = "!datum.replayed && isValid(datum.rule) && !isValid(datum.beneath)"


def quality_chart(quality: Quality, measure: Measure, cost: CostAxis, description: str, looks: Looks) -> alt.LayerChart:
    """A line for each mode and rule, with a point and its intervals for each parameter.

    Beneath, in grey: controls, each joined to its configuration by a dotted line, and settings that were only replayed,
    as thin lines. `normal` is a dashed line, and a chosen setting has a ring.
    """
    rows, settings = quality.rows, quality.settings
    x = alt.X(f"{cost.column}:Q", title=cost.title, scale=alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS))
    x = x.axis(format=".0%", tickCount=MOST_TICKS)
    log = not measure.is_share and is_logarithmic(rows[measure.column])
    y = alt.Y(f"{measure.column}:Q", title=measure.title, scale=_scale(measure, log), axis=_axis(measure))
    known = f"isValid(datum['{cost.column}']) && isValid(datum['{measure.column}'])"
    base = alt.Chart(ROWS).transform_filter(f"{_SETTING} && {known}").encode(x=x, y=y, color=looks.colour(settings))
    base = base.transform_calculate(interval=interval_words(measure.column, _written(measure)))
    controls = settings.get(f"{measure.column}_control", pd.Series(dtype=float))
    tooltip = list(_tooltip(quality, measure, cost))
    axes = (
        Axis(PLOT_WIDTH_PIXELS, ROOM_PIXELS, zero=True),
        Axis(HEIGHT_PIXELS, LABEL_ROOM_PIXELS, zero=measure.is_share, logarithmic=log),
    )
    drawn = rows[rows["rule"].notna()]
    return layered(
        *_even(quality, measure, y),
        *(_replays(quality, x, y, looks) if (measure.column, cost.column) == (DISAGREEMENT, SKIPPED) else []),
        base.mark_line(aria=False, opacity=0.7).encode(
            order=alt.Order("parameter:Q"), detail=alt.Detail("series:N"), strokeDash=looks.dash(settings)
        ),
        # After the lines, from which the legend of modes is taken.
        *where_known(controls, *_controls(base, measure, cost, settings, tooltip, looks)),
        *_intervals(base, settings, measure, cost),
        *where_known(settings["chosen"], _ring(x, y, known)),
        base.mark_point(filled=True, size=80, cursor="pointer").encode(
            shape=looks.shape(settings), opacity=OPACITY, tooltip=tooltip, **hollow(settings, looks.outline())
        ),
        *parameter_labels(base, drawn, cost.column, measure.column, axes),
        description=description,
    )


def _written(measure: Measure) -> str:
    return ".1%" if measure.is_share else ".4~g"


def _axis(measure: Measure) -> alt.Axis:
    shown = "datum.value < 0 || datum.value > 1 ? '' : datum.label"  # room beside shares of 0 and 1 is no value
    return alt.Axis(format=".0%", labelExpr=shown) if measure.is_share else alt.Axis()


def _scale(measure: Measure, log: bool) -> alt.Scale:
    return alt.Scale(type="log" if log else "linear", zero=measure.is_share, nice=False, padding=LABEL_ROOM_PIXELS)


def _even(quality: Quality, measure: Measure, y: alt.Y) -> Iterator[alt.Chart]:
    """A dashed line at what `normal` has or, for a win rate, at as many wins as losses."""
    is_normal = f"datum.configuration === '{NORMAL}' && !datum.replayed"
    line = alt.Chart(ROWS).transform_filter(f"{is_normal} && isValid(datum['{measure.column}'])").encode(y=y)
    words, known = NORMAL, quality.rows.loc[quality.rows["configuration"] == NORMAL, measure.column]
    if measure.even is not None:
        line = alt.Chart(ROWS).transform_aggregate(n="count()").encode(y=alt.YDatum(measure.even, title=measure.title))
        words, known = "as good as normal", pd.Series([measure.even])
    yield from where_known(
        known,
        line.mark_rule(aria=False, strokeDash=[5, 4]),
        line.mark_text(aria=False, text=words, fontSize=11, align="right", baseline="bottom", dy=-2).encode(
            x=alt.value("width")
        ),
    )


def _controls(
    base: alt.Chart, measure: Measure, cost: CostAxis, settings: pd.DataFrame, tooltip: list[alt.Tooltip], looks: Looks
) -> Iterator[alt.Chart]:
    """Grey points, each with a dotted line from the configuration that it exits as often as."""
    grey, across, up = alt.ColorValue(CONTROL_GREY), f"{cost.column}_control", f"{measure.column}_control"
    controlled = base.transform_filter(f"isValid(datum['{across}']) && isValid(datum['{up}'])")
    lines = controlled.mark_rule(aria=False, strokeDash=[2, 3])
    yield lines.encode(x2=alt.X2(f"{across}:Q"), y2=alt.Y2(f"{up}:Q"), color=grey, opacity=OPACITY)
    yield controlled.mark_point(filled=True, size=50, cursor="pointer").encode(
        x=alt.X(f"{across}:Q", title=cost.title),
        y=alt.Y(f"{up}:Q", title=measure.title),
        color=grey,
        shape=looks.shape(settings).legend(None),
        opacity=OPACITY,
        tooltip=tooltip,
    )


def _intervals(base: alt.Chart, settings: pd.DataFrame, measure: Measure, cost: CostAxis) -> Iterator[alt.Chart]:
    up, across = measure.column, cost.column
    vertical = base.mark_rule(aria=False).encode(
        y=alt.Y(f"{up}_low:Q", title=measure.title), y2=alt.Y2(f"{up}_high:Q"), opacity=OPACITY
    )
    horizontal = base.mark_rule(aria=False).encode(
        x=alt.X(f"{across}_low:Q", title=cost.title), x2=alt.X2(f"{across}_high:Q"), opacity=OPACITY
    )
    yield from where_known(settings[f"{up}_low"], vertical)
    yield from where_known(settings[f"{across}_low"], horizontal)


def _ring(x: alt.X, y: alt.Y, known: str) -> alt.Chart:
    chosen = alt.Chart(ROWS).transform_filter(f"{_SETTING} && {known} && isValid(datum.chosen)")
    ring = chosen.mark_point(style=RING, filled=False, shape="circle", size=RING_PIXELS, strokeWidth=2.5, aria=False)
    found: alt.Chart = ring.encode(x=x, y=y)
    return found


def _replays(quality: Quality, x: alt.X, y: alt.Y, looks: Looks) -> Iterator[alt.Chart]:
    """A thin line for each mode and rule that the chart has, along the settings that were replayed."""
    shown = quality.replayed[
        quality.replayed["mode"].isin(looks.modes) & quality.replayed["rule"].isin(quality.settings["rule"])
    ]
    if shown.empty:
        return
    curves = f"indexof({json.dumps(sorted(shown['curve'].unique()))}, datum.curve) >= 0"
    base = alt.Chart(ROWS).transform_filter(f"datum.replayed && {curves}")
    base = base.encode(x=x, y=y, color=looks.colour(quality.settings))
    yield base.mark_line(aria=False, strokeWidth=1).encode(
        order=alt.Order("parameter:Q"), detail=alt.Detail("curve:N"), strokeDash=looks.dash(quality.settings)
    )


def _tooltip(quality: Quality, measure: Measure, cost: CostAxis) -> Iterator[alt.Tooltip]:
    rows, column = quality.rows, measure.column
    yield alt.Tooltip("shown_as:N", title="Configuration")
    yield alt.Tooltip(f"{column}:Q", title=measure.label, format=_written(measure))
    yield from where_known(rows[f"{column}_low"], alt.Tooltip("interval:N", title=INTERVAL))
    yield alt.Tooltip(f"{cost.column}:Q", title=cost.title, format=".1%")
    beside: list[tuple[str, str, dict[str, Any]]] = [
        (f"{column}_control", "Its control", {"format": _written(measure)}),
        (f"{cost.column}_control", "Its control's saving", {"format": ".1%"}),
    ]
    for name, title, form in beside:
        yield from where_known(
            rows[name] if name in rows else pd.Series(dtype=float), alt.Tooltip(f"{name}:Q", title=title, **form)
        )
    yield from where_known(rows["loop_share"], alt.Tooltip("loop_share:Q", title="In one loop", format=".1%"))
    yield from where_known(rows["chosen"], alt.Tooltip("chosen:N", title="Chosen for"))
    yield alt.Tooltip(f"{column}_n:Q", title="n prompts")
