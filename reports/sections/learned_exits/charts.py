"""The charts of the section on learned exits: what training changed, as each artefact's card has it.

In every chart, what the learned exits are compared with is grey and comes first, and a layer keeps its exit colour.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

import altair as alt
import pandas as pd

from reports.sections.learned_exits.cards import EVERYWHERE, series_of
from reports.shared.charts import (
    LABEL_ROOM_PIXELS,
    PERCENT,
    ROOM_PIXELS,
    ROWS,
    is_logarithmic,
    label_layers,
    layered,
    scale_of,
    where_known,
)
from reports.shared.measures import LAYERS_SKIPPED
from reports.shared.palette import exit_colours

SHARE: Final = ".1%"  # how values are written
NATS: Final = ".3~g"
OUTLINE: Final = "#8a929e"  # of points in the colours of layers, some of which are near to that of the paper


@dataclass(frozen=True)
class Quantity:
    """A column of a card's tables."""

    column: str
    title: str  # of its axis
    form: str  # SHARE or NATS: how values are written


def by_layer_chart(frame: pd.DataFrame, y: Quantity, description: str) -> alt.LayerChart:
    """What was held out against the layer, with a line for each readout."""
    y_channel = alt.Y(f"{y.column}:Q", title=y.title, **_scale(frame[y.column], y.form, ROOM_PIXELS, zero=True))
    base = alt.Chart(ROWS).transform_filter(_of(frame)).encode(x=_layers(frame), y=y_channel)
    base = base.encode(color=_colour(frame))
    tooltip = [
        alt.Tooltip("series:N", title="Readout"),
        alt.Tooltip("layer:Q", title="Layer"),
        *where_known(frame["agreement"], alt.Tooltip("agreement:Q", title="Agreement", format=SHARE)),
        *where_known(frame["median_kl"], alt.Tooltip("median_kl:Q", title="Median KL, nats", format=NATS)),
        *where_known(frame["mean_kl"], alt.Tooltip("mean_kl:Q", title="Mean KL, nats", format=NATS)),
    ]
    points = base.mark_point(filled=True, size=80, opacity=1).encode(shape=_shape(frame), tooltip=tooltip)
    return layered(base.mark_line(aria=False, opacity=0.7), points, description=description)


