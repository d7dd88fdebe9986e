"""Charts of a comparison of models: agreement by relative depth, and savings against losses."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import altair as alt
import pandas as pd

from eexit.output.text import counted_between
from eexit.quality.intervals import LEVEL
from eexit.studies.comparison.comparison import Comparison
from eexit.studies.comparison.model_results import AGREEMENT, CONFIRMED, EXITED
from reports.shared.charts import PERCENT, ROOM_PIXELS, ROWS, Columns, interval_bars, layered, scale_of, with_tooltips
from reports.shared.figures import ChartVariant, Figure
from reports.shared.styles import RULE_SHAPES

FULL_DEPTH: Final = ""  # the first entry of the theme's colours is that of full depth, which no model has
OF_DEPTHS: Final = {
    AGREEMENT: "agreement with the final layer",
    CONFIRMED: "sure and confirmed",
    EXITED: "exited by the oracle, there or before",
}
LOSSES: Final = {"lost": "right answers lost", "disagreement": "disagreement with full depth"}
SAVINGS: Final = {"saved": "as run", "saved_if_free": "if deciding were free"}  # of multiply-adds
DEPTH_COLUMNS: Final[Columns] = (
    ("model", "Model", "text"),
    ("layer", "Layer", "count"),
    ("depth", "Depth", "share"),
    *((name, label.capitalize(), "share") for name, label in OF_DEPTHS.items()),
    (f"{AGREEMENT}_n", "n prompts", "count"),
)
SETTING_COLUMNS: Final[Columns] = (
    ("model", "Model", "text"),
    ("configuration", "Configuration", "text"),
    *((name, label.capitalize(), "share") for name, label in LOSSES.items()),
    *((name, f"Saved {label}", "share") for name, label in SAVINGS.items()),
    ("time", "Time, of full depth's", "times"),
    ("time_of_generate", "Time, of generate's", "times"),
    ("saved_if_free_n", "n prompts", "count"),
)


def comparison_figures(comparison: Comparison) -> Iterator[Figure]:
    """Yield the chart of layers by depth, a line per model, and of settings, a mark each; nothing without numbers."""
    depths, settings = comparison.depths_table(), comparison.settings_table()
    if measures := [name for name in OF_DEPTHS if depths[name].notna().any()]:
        n = counted_between(depths.loc[depths[measures[0]].notna(), f"{measures[0]}_n"], "prompt")
        caption = (
            f"By relative depth; bands: {LEVEL:.0%} intervals over prompts, n = {n}. The last layer is the final one."
        )
        variants = [ChartVariant(OF_DEPTHS[name], depth_chart(depths, name, comparison.names)) for name in measures]
        title = "Layers beside the final one"
        yield Figure("depths", title, caption, variants, depths, DEPTH_COLUMNS, choice="Measure", wide=True)
    if settings.empty:
        return
    axes = [pair for pair in product(SAVINGS, LOSSES) if settings[list(pair)].notna().all(axis=1).any()]
    if axes:
        caption = (
            f"A mark per setting; bars: {LEVEL:.0%} intervals over prompts. Oracles save only if deciding is free."
        )
        named = [(pair, f"{SAVINGS[pair[0]]}, {LOSSES[pair[1]]}") for pair in axes]
        variants = [ChartVariant(label, settings_chart(settings, *pair, comparison.names)) for pair, label in named]
        title = "Saved against lost"
        yield Figure("settings", title, caption, variants, settings, SETTING_COLUMNS, choice="Axes", wide=True)


def _by_model(names: Sequence[str]) -> tuple[alt.Color, alt.Shape]:
    """Return a colour and a shape for each model, in one legend."""
    domain, legend = [FULL_DEPTH, *names], {"values": list(names), "columns": 1, "labelLimit": 300}
    shapes = [RULE_SHAPES[at % len(RULE_SHAPES)] for at in range(len(domain))]
    colour = alt.Color("model:N", title=None, scale={"domain": domain}, legend=legend)
    return colour, alt.Shape("model:N", title=None, scale={"domain": domain, "range": shapes}, legend=legend)


def depth_chart(frame: pd.DataFrame, measure: str, names: Sequence[str]) -> alt.LayerChart:
    """Return a share of tokens against the layers' relative depth, a line with its band of intervals per model."""
    colour, shape = _by_model(names)
    whole = alt.Scale(domain=[0, 1])
    x = alt.X("depth:Q", title="depth (share of the layers)", axis=PERCENT, scale=whole)
    title = f"{OF_DEPTHS[measure]} (share of tokens)"
    y = alt.Y(f"{measure}:Q", title=title, axis=PERCENT, scale=whole)
    base, tooltip = with_tooltips(alt.Chart(ROWS).encode(x=x, color=colour), DEPTH_COLUMNS, frame)
    band = interval_bars(base.mark_area(aria=False, opacity=0.18), frame, measure, title)
    line = base.mark_line(aria=False).encode(y=y)
    points = base.mark_point(filled=True, size=70).encode(y=y, shape=shape, tooltip=tooltip)
    n = int(frame[f"{measure}_n"].max())
    described = f"{OF_DEPTHS[measure]} by depth, a line per model; n = {n:,} prompts."
    return layered(*band, line, points, description=described)


def settings_chart(frame: pd.DataFrame, saved: str, lost: str, names: Sequence[str]) -> alt.LayerChart:
    """Return savings against losses, a mark with its intervals per setting."""
    colour, shape = _by_model(names)
    scale = scale_of(logarithmic=False, zero=True, padding=ROOM_PIXELS)
    x = alt.X(f"{lost}:Q", title=LOSSES[lost], axis=PERCENT, scale=scale)
    y = alt.Y(f"{saved}:Q", title=f"multiply-adds saved {SAVINGS[saved]}", axis=alt.Axis(format="~%"), scale=scale)
    known = alt.Chart(ROWS, transform=[{"filter": f"isValid(datum['{saved}']) && isValid(datum['{lost}'])"}])
    base, tooltip = with_tooltips(known.encode(color=colour), SETTING_COLUMNS, frame)
    bars = base.mark_rule(aria=False, opacity=0.4)
    across = interval_bars(bars.encode(y=y), frame, lost, LOSSES[lost], along="x")
    upright = interval_bars(bars.encode(x=x), frame, saved, f"multiply-adds saved {SAVINGS[saved]}")
    points = base.mark_point(filled=True, size=80).encode(x=x, y=y, shape=shape, tooltip=tooltip)
    described = f"Multiply-adds saved {SAVINGS[saved]} against {LOSSES[lost]}, a mark per setting, coloured by model."
    return layered(*across, *upright, points, description=described)
