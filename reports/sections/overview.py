"""The overview's charts with their rows, and a table of each chart's numbers.

A chart is `{key, title, caption, variants: [{label, spec, caption?}], choice?, slice?, names?, table: {columns,
rows}}`. Variants draw the same rows in different ways, and the reader chooses one; its own caption, if it has one,
stands in place of the chart's. A slice `{label, key, values, first}` lets the reader
pick one of `values`: the chart then draws the rows with that value, or with none, in column `key`. `names` says that
the rows of the chart have long names.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from eexit.messages.wording import counted
from eexit.plan.configuration import NORMAL
from eexit.quality.bootstrap import LEVEL
from reports.charts import base as charts
from reports.charts.savings import known_savings, saving_caption, saving_chart, saving_columns
from reports.charts.styles import Looks
from reports.charts.trade_off import is_logarithmic, trade_off_chart
from reports.frames import runs as frames
from reports.frames.runs import LAYERS_SKIPPED
from reports.frames.savings import Savings
from reports.progress import Progress, ignore
from reports.read.parameters import labels_are, parameter_name, representatives
from reports.read.sweep import Sweep
from reports.sections.findings.sweep import SAMPLED, is_sampled

# Above this number of configurations, they are compared with the first one and with their controls only, since rows
# grow with the square of the number.
MOST_BASELINES: Final = 20


Columns = tuple[tuple[str, str, str], ...]  # of a table: key, label and form
TRADE_OFF: Final = (
    ("configuration", "Configuration", "text"),
    ("n", "n prompts", "count"),
    ("n_failed", "Failed runs", "count"),
    ("layers_skipped", LAYERS_SKIPPED, "share"),
    ("disagreement", "Disagreement", "share"),
    ("correct", "Accuracy", "share"),
    ("loop_share", "In one loop", "share"),
    ("exit_rate", "Early exits", "share"),
    ("perplexity", "Perplexity", "real"),
    ("tokens_until_difference", "Same as normal until", "real"),
    ("lcs_share", "Common subsequence", "share"),
    ("distinct_2", "Distinct 2-grams", "share"),
)
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
PAIRED: Final = (
    ("configuration", "Configuration", "text"),
    ("n", "n prompts", "count"),
    ("perplexity", "Perplexity, ratio", "real"),
    ("exit_rate", "Early exits, difference", "points"),
    ("mean_depth", "Mean depth, difference", "points"),
    ("disagreement", "Disagreement, difference", "points"),
    ("correct", "Accuracy, difference", "points"),
    ("distinct_2", "Distinct 2-grams, difference", "points"),
    ("longest_loop", "Longest loop, difference in tokens", "change"),
    ("n_tokens", "Tokens, difference", "change"),
)


def overview_charts(
    sweep: Sweep, trade: pd.DataFrame, savings: Savings | None, progress: Progress = ignore
) -> list[dict[str, Any]]:
    """The charts that the sweep has numbers for, in the page's order. `static` ones are also in the file as SVG."""
    looks = Looks.of(sweep.configurations)
    return [
        *_trade_offs(trade[trade["layers_skipped"].notna()] if len(trade) else trade, sweep, looks),
        *(_saves(savings) if savings else []),
        *_mix(sweep, frames.exit_mix(sweep)),
        *_doses(frames.dose_response(trade), looks),
        *_depth(frames.depth_by_position(sweep, progress), trade, looks),
        *_paired(sweep, looks),
    ]


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


def _trade_offs(trade: pd.DataFrame, sweep: Sweep, looks: Looks) -> Iterator[dict[str, Any]]:
    columns = (*TRADE_OFF, *((key, label, "real") for key, label in sweep.scores.items()))
    for y, title, y_title, caption in _TRADE_OFFS:
        if len(trade) and trade[y].notna().any():
            if y == "tokens_until_difference" and is_logarithmic(trade[y]):
                caption += " The axis is logarithmic."
            if y == "disagreement" and is_sampled(sweep):
                caption += f" {SAMPLED}"
            caption = f"{caption} {_reading(trade)}{_basis(trade, y, 'Error bars')}"
            description = f"{title}: one point per configuration. {caption}"
            chart = trade_off_chart(trade, y, y_title, description, looks, share=y == "disagreement")
            limit = {"limit": y} if y == "disagreement" else {}
            yield (
                chart_entry(f"trade-{y}", title, caption, [("", chart)], trade, _second(columns, y))
                | {"static": True}
                | limit
            )
    known = {key: label for key, label in sweep.scores.items() if len(trade) and trade[key].notna().any()}
    if known:
        captions = [f"{_SCORES} {_reading(trade)}{_basis(trade, key, 'Error bars')}" for key in known]
        drawn = [
            (label, trade_off_chart(trade, key, label, f"{label} against layers skipped. {caption}", looks))
            for (key, label), caption in zip(known.items(), captions, strict=True)
        ]
        title = "Scores against layers skipped"
        found = chart_entry("trade-scores", title, captions[0], drawn, trade, _second(columns, *known))
        yield _captioned(found, captions) | {"static": True, "choice": "Score"}