def learned_trade_off_chart(frame: pd.DataFrame, y: Quantity, description: str) -> alt.LayerChart:
    """An artefact's trade-off against layers skipped, labelled by KL factor, with the controls beneath.

    A control is a tick at its value of `y`, joined to its point by a dotted line.
    """
    control = f"{y.column}_control"
    values, zero = pd.concat([frame[y.column], frame[control]]), y.form == NATS
    y_channel = alt.Y(f"{y.column}:Q", title=y.title, **_scale(values, y.form, LABEL_ROOM_PIXELS, zero))
    x_axis = alt.Axis(format=".0%", labelExpr="datum.value < 0 ? '' : datum.label")
    x_scale = alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS)
    x = alt.X("layers_skipped:Q", title=LAYERS_SKIPPED, axis=x_axis, scale=x_scale)
    base = alt.Chart(ROWS).transform_filter(_of(frame))
    base = base.encode(x=x, y=y_channel, color=_colour(frame))
    controlled = base.transform_filter(f"isValid(datum['{control}'])")
    tooltip = [
        alt.Tooltip("series:N", title="Exits by"),
        alt.Tooltip("kl_factor:Q", title="KL factor"),
        alt.Tooltip("layers_skipped:Q", title=LAYERS_SKIPPED, format=SHARE),
        *where_known(frame["exit_rate"], alt.Tooltip("exit_rate:Q", title="Early exits", format=SHARE)),
        alt.Tooltip(f"{y.column}:Q", title=y.title, format=y.form),
        *where_known(frame[control], alt.Tooltip(f"{control}:Q", title="Its control", format=y.form)),
    ]
    ticks = controlled.mark_tick(orient="horizontal", thickness=2.5, size=14)
    return layered(
        base.mark_line(aria=False, opacity=0.7).encode(order=alt.Order("kl_factor:Q"), detail=alt.Detail("series:N")),
        *where_known(
            frame[control],
            controlled.mark_rule(aria=False, strokeDash=[2, 3]).encode(y2=alt.Y2(f"{control}:Q")),
            ticks.encode(y=alt.Y(f"{control}:Q", title=y.title), tooltip=tooltip),
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(shape=_shape(frame), tooltip=tooltip),
        *label_layers(x, y_channel, _colour(frame), at=("layers_skipped", y.column)),
        description=description,
    )


def rank_chart(frame: pd.DataFrame, description: str) -> alt.LayerChart:
    """The probe's rank correlation with the true KL against the layer; points of the kind that was kept are larger."""
    y = alt.Y("rank_correlation:Q", title="Rank correlation with the true KL").scale(zero=True, domainMax=1)
    base = alt.Chart(ROWS).encode(x=_layers(frame), y=y, color=_colour(frame))
    tooltip = [
        alt.Tooltip("series:N", title="Probe"),
        alt.Tooltip("layer:Q", title="Layer"),
        alt.Tooltip("rank_correlation:Q", title="Rank correlation", format=".2f"),
        alt.Tooltip("kept_words:N", title="Kept"),
    ]
    size = alt.SizeValue(40, condition=[{"test": "datum.kept", "value": 150}])
    points = base.mark_point(filled=True, opacity=1).encode(shape=_shape(frame), size=size, tooltip=tooltip)
    return layered(base.mark_line(aria=False, opacity=0.7), points, description=description)


def calibration_chart(frame: pd.DataFrame, colours: dict[str, str], description: str) -> alt.LayerChart:
    """True against predicted stop chances in bins, a line per layer; the diagonal is a probe without bias."""
    labels = list(dict.fromkeys(frame["layer_label"]))
    known = [label for label in colours if label in labels]
    ends = alt.Scale(domain=[0, 1], nice=False, padding=8)
    x = alt.X("predicted:Q", title="Predicted stop chance", scale=ends, axis=PERCENT)
    y = alt.Y("true:Q", title="True stop chance", scale=ends, axis=PERCENT)
    colour = alt.Color("layer_label:N", title="Layer").scale(domain=known, range=[colours[name] for name in known])
    base = alt.Chart(ROWS).encode(x=x, y=y, color=colour)
    tooltip = [
        alt.Tooltip("layer:Q", title="Layer"),
        alt.Tooltip("kl_factor:Q", title="KL factor"),
        alt.Tooltip("predicted:Q", title="Predicted", format=SHARE),
        alt.Tooltip("true:Q", title="True", format=SHARE),
        alt.Tooltip("n:Q", title="n tokens", format=","),
    ]
    size = alt.Size("n:Q", legend=None).scale(type="sqrt", range=[25, 260])
    shape = alt.Shape("layer_label:N", title="Layer").scale(domain=known)
    points = base.mark_point(filled=True, opacity=1, stroke=OUTLINE, strokeWidth=1)
    diagonal = alt.Chart(ROWS).transform_aggregate(n="count()").mark_rule(aria=False, strokeDash=[5, 4])
    return layered(
        diagonal.encode(x=alt.XDatum(0), x2=alt.X2Datum(1), y=alt.YDatum(0), y2=alt.Y2Datum(1)),
        base.mark_line(aria=False).encode(order=alt.Order("bin:Q")),
        points.encode(shape=shape, size=size, tooltip=tooltip),
        description=description,
    )


def exits_chart(frame: pd.DataFrame, x: Quantity, description: str) -> alt.LayerChart:
    """What is read at the exits of each layer, before and after the training, joined by a line."""
    layers = [label for label in dict.fromkeys(frame["layer_label"]) if label != EVERYWHERE]
    rows = alt.Y("layer_label:N", title="Exit layer", sort=[*layers, EVERYWHERE]).axis(grid=True)
    scale = alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS)
    axis = PERCENT if x.form == SHARE else alt.Axis(format="~g")
    channel = alt.X(f"{x.column}:Q", title=x.title, scale=scale, axis=axis)
    base = alt.Chart(ROWS).transform_filter(f"isValid(datum['{x.column}'])").encode(y=rows)
    tooltip = [
        alt.Tooltip("series:N", title="Training"),
        alt.Tooltip("layer_label:N", title="Exit layer"),
        alt.Tooltip("kl_factor:Q", title="KL factor"),
        alt.Tooltip(f"{x.column}:Q", title=x.title, format=x.form),
        alt.Tooltip("n:Q", title="n tokens", format=","),
    ]
    joined = base.transform_aggregate(low=f"min({x.column})", high=f"max({x.column})", groupby=["layer_label"])
    return layered(
        joined.mark_rule(aria=False, strokeWidth=2).encode(x=alt.X("low:Q", title=x.title), x2=alt.X2("high:Q")),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x=channel, color=_colour(frame), shape=_shape(frame), tooltip=tooltip
        ),
        description=description,
    ).properties(height=alt.Step(28))


def layer_colours(exitable_layers: tuple[int, ...]) -> dict[str, str]:
    """The colour of each exitable layer, as in the rest of the report, by the layer as text."""
    colours = exit_colours(len(exitable_layers) + 1)
    return {str(layer): colour for layer, colour in zip(exitable_layers, colours, strict=False)}


def _colour(frame: pd.DataFrame) -> alt.Color:
    return alt.Color("series:N", title=None).scale(domain=series_of(frame), range="ordinal")


def _shape(frame: pd.DataFrame) -> alt.Shape:
    return alt.Shape("series:N", title=None).scale(domain=series_of(frame))


def _layers(frame: pd.DataFrame) -> alt.X:
    values = sorted(frame["layer"].unique().tolist())
    axis = alt.Axis(values=values, format="d", grid=False)
    return alt.X("layer:Q", title="Layer", axis=axis).scale(zero=False, nice=False, padding=ROOM_PIXELS)


def _scale(values: pd.Series, written: str, room: float, zero: bool) -> dict[str, Any]:
    """The axis and scale of shares, or of nats, which are logarithmic if they span more than a factor of ten."""
    if written == SHARE:
        return {"axis": PERCENT, "scale": alt.Scale(zero=zero, nice=False, padding=room)}
    return {"axis": alt.Axis(format="~g"), "scale": scale_of(is_logarithmic(values), zero=zero, padding=room)}


def _of(frame: pd.DataFrame) -> str:
    """The condition that a row is of this frame's artefact; artefacts share the rows of a chart."""
    return f"datum.artefact === {json.dumps(frame['artefact'].iloc[0])}"
