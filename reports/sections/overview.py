"""The overview's charts with their rows, and a table of each chart's numbers."""

from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from reports.charts import base as charts
from reports.charts.styles import Looks
from reports.frames import runs as frames
from reports.frames.savings import Savings
from reports.progress import Progress, ignore
from reports.read.parameters import parameter_name, representatives
from reports.read.sweep import Sweep
from reports.sections.figures import Figure, Slice, Variant, basis, one
from reports.sections.trade_off import trade_off_figures

DOSE: Final = (
    ("configuration", "Configuration", "text"),
    ("rule", "Rule", "text"),
    ("parameter", "Parameter", "real"),
    ("n", "n prompts", "count"),
    ("exit_rate", "Early exits", "share"),
    ("mean_depth", "Mean depth", "share"),
)
MIX: Final = (
    ("configuration", "Configuration", "text"),
    ("layer", "Exit layer", "text"),
    ("n", "n prompts", "count"),
    ("share", "Share of decided tokens", "share"),
)
DEPTH: Final = (
    ("configuration", "Configuration", "text"),
    ("position", "Position", "count"),
    ("depth_n", "n prompts", "count"),
    ("depth", "Mean depth", "share"),
)
_MIX: Final = "Share of tokens read at each layer, mean over prompts; a click opens the configuration."


def overview_charts(
    sweep: Sweep, trade: pd.DataFrame, savings: Savings | None, progress: Progress = ignore
) -> list[dict[str, Any]]:
    """The charts that the sweep has numbers for, in the page's order. `static` ones are also in the file as SVG."""
    looks = Looks.of(sweep.configurations)
    figures = [
        *trade_off_figures(sweep, trade, savings, looks),
        *_mix(sweep, frames.exit_mix(sweep)),
        *_doses(frames.dose_response(trade), looks),
        *_depth(frames.depth_by_position(sweep, progress), trade, looks),
    ]
    return [figure.data for figure in figures]


def page_charts(sweep: Sweep) -> dict[str, Any]:
    """Specifications of the charts whose rows the page's own scripts compute."""
    labels = list(frames.layer_labels(sweep).values())
    return {
        "heat": charts.specification(charts.heat_chart("One number of every run, prompts by configurations.")),
        "strip": charts.specification(charts.strip_chart(labels, "Exit layer at every position, one row per run.")),
        "mix": charts.specification(
            charts.exit_mix_chart(labels, "Share of decided tokens", "Share of tokens read at each layer, by run.")
        ),
    }


def _mix(sweep: Sweep, mix: pd.DataFrame) -> Iterator[Figure]:
    if len(mix) and mix["share"].notna().any():
        mix = mix.assign(name=mix["shown_as"])
        labels = list(frames.layer_labels(sweep).values())
        caption = f"{_MIX} {basis(mix, 'share', 'In the table')}"
        chart = charts.exit_mix_chart(labels, "Share of decided tokens", f"Stacked bars. {caption}")
        yield Figure("mix", "Where tokens exit", caption, one(chart), mix, MIX, wide=True)


def _doses(dose: pd.DataFrame, looks: Looks) -> Iterator[Figure]:
    """Two charts, each with a variant per rule that has a numeric parameter; each variant has its own axis."""
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
                chart = charts.dose_chart(dose, rule, y, f"{title} (fraction of {unit})", description, looks)
                variants.append(Variant(f"{rule}{looks.mark(rule)}: {name}", chart))
            yield Figure(f"dose-{y}", f"{title} by {by}", caption, variants, dose, DOSE, choice="Rule")


def _depth(depth: pd.DataFrame, trade: pd.DataFrame, looks: Looks) -> Iterator[Figure]:
    """Depth along the text of all modes under one rule and parameter, with `normal` for comparison."""
    if depth.empty:
        return
    shrinks = "Towards the end only prompts with long texts are left. " if depth["depth_n"].nunique() > 1 else ""
    caption = shrinks + basis(depth, "depth", "Bands")
    chart = charts.depth_chart(depth, f"Depth along the text. {caption}", looks)
    settings = [setting for setting in trade["setting"].dropna().unique() if setting in set(depth["setting"])]
    standing = [row["setting"] for row in representatives(trade) if row["setting"] in settings]
    first = settings.index(standing[0]) if standing else 0
    by_setting = Slice("Rule and parameter", "setting", settings, first) if settings else None
    yield Figure("depth", "Depth by token position", caption, one(chart), depth, DEPTH, slice=by_setting, wide=True)