def _saves(savings: Savings) -> Iterator[dict[str, Any]]:
    """What each configuration saves, with a variant per batch size that was measured."""
    if not any(known_savings(savings, each) for each in savings.measured or (None,)):
        return
    caption = " ".join(saving_caption(savings))
    drawn = [
        (each.label if each else "", saving_chart(savings, each, f"Savings of each configuration. {caption}"))
        for each in savings.measured or (None,)
    ]
    found = chart_entry("saves", "What it saves", caption, drawn, savings.rows, tuple(saving_columns(savings)))
    yield found | {"wide": True, "choice": "Measured at", "names": True}


def _reading(trade: pd.DataFrame) -> str:
    """The part of a caption that explains labels, clicks and ticks."""
    labels = labels_are(trade)
    said = f"Means over prompts; {labels}; a click opens the configuration. " if labels else _READING
    return said + (_CONTROLS if trade["beneath"].notna().any() else "")


def _second(columns: Columns, *keys: str) -> Columns:
    """The columns, with those of `keys` moved right after the configuration, where a narrow table shows them too."""
    return tuple(sorted(columns, key=lambda column: (column[0] != "configuration", column[0] not in keys)))


def _mix(sweep: Sweep, mix: pd.DataFrame) -> Iterator[dict[str, Any]]:
    if len(mix) and mix["share"].notna().any():
        mix = mix.assign(name=mix["shown_as"])
        labels = list(frames.layer_labels(sweep).values())
        caption = f"{_MIX} {_basis(mix, 'share', 'In the table')}"
        chart = charts.exit_mix_chart(labels, "Share of decided tokens", f"Stacked bars. {caption}")
        yield chart_entry("mix", "Where tokens exit", caption, [("", chart)], mix, MIX) | {"wide": True}


def _doses(dose: pd.DataFrame, looks: Looks) -> Iterator[dict[str, Any]]:
    """Two charts, each with a variant per rule that has a numeric parameter; each variant has its own axis."""
    rules = dose.loc[dose["parameter"].notna(), "rule"].unique().tolist() if len(dose) else []
    names = list(dict.fromkeys(map(parameter_name, rules)))
    by = names[0] if len(names) == 1 else "parameter"
    for y, title, unit in (("exit_rate", "Early exits", "decided tokens"), ("mean_depth", "Mean depth", "layers")):
        known = [rule for rule in rules if dose.loc[dose["rule"] == rule, y].notna().any()]
        if known:
            dashed = "Dashed: normal. " if dose.loc[dose["rule"].isna(), y].notna().any() else ""
            caption = dashed + _basis(dose, y, "Error bars")
            drawn = [
                (
                    f"{rule}{looks.mark(rule)}: {parameter_name(rule)}",
                    charts.dose_chart(
                        dose,
                        rule,
                        y,
                        f"{title} (fraction of {unit})",
                        f"{title} against the {parameter_name(rule)} of rule {rule}. {caption}",
                        looks,
                    ),
                )
                for rule in known
            ]
            yield chart_entry(f"dose-{y}", f"{title} by {by}", caption, drawn, dose, DOSE) | {"choice": "Rule"}


def _depth(depth: pd.DataFrame, trade: pd.DataFrame, looks: Looks) -> Iterator[dict[str, Any]]:
    """Depth along the text of all modes under one rule and parameter, with `normal` for comparison."""
    if depth.empty:
        return
    shrinks = "Towards the end only prompts with long texts are left. " if depth["depth_n"].nunique() > 1 else ""
    caption = shrinks + _basis(depth, "depth", "Bands")
    chart = charts.depth_chart(depth, f"Depth along the text. {caption}", looks)
    found = chart_entry("depth", "Depth by token position", caption, [("", chart)], depth, DEPTH)
    settings = [setting for setting in trade["setting"].dropna().unique() if setting in set(depth["setting"])]
    if settings:
        standing = [row["setting"] for row in representatives(trade) if row["setting"] in settings]
        first = settings.index(standing[0]) if standing else 0
        found["slice"] = {"label": "Rule and parameter", "key": "setting", "values": settings, "first": first}
    yield found | {"wide": True}


def _paired(sweep: Sweep, looks: Looks) -> Iterator[dict[str, Any]]:
    """Differences from `normal`, from each configuration's control, and from any other unless there are too many."""
    keys = [configuration.key for configuration in sweep.configurations]
    first, *others = sorted(keys, key=lambda key: key != NORMAL) or [NORMAL]
    baselines = [first, frames.CONTROL, *(others if len(keys) <= MOST_BASELINES else [])]
    found = [(key, frames.paired_differences(sweep, key)) for key in baselines]
    paired = pd.concat([frame for _, frame in found] or [pd.DataFrame()], ignore_index=True)
    scores = [(key, label, f"{label}, difference", 0.0) for key, label in sweep.scores.items()]
    measures = [m for m in (*_MEASURES, *scores) if m[0] in paired and paired[m[0]].notna().any()]
    if not measures:
        return
    captions = [f"{_PAIRED} {_basis(paired, x, 'Error bars')}" for x, *_ in measures]
    order = [str(frames.naming(configuration, sweep.marked)["shown_as"]) for configuration in sweep.configurations]
    drawn = [
        (label, charts.paired_chart(paired, x, x_title, none, f"{label}, paired differences. {caption}", order, looks))
        for (x, label, x_title, none), caption in zip(measures, captions, strict=True)
    ]
    against = [key for key, frame in found if len(frame)]
    columns = (*PAIRED, *((key, f"{label}, difference", "change") for key, label in sweep.scores.items()))
    found_chart = chart_entry("paired", "Paired differences", captions[0], drawn, paired, columns)
    yield _captioned(found_chart, captions) | {
        "wide": True,
        "choice": "Metric",
        "slice": {"label": "compared with", "key": "baseline", "values": against, "first": 0},
    }


