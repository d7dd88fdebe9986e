"""The overview's fold "Depth by token position": mean depth along the text."""

import math
from collections.abc import Iterator
from typing import Final

import altair as alt
import numpy as np
import pandas as pd

from reports.progress import Progress, ignore
from reports.read.rule_parameters import representatives
from reports.read.sweep import Sweep, index_of_runs
from reports.shared.charts import OPACITY, PERCENT, ROOM_PIXELS, ROWS, interval_bars, layered, scale_of, with_tooltips
from reports.shared.figures import Figure, RowFilter, basis, one
from reports.shared.per_configuration import estimates_of, n_seeds_of, naming
from reports.shared.styles import ChartStyle

DEPTH: Final = (
    ("configuration", "Configuration", "text"),
    ("position", "Position", "count"),
    ("depth_n", "n prompts", "count"),
    ("depth", "Mean depth", "share"),
)


def depth_figure(
    sweep: Sweep, configurations: pd.DataFrame, looks: ChartStyle, progress: Progress = ignore
) -> Iterator[Figure]:
    """Yield depth along the text of all modes under one rule and parameter, with `normal` for comparison."""
    depth = depth_by_position(sweep, progress)
    if depth.empty:
        return
    shrinks = "Towards the end only prompts with long texts are left. " if depth["depth_n"].nunique() > 1 else ""
    caption = shrinks + basis(depth, "depth", "Bands")
    chart = depth_chart(depth, f"Depth along the text. {caption}", looks)
    settings = [setting for setting in configurations["setting"].dropna().unique() if setting in set(depth["setting"])]
    standing = [row["setting"] for row in representatives(configurations) if row["setting"] in settings]
    first = settings.index(standing[0]) if standing else 0
    by_setting = RowFilter("Rule and parameter", "setting", settings, first) if settings else None
    yield Figure("depth", "Depth by token position", caption, one(chart), depth, DEPTH, slice=by_setting, wide=True)


def depth_chart(frame: pd.DataFrame, description: str, looks: ChartStyle) -> alt.LayerChart:
    """Return mean depth along the text, one line per mode, with its interval as a band. The page picks the setting."""
    width = int(frame["width"].iloc[0])
    x_title = "Token position" + (f" (means of {width} tokens)" if width > 1 else "")
    x_scale = {"zero": False, "nice": False, "padding": ROOM_PIXELS}
    x = alt.X("position:Q", title=x_title, scale=x_scale, axis={"tickMinStep": 1})
    y_title = "Mean depth (fraction of layers)"
    scale = scale_of(logarithmic=False, zero=False, padding=ROOM_PIXELS)
    y = alt.Y("depth:Q", title=y_title, axis=PERCENT, scale=scale)
    base, tooltip = with_tooltips(alt.Chart(ROWS).encode(x=x, color=looks.colour(frame, one_rule=True)), DEPTH, frame)
    return layered(
        *interval_bars(base.mark_area(aria=False, opacity=0.2), frame, "depth", y_title),
        base.mark_line(aria=False).encode(y=y),
        base.mark_point(filled=True, size=25, cursor="pointer").encode(
            y=y, shape=looks.shape(frame, one_rule=True), opacity=OPACITY, tooltip=tooltip
        ),
        description=description,
    )


MAX_BINS: Final = 25


def depth_by_position(sweep: Sweep, progress: Progress = ignore) -> pd.DataFrame:
    """Return mean depth (fraction of L) along the text, in at most 25 bins of equal width; decided tokens only.

    A bin's n is the number of prompts whose text reaches it, so the last bins contain only long texts. Tokens are read
    in batches; memory holds two numbers per run and bin.
    """
    done = sweep.done
    longest = done["n_tokens"].max()
    if sweep.final_layer is None or not longest > 0:
        return pd.DataFrame()
    width = math.ceil(longest / MAX_BINS)
    depth = _depth_of_runs(sweep, done["run_id"], width, progress)
    depth_of_runs = pd.DataFrame(depth, index=done.index)
    n_seeds = n_seeds_of(done)
    rows = []
    for configuration in sweep.configurations:
        own = done[done["configuration"] == configuration.key]
        for bin_index, estimate in estimates_of(configuration, depth_of_runs.loc[own.index], own).items():
            if estimate.n:
                position = {"position": bin_index * width + (width - 1) / 2, "width": width}
                position["n_seeds"] = n_seeds[configuration.key]
                rows.append(naming(configuration, sweep.marked) | position | estimate.columns("depth"))
    return pd.DataFrame(rows)


def _depth_of_runs(sweep: Sweep, run_ids: pd.Series, width: int, progress: Progress) -> np.ndarray:
    """Return mean depth as runs × bins; NaN where a run has no decided token in a bin."""
    assert sweep.final_layer is not None
    index = pd.Index(run_ids)
    depth, n = np.zeros((len(index), MAX_BINS)), np.zeros((len(index), MAX_BINS))
    rows = sweep.tokens.count_rows()
    read = 0
    for batch in sweep.tokens.to_batches(columns=["run_id", "position", "decided", "exit_layer"]):
        run = index_of_runs(batch, index)
        bin_index = np.asarray(batch.column("position")) // width
        layer = np.asarray(batch.column("exit_layer").fill_null(-1))
        decided = np.asarray(batch.column("decided").cast("uint8")).astype(bool)
        used = decided & (run >= 0) & (bin_index < MAX_BINS) & (layer >= 0)
        where = run[used], bin_index[used]
        np.add.at(depth, where, (layer[used] + 1) / (sweep.final_layer + 1))
        np.add.at(n, where, 1)
        read += len(batch)
        progress(f"aggregating tokens: {read:,} of {rows:,}")
    with np.errstate(invalid="ignore"):
        return depth / n
