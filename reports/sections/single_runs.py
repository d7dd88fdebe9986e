"""Charts of single runs, whose rows the page's own scripts compute."""

from typing import Any

import altair as alt

from reports.read.sweep import Sweep
from reports.sections.where_tokens_exit import exit_mix_chart
from reports.shared.charts import OPACITY, RAMP, ROWS, WIDTH_PIXELS, layer_colour, layered, rows_of, specification
from reports.shared.per_configuration import layer_labels


def page_charts(sweep: Sweep) -> dict[str, Any]:
    """Specifications of the charts whose rows the page's own scripts compute."""
    labels = list(layer_labels(sweep).values())
    return {
        "heat": specification(heat_chart("One number of every run, prompts by configurations.")),
        "strip": specification(strip_chart(labels, "Exit layer at every position, one row per run.")),
        "mix": specification(
            exit_mix_chart(labels, "Share of decided tokens", "Share of tokens read at each layer, by run.")
        ),
    }


def strip_chart(labels: list[str], description: str) -> alt.Chart:
    """Exit layers along the text, with one bar per run. A row of data is a stretch of tokens with one exit layer."""
    chart: alt.Chart = (
        alt.Chart(ROWS)
        .mark_rect(cursor="pointer")
        .encode(
            x=alt.X("start:Q", title="Token position").scale(nice=False, zero=True).axis(tickMinStep=1),
            x2=alt.X2("end:Q"),
            y=rows_of("name"),
            color=layer_colour(labels),
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
