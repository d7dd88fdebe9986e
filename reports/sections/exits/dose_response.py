"""The overview's fold "Dose response": early exits and depth against each rule's parameter."""

import json
from collections.abc import Iterator
from typing import Final

import altair as alt
import pandas as pd

from reports.read.rule_parameters import exact_labels, is_doubling, parameter_name, parameter_title
from reports.shared.charts import (
    LABELLED,
    OPACITY,
    PERCENT,
    ROOM_PIXELS,
    interval_bars,
    layered,
    rows_where,
    scale_of,
    where_known,
    with_tooltips,
)
from reports.shared.figures import ChartVariant, Figure, basis
from reports.shared.styles import ChartStyle

DOSE: Final = (
    ("configuration", "Configuration", "text"),
    ("rule", "Rule", "text"),
    ("parameter", "Parameter", "real"),
    ("n", "n prompts", "count"),
    ("exit_rate", "Early exits", "share"),
    ("mean_depth", "Mean depth", "share"),
)


def dose_figures(configurations: pd.DataFrame, looks: ChartStyle) -> Iterator[Figure]:
    """Yield a chart of early exits and one of mean depth, against the rule's parameter.

    Each has a variant with an axis of its own for each rule with a numeric parameter.
    """
    dose = dose_response(configurations)
    rules = dose.loc[dose["parameter"].notna(), "rule"].unique().tolist() if len(dose) else []
    names = list(dict.fromkeys(map(parameter_name, rules)))
    by = names[0] if len(names) == 1 else "parameter"
    for y, title, unit in (("exit_rate", "Early exits", "decided tokens"), ("mean_depth", "Mean depth", "layers")):
        known = [rule for rule in rules if dose.loc[dose["rule"] == rule, y].notna().any()]
        if known:
            dashed = "Dashed: normal. " if dose.loc[dose["rule"].isna(), y].notna().any() else ""
            caption, variants = dashed + basis(dose, y, "Error bars"), []
            for rule in known:
                name = parameter_name(rule)
                description = f"{title} against the {name} of rule {rule}. {caption}"
                chart = dose_chart(dose, rule, y, f"{title} (fraction of {unit})", description, looks)
                axes = {"x": "parameter", "y": y}
                variants.append(ChartVariant(f"{rule}{looks.mark(rule)}: {name}", chart, axes=axes))
            yield Figure(f"dose-{y}", f"{title} by {by}", caption, variants, dose, DOSE, choice="Rule")


def dose_chart(
    frame: pd.DataFrame, rule: str, y: str, y_title: str, description: str, looks: ChartStyle
) -> alt.LayerChart:
    """Return column `y` of a dose frame, a fraction, against one rule's parameter. The dashed line is `normal`.

    Each mode and exit set has a line, labelled where a mode has several.
    """
    frame = frame[(frame["rule"] == rule) | frame["rule"].isna()]
    scale = scale_of(logarithmic=False, zero=False, padding=ROOM_PIXELS)
    y_channel = alt.Y(f"{y}:Q", title=y_title, axis=PERCENT, scale=scale)
    values = sorted(frame["parameter"].dropna().unique().tolist())
    scale_x = alt.Scale(zero=False, nice=False, padding=ROOM_PIXELS)
    if is_doubling(rule):
        scale_x = alt.Scale(type="log", base=2, nice=False, padding=ROOM_PIXELS)
    axis = alt.Axis(values=values, labelExpr=exact_labels(values))
    x = alt.X("parameter:Q", title=parameter_title(rule), scale=scale_x, axis=axis)
    dosed = rows_where(f"datum.rule === {json.dumps(rule)}")
    dosed, tooltip = with_tooltips(dosed.encode(x=x, color=looks.colour(frame, one_rule=True)), DOSE, frame)
    has_sets = frame.groupby("mode")["series"].nunique().max() > 1
    points = dosed.mark_point(filled=True, size=80, cursor="pointer").encode(
        y=y_channel, shape=looks.shape(frame, one_rule=True), opacity=OPACITY, tooltip=tooltip
    )
    reference = rows_where("!isValid(datum.rule)").mark_rule(aria=False, strokeDash=[5, 4])
    reference = reference.encode(y=y_channel, color=looks.colour(frame, one_rule=True))
    return layered(
        *where_known(frame.loc[frame["rule"].isna(), y], reference),
        dosed.mark_line(aria=False, opacity=0.7)
        .encode(y=y_channel, detail=alt.Detail("series:N"))
        .properties(name="lines"),
        *interval_bars(dosed.mark_rule(aria=False).encode(opacity=OPACITY), frame, y, y_title),
        points.properties(name=LABELLED) if has_sets else points,
        description=description,
    )


def dose_response(configurations: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `normal`, and those whose parameter fits on its rule's axis: positive if it is log2."""
    if configurations.empty:
        return configurations
    is_drawable = [
        pd.isna(rule) or parameter > 0 or (parameter <= 0 and not is_doubling(rule))  # never true of NaN
        for rule, parameter in zip(configurations["rule"], configurations["parameter"].astype(float), strict=True)
    ]
    return configurations[is_drawable]