def _basis(frame: pd.DataFrame, name: str, where: str) -> str:
    """The part of a caption that gives n and the seeds and, if there are intervals, says how they are drawn."""
    n_seeds = frame["n_seeds"].max()
    seeds = f", the mean of up to {n_seeds} seeds each" if n_seeds > 1 else ""
    n = frame.loc[frame[name].notna(), f"{name}_n"]
    count = counted(n.max(), "prompt") if n.min() == n.max() else f"{n.min():,} to {counted(n.max(), 'prompt')}"
    intervals = f"{where}: {LEVEL:.0%} intervals over prompts; " if frame[f"{name}_low"].notna().any() else ""
    return f"{intervals}n = {count}{seeds}."


def _captioned(chart: dict[str, Any], captions: list[str]) -> dict[str, Any]:
    """The chart with a caption for each variant, since each measure has its own n."""
    variants = [variant | {"caption": caption} for variant, caption in zip(chart["variants"], captions, strict=True)]
    return chart | {"variants": variants}


def chart_entry(
    key: str, title: str, caption: str, drawn: list[tuple[str, Any]], rows: pd.DataFrame,
    columns: Columns,
) -> dict[str, Any]:  # fmt: skip
    variants = [{"label": label, "spec": charts.specification(chart)} for label, chart in drawn]
    return {"key": key, "title": title, "caption": caption, "variants": variants, "table": table(rows, columns)}


_TRADE_OFFS: Final = (
    (
        "disagreement",
        "Disagreement against layers skipped",
        "Disagreement (share of decided tokens)",
        "Down and right is better. Disagreement: the share of decided tokens that are not the full-depth model's most "
        "likely token given the same text.",
    ),
    (
        "perplexity",
        "Perplexity against layers skipped",
        "Perplexity under full depth",
        "Down and right is better, but a low perplexity is no proof of quality: a text that repeats itself in a loop "
        "is fluent to the model.",
    ),
    (
        "tokens_until_difference",
        "Fidelity against layers skipped",
        "Tokens until first difference",
        "Up and right is better. The number of tokens before the first one that differs from the normal run. A text "
        "that never differs counts with its whole length, so that no point can be higher than the texts are long.",
    ),
)
_MEASURES: Final = (
    ("perplexity", "Perplexity", "Perplexity, ratio (log scale)", 1.0),
    ("exit_rate", "Early exits", "Early exits, difference (fraction of decided tokens)", 0.0),
    ("mean_depth", "Mean depth", "Mean depth, difference (fraction of layers)", 0.0),
    ("disagreement", "Disagreement", "Disagreement, difference (fraction of decided tokens)", 0.0),
    ("correct", "Accuracy", "Accuracy, difference (fraction of prompts with an answer)", 0.0),
    ("distinct_2", "Distinct 2-grams", "Distinct 2-grams, difference (fraction)", 0.0),
    ("longest_loop", "Longest loop", "Longest loop, difference in tokens", 0.0),
    ("n_tokens", "Tokens", "Tokens, difference", 0.0),
)
_PAIRED: Final = "Each run against the other configuration's run of the same prompt and seed. Dashed: no difference."
_SCORES: Final = "Scores are taken from the file as they are."
_READING: Final = "Means over prompts; a click opens the configuration. "
_CONTROLS: Final = (
    "Dotted line to a tick: the configuration's control, which exits equally often at each layer, but at random "
    "tokens. The longer the line, the more the rule's choice of tokens matters. "
)
_MIX: Final = "Share of tokens read at each layer, mean over prompts; a click opens the configuration."


def table(frame: pd.DataFrame, columns: Columns) -> dict[str, Any]:
    """All rows with all their columns, which the chart reads too, and the columns that the table beside it shows."""
    shown = [
        {"key": key, "label": label, "form": form}
        for key, label, form in columns
        if key in frame and frame[key].notna().any()
    ]
    return {"columns": shown, "rows": clean(frame.to_dict("records"))}


def _exact(parameter: Any) -> float | None:
    return None if parameter is None or math.isnan(parameter) else float(parameter)


def clean(value: Any) -> Any:
    """The value for JSON: NaN and infinity become null, and numbers other than parameters are rounded to six digits."""
    if isinstance(value, dict):
        return {key: _exact(part) if key == "parameter" else clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value
