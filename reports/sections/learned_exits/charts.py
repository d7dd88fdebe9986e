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
    PERCENT,
    ROOM_PIXELS,
    ROWS,
    WITHIN_SHARES,
    Columns,
    is_logarithmic,
    layered,
    rows_where,
    scale_of,
    told,
    where_known,
)
from reports.shared.measures import LAYERS_SKIPPED
from reports.shared.palette import exit_colours

OUTLINE: Final = "#8a929e"  # of points in the colours of layers, some of which are near to that of the paper
DIAGONAL: Final[dict[str, Any]] = {"x": alt.XDatum(0), "x2": alt.X2Datum(1), "y": alt.YDatum(0), "y2": alt.Y2Datum(1)}


@dataclass(frozen=True)
class Quantity:
    """A column of a card's tables; what isn't a share is in nats, or a correlation."""

    column: str
    title: str  # of its axis
    is_share: bool = False


def by_layer_chart(frame: pd.DataFrame, y: Quantity, columns: Columns, description: str) -> alt.LayerChart:
    """A line along the layers for each readout or kind of probe; points of the kind that was kept are larger."""
    values = sorted(frame["layer"].unique().tolist())
    scale = {"zero": False, "nice": False, "padding": ROOM_PIXELS}
    x = alt.X("layer:Q", title="Layer", axis=alt.Axis(values=values, format="d", grid=False), scale=scale)
    base, tooltip = told(_rows_of(frame), columns, frame)
    base = base.encode(x=x, y=_y(frame[y.column], y, zero=True), color=_colour(frame))
    size = alt.SizeValue(80, condition=[{"test": "datum.kept", "value": 150}])
    points = base.mark_point(filled=True, opacity=1).encode(shape=_shape(frame), size=size, tooltip=tooltip)
    return layered(base.mark_line(aria=False, opacity=0.7), points, description=description)


def learned_trade_off_chart(frame: pd.DataFrame, y: Quantity, columns: Columns, description: str) -> alt.LayerChart:
    """An artefact's trade-off against layers skipped, with the controls beneath.

    A control is a tick at its value of `y`, joined to its point by a dotted line.
    """
    control = f"{y.column}_control"
    values = pd.concat([frame[y.column], frame[control]])
    x_axis = alt.Axis(format=".0%", labelExpr=WITHIN_SHARES)
    x_scale = alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS)
    x = alt.X("layers_skipped:Q", title=LAYERS_SKIPPED, axis=x_axis, scale=x_scale)
    base, tooltip = told(_rows_of(frame), columns, frame)
    base = base.encode(x=x, y=_y(values, y, zero=not y.is_share), color=_colour(frame))
    controlled = base.transform_filter(f"isValid(datum['{control}'])")
    ticks = controlled.mark_tick(orient="horizontal", thickness=2.5, size=14)
    return layered(
        base.mark_line(aria=False, opacity=0.7).encode(order=alt.Order("kl_factor:Q"), detail=alt.Detail("series:N")),
        *where_known(
            frame[control],
            controlled.mark_rule(aria=False, strokeDash=[2, 3]).encode(y2=alt.Y2(f"{control}:Q")),
            ticks.encode(y=alt.Y(f"{control}:Q", title=y.title), tooltip=tooltip),
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(shape=_shape(frame), tooltip=tooltip),
        description=description,
    )


def calibration_chart(
    frame: pd.DataFrame, columns: Columns, colours: dict[str, str], description: str
) -> alt.LayerChart:
    """True against predicted stop chances in bins, a line per layer; the diagonal is a probe without bias."""
    labels = list(dict.fromkeys(frame["layer_label"]))
    known = [label for label in colours if label in labels]
    ends = alt.Scale(domain=[0, 1], nice=False, padding=8)
    x = alt.X("predicted:Q", title="Predicted stop chance", scale=ends, axis=PERCENT)
    y = alt.Y("true:Q", title="True stop chance", scale=ends, axis=PERCENT)
    scale = {"domain": known, "range": [colours[name] for name in known]}
    colour = alt.Color("layer_label:N", title="Layer", scale=scale)
    base, tooltip = told(alt.Chart(ROWS).encode(x=x, y=y, color=colour), columns, frame)
    size = alt.Size("n:Q", legend=None, scale={"type": "sqrt", "range": [25, 260]})
    shape = alt.Shape("layer_label:N", title="Layer", scale={"domain": known})
    points = base.mark_point(filled=True, opacity=1, stroke=OUTLINE, strokeWidth=1)
    diagonal = alt.Chart(ROWS).transform_aggregate(n="count()").mark_rule(aria=False, strokeDash=[5, 4])
    return layered(
        diagonal.encode(**DIAGONAL),
        base.mark_line(aria=False).encode(order=alt.Order("bin:Q")),
        points.encode(shape=shape, size=size, tooltip=tooltip),
        description=description,
    )


def exits_chart(frame: pd.DataFrame, x: Quantity, columns: Columns, description: str) -> alt.LayerChart:
    """What is read at the exits of each layer, before and after the training, joined by a line."""
    layers = [label for label in dict.fromkeys(frame["layer_label"]) if label != EVERYWHERE]
    rows = alt.Y("layer_label:N", title="Exit layer", sort=[*layers, EVERYWHERE], axis={"grid": True})
    scale = alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS)
    channel = alt.X(f"{x.column}:Q", title=x.title, scale=scale, axis=_axis(x))
    base = rows_where(f"isValid(datum['{x.column}'])").encode(y=rows)
    base, tooltip = told(base, columns, frame)
    joined = base.transform_aggregate(low=f"min({x.column})", high=f"max({x.column})", groupby=["layer_label"])
    return layered(
        joined.mark_rule(aria=False, strokeWidth=2).encode(x=alt.X("low:Q", title=x.title), x2=alt.X2("high:Q")),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x=channel, color=_colour(frame), shape=_shape(frame), tooltip=tooltip
        ),
        description=description,
        height=alt.Step(28),
    )


def layer_colours(exitable_layers: tuple[int, ...]) -> dict[str, str]:
    """The colour of each exitable layer, as in the rest of the report, by the layer as text."""
    colours = exit_colours(len(exitable_layers) + 1)
    return {str(layer): colour for layer, colour in zip(exitable_layers, colours, strict=False)}


def _colour(frame: pd.DataFrame) -> alt.Color:
    return alt.Color("series:N", title=None, scale={"domain": series_of(frame), "range": "ordinal"})


def _shape(frame: pd.DataFrame) -> alt.Shape:
    return alt.Shape("series:N", title=None, scale={"domain": series_of(frame)})


def _axis(quantity: Quantity) -> alt.Axis:
    return PERCENT if quantity.is_share else alt.Axis(format="~g")


def _y(values: pd.Series, y: Quantity, zero: bool) -> alt.Y:
    """Logarithmic where numbers that are no shares span more than a factor of ten."""
    scale = scale_of(not y.is_share and is_logarithmic(values), zero=zero, padding=ROOM_PIXELS)
    return alt.Y(f"{y.column}:Q", title=y.title, axis=_axis(y), scale=scale)


def _rows_of(frame: pd.DataFrame) -> alt.Chart:
    """The rows of this frame's artefact, where several share the rows of a chart."""
    rows = alt.Chart(ROWS)
    if "artefact" not in frame:
        return rows
    found: alt.Chart = rows.transform_filter(f"datum.artefact === {json.dumps(frame['artefact'].iloc[0])}")
    return found
