"""The overview's section "By kind of prompt": each setting compared with full depth, by kind of prompt."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import altair as alt
import pandas as pd
import pyarrow as pa

from eexit.plan.configuration import NORMAL
from eexit.plan.splits import kinds, sampling_units
from eexit.quality.by_kind import COLUMNS, PairedMetrics, by_kind
from eexit.quality.intervals import LEVEL
from reports.read.sweep import Sweep
from reports.shared.charts import (
    ROOM_PIXELS,
    WITHIN_SHARES,
    Columns,
    interval_bars,
    layered,
    rows_of,
    rows_where,
    scale_of,
    with_tooltips,
)
from reports.shared.figures import ChartVariant, Figure, RowFilter
from reports.shared.measures import CUT, CUT_TEXTS
from reports.shared.per_configuration import naming
from reports.shared.styles import ChartStyle

MEASURES: Final = {
    "accuracy": "Accuracy",
    "lost": "Answers lost",
    "disagreement": "Disagreement",
    "saved": "Multiply-adds saved, run",
}
OF_NORMAL: Final = ("accuracy", CUT, "disagreement")  # the others compare a setting with `normal`
KINDS: Final[Columns] = (
    ("kind", "Kind", "text"),
    ("configuration", "Configuration", "text"),
    *((name, label, "share") for name, label in MEASURES.items()),
    (CUT, CUT_TEXTS, "share"),
    ("difference", "Accuracy, beside normal", "points"),
    ("n", "n prompts", "count"),
)
CAPTION: Final = (
    f"Grey square: full depth. Bars: {LEVEL:.0%} intervals over prompts. Lost: the share of prompts whose answer full "
    "depth gets right and the setting wrong."
)
Found = Mapping[str, Mapping[str, PairedMetrics]]  # configuration → kind → comparison


def found_by_kind(sweep: Sweep) -> Found:
    """Return configuration → kind → comparison with `normal`; empty if prompts are of fewer than two kinds."""
    prompts = sweep.config.get("prompts", [])
    kind_of = kinds(prompts)
    if len(set(kind_of.values())) < 2:
        return {}
    runs = sweep.generations[sweep.generations["prompt_id"].isin(kind_of)]
    seeds = runs["seed"].unique().tolist()  # a run for every seed is paired with each seed's
    own = [seeds if is_every else [seed] for seed, is_every in zip(runs["seed"], runs["every_seed"], strict=True)]
    runs = runs.assign(seed=pd.Series(own, runs.index)).explode("seed").astype({"seed": int})
    found = by_kind(pa.Table.from_pandas(runs[list(COLUMNS)], preserve_index=False), kind_of, sampling_units(prompts))
    return {key: found[key] for key in sweep.numbers if key in found}


def kind_figure(sweep: Sweep, found: Found, setting: str | None) -> Figure | None:
    """Return a dot plot of each measure, with a menu of settings that begins with `setting`; None if there is none."""
    settings = [key for key in found if key != NORMAL]
    if not settings:
        return None
    rows, looks = kind_rows(sweep, found), ChartStyle.for_configurations(sweep.configurations)
    first = settings.index(setting) if setting in settings else 0
    known = [name for name in MEASURES if rows.loc[rows["setting"].notna(), name].notna().any()]
    variants = [ChartVariant(MEASURES[name], kind_chart(rows, name, looks)) for name in known]
    menu = RowFilter("Setting", "setting", settings, first)
    return Figure("kinds", "By kind of prompt", CAPTION, variants, rows, KINDS, choice="Measure", slice=menu, wide=True)


def kind_rows(sweep: Sweep, found: Found) -> pd.DataFrame:
    """Return one row per configuration and kind of prompt.

    `setting` is the configuration's key, but None for `normal`, which each chart shows.
    """
    rows = []
    for configuration in sweep.configurations:
        is_normal = configuration.key == NORMAL
        for kind, beside in found.get(configuration.key, {}).items():
            row: dict[str, Any] = naming(configuration, sweep.marked) | {"kind": kind, "row": int(not is_normal)}
            row |= {"setting": None if is_normal else configuration.key, "n": beside.disagreement.n}
            for name in (field.name for field in fields(beside)):
                if not is_normal or name in OF_NORMAL:
                    row |= getattr(beside, name).columns(name)
            rows.append(row)
    return pd.DataFrame(rows)


def kind_chart(frame: pd.DataFrame, name: str, looks: ChartStyle) -> alt.LayerChart:
    """Return a chart with kinds from top to bottom, and in each kind full depth above the setting."""
    title = MEASURES[name]
    scale = scale_of(logarithmic=False, zero=name != "accuracy", padding=ROOM_PIXELS)
    axis = alt.Axis(format="~%", tickCount=8, labelExpr=alt.Undefined if name == "saved" else WITHIN_SHARES)
    x = alt.X(f"{name}:Q", title=title, scale=scale, axis=axis)
    base = rows_where(f"isValid(datum['{name}'])")
    colour, shape = looks.colour(frame, has_legend=False), looks.shape(frame, has_legend=False)
    base = base.encode(y=rows_of("kind"), yOffset=alt.YOffset("row:O"), color=colour)
    told = tuple(each for each in KINDS if each[0] in ("kind", "configuration", name, "n"))
    base, tooltip = with_tooltips(base, told, frame)
    return layered(
        *interval_bars(base.mark_rule(aria=False, strokeWidth=2), frame, name, title, along="x"),
        base.mark_point(filled=True, size=80, cursor="pointer").encode(x=x, shape=shape, tooltip=tooltip),
        description=f"{title} by kind of prompt. {CAPTION}",
        height=alt.Step(30),
    )
