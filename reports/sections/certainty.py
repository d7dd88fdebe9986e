"""The overview's section "Where tokens become certain": each layer's predictions for the texts of `normal`."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import altair as alt
import pandas as pd

from eexit.output.text import is_known, percent, pluralize
from eexit.plan.splits import kinds, sampling_units
from eexit.quality.estimates import ENDS
from eexit.quality.intervals import LEVEL
from eexit.sweeps.summary.certainty import MEASURES, SURE, confidence_by_depth
from reports.read.sweep import Sweep
from reports.shared.charts import RAMP, ROWS, Columns, layered, rows_of, with_tooltips
from reports.shared.figures import Figure, RowFilter, one
from reports.shared.per_configuration import layer_labels

THRESHOLDS: Final = (0.5, 0.7, SURE, 0.97)
SHADES: Final = RAMP[:5]  # dark text is legible on them
INK: Final = "#16191d"
ROW_PIXELS: Final = 22
MOST_WRITTEN: Final = 12  # layers whose shares are written in their cells
CONTRADICTED: Final = "exits contradicted"
DIGITS_WIDE: Final = 2.6  # "100%", in font sizes
CERTAINTY: Final[Columns] = (
    ("kind", "Kind", "text"),
    ("measure", "Tokens", "text"),
    ("summary", "In all layers", "text"),
    ("shown_layer", "Layer", "text"),
    ("share", "Share of tokens", "share"),
    ("share_n", "n prompts", "count"),
)
CAPTION: Final = (
    "Tokens of normal. Sure: the likeliest token of a layer has this probability at least. Confirmed: and it is the "
    "final layer's. Exits contradicted: of the tokens that are sure for the first time at a layer, those of which the "
    "final layer's likeliest token is another. First at: of tokens whose final layer is sure (its cell), the median "
    "over prompts of medians. Taken back: confirmed at a layer, and not at a deeper one. In the table: "
    f"{LEVEL:.0%} intervals over prompts; n = "
)


def certainty_figure(sweep: Sweep) -> Figure | None:
    """Return rows of cells per kind of prompt and measure; None if `normal` recorded no likeliest tokens."""
    if (predictions := sweep.predictions_of_normal) is None:
        return None
    (prompt_of_run, tokens), prompts = predictions, sweep.config.get("prompts", [])
    found = confidence_by_depth(
        tokens, prompt_of_run, sweep.layers, kinds(prompts), sampling_units(prompts), THRESHOLDS
    )
    if found.empty:
        return None
    rows, labels = certainty_rows(found, sweep), list(layer_labels(sweep).values())
    caption = f"{CAPTION}{pluralize(int(rows['share_n'].max()), 'prompt')}."
    chart = certainty_chart(rows, labels, f"Shares of tokens that are sure, and confirmed, by layer. {caption}")
    menu = RowFilter("Sure from", "sure_from", [f"{each:g}" for each in THRESHOLDS], THRESHOLDS.index(SURE))
    title = "Where tokens become certain"
    return Figure("certainty", title, caption, one(chart), rows, CERTAINTY, slice=menu, wide=True)


def certainty_rows(found: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """Return a row per threshold, kind, measure and layer; `row` is the chart's label of kind and measure."""
    labels, rows = layer_labels(sweep), []
    for each in found.to_dict("records"):
        for measure, column, summary in _measures(each):
            if not is_known(each[column]):
                continue  # no token is sure for the first time there
            row: dict[str, Any] = {"sure_from": f"{each['threshold']:g}", "kind": each["kind"], "measure": measure}
            row |= {"summary": summary, "row": f"{each['kind']}, {measure}: {summary}"}
            row |= {"layer": each["layer"], "shown_layer": labels[each["layer"]]}
            rows.append(row | {f"share{end}": each[f"{column}{end}"] for end in ENDS})
    return pd.DataFrame(rows)


def _measures(row: Mapping[Any, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each measure of a kind of prompts, with its column by layer and its summary over all layers."""
    sure, confirmed = (f"{row[first]:g}" if is_known(row[first]) else "none" for first in MEASURES.values())
    yield "sure", "sure", f"first at {sure}"
    back = f", {percent(row['taken_back'])} taken back" if is_known(row["taken_back"]) else ""
    yield "confirmed", "confirmed", f"first at {confirmed}{back}"
    yield CONTRADICTED, "contradicted", percent(row["exits_contradicted"])


def certainty_chart(frame: pd.DataFrame, labels: list[str], description: str) -> alt.LayerChart:
    """Return a chart with layers from left to right; the share is a colour and, where there is room, text."""
    x = alt.X("shown_layer:N", title="Layer", sort=labels, axis={"labelAngle": 0, "labelOverlap": True})
    base, tooltip = with_tooltips(alt.Chart(ROWS).encode(x=x, y=rows_of("row")), CERTAINTY, frame)
    colour = alt.Color("share:Q", legend=None, scale={"domain": [0, 1], "range": SHADES})
    cells = base.mark_rect().encode(color=colour, tooltip=tooltip)
    text = alt.Text("share:Q", format=".0%")
    size = alt.ExprRef(f"min(12, bandwidth('x') / {DIGITS_WIDE})")
    words = base.mark_text(aria=False, fontSize=size, color=INK).encode(text=text, tooltip=tooltip)
    layers = [cells, *[words] * (len(labels) <= MOST_WRITTEN)]
    return layered(*layers, description=description, height=alt.Step(ROW_PIXELS))
