"""The overview's fold "Where tokens exit": the share of tokens that exit at each layer."""

from collections.abc import Iterator
from typing import Final

import altair as alt
import pandas as pd

from eexit.output.palette import exit_colours
from eexit.plan.runs import OK
from reports.read.sweep import Sweep
from reports.shared.charts import OPACITY, ROWS, WIDTH_PIXELS, rows_of, with_tooltips
from reports.shared.figures import Figure, basis, one
from reports.shared.per_configuration import estimates_of, layer_labels, n_seeds_of, naming

MIX: Final = (
    ("configuration", "Configuration", "text"),
    ("shown_layer", "Exit layer", "text"),
    ("n", "n prompts", "count"),
    ("share", "Share of decided tokens", "share"),
)


def mix_figure(sweep: Sweep) -> Iterator[Figure]:
    """Yield a stacked bar per configuration; nothing if exit layers are not known."""
    mix = exit_mix(sweep)
    if len(mix) and mix["share"].notna().any():
        caption = "Share of tokens read at each layer, mean over prompts; a click opens the configuration. "
        caption += basis(mix, "share", "In the table")
        chart = exit_mix_chart(mix, list(layer_labels(sweep).values()), f"Stacked bars. {caption}")
        yield Figure("mix", "Where tokens exit", caption, one(chart), mix, MIX, wide=True)


def exit_mix_chart(frame: pd.DataFrame, labels: list[str], description: str) -> alt.Chart:
    """Return one stacked bar per configuration, with early layers at the left. `labels` are in rank order."""
    base, tooltip = with_tooltips(alt.Chart(ROWS), MIX, frame)
    axis, scale = alt.Axis(format=".0%"), {"domain": labels, "range": exit_colours(len(labels))}
    chart: alt.Chart = base.mark_bar(cursor="pointer").encode(
        x=alt.X("share:Q", title="Share of decided tokens", axis=axis, scale={"domain": [0, 1]}),
        y=rows_of("short"),
        color=alt.Color("shown_layer:N", title="Exit layer", sort=labels, scale=scale),
        order=alt.Order("rank:Q"),
        opacity=OPACITY,
        tooltip=tooltip,
    )
    return chart.properties(width=WIDTH_PIXELS, height=alt.Step(22), description=description)


def exit_mix(sweep: Sweep) -> pd.DataFrame:
    """Return the share of decided tokens per configuration and exit layer, averaged over sampling units."""
    layers, labels = (list(part) for part in zip(*layer_labels(sweep).items(), strict=True))
    total = sweep.layer_counts.sum(axis=1)
    known = (sweep.generations["status"] == OK).to_numpy() & (total > 0)
    shares = pd.DataFrame(sweep.layer_counts[known] / total[known, None], columns=range(len(labels)))
    runs = sweep.generations[known].reset_index(drop=True)
    n_seeds = n_seeds_of(runs)
    rows = []
    for configuration in sweep.configurations:
        own = runs[runs["configuration"] == configuration.key]
        for rank, estimate in estimates_of(configuration, shares.loc[own.index], own).items():
            named = naming(configuration, sweep.marked) | {"rank": rank, "n": own["unit"].nunique()}
            named |= {"exit_layer": layers[rank], "shown_layer": labels[rank]}
            named["n_seeds"] = n_seeds.get(configuration.key, 0)
            rows.append(named | estimate.columns("share"))
    return pd.DataFrame(rows)
