"""The overview: findings in words, charts with their rows, and the tables that say the same.

A chart is `{key, title, caption, variants: [{label, spec, rows?}], choice?, table: {columns, rows}}`; a variant without
rows has the table's.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pandas as pd

from reports import charts, frames
from reports.progress import Progress, ignore
from reports.sweep import NORMAL, Sweep


def findings(trade: pd.DataFrame, paired: pd.DataFrame) -> list[str]:
    """One sentence per mode, at its KL factor nearest to 1, each number with its interval and n."""
    sentences = []
    for mode in dict.fromkeys(mode for mode in trade.get("mode", []) if mode != NORMAL):
        rows = trade[(trade["mode"] == mode) & (trade["n"] > 0) & trade["kl_factor"].notna()]
        if rows.empty:
            continue
        row = rows.iloc[(rows["kl_factor"].astype(float) - 1).abs().argmin()].to_dict()
        parts = [f"exits early on {_said(row, 'exit_rate', '{:.0%}')} of tokens"]
        if _known(row["layers_skipped"]):
            parts.append(f"does without {_said(row, 'layers_skipped', '{:.1%}')} of the layers in theory")
        if _known(row["tokens_until_difference"]):
            parts.append(f"reads like normal for {_said(row, 'tokens_until_difference', '{:.0f}')} tokens")
        pair = paired[paired["configuration"] == row["configuration"]] if len(paired) else paired
        if len(pair) and _known(pair.iloc[0]["perplexity"]):
            parts.append(f"has {_said(pair.iloc[0].to_dict(), 'perplexity', '{:.2f}')} times normal's perplexity")
        sentences.append(f"{row['configuration']} " + ", ".join(parts) + f" (n = {many(row['n'], 'prompt')}).")
    return sentences


TRADE_OFF: Final = (
    ("configuration", "Configuration", "text"),
    ("n", "n prompts", "count"),
    ("n_failed", "Failed runs", "count"),
    ("layers_skipped", "Layers not needed (theoretical)", "share"),
    ("exit_rate", "Early exits", "share"),
    ("perplexity", "Perplexity", "real"),
    ("tokens_until_difference", "Same as normal until", "real"),
    ("lcs_share", "Common subsequence", "share"),
    ("distinct_2", "Distinct 2-grams", "share"),
)
DOSE: Final = (
    ("configuration", "Configuration", "text"),
    ("kl_factor", "KL factor", "real"),
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
    ("distinct_2", "Distinct 2-grams, difference", "points"),
    ("longest_loop", "Longest loop, difference in tokens", "change"),
    ("n_tokens", "Tokens, difference", "change"),
)


def overview_charts(
    sweep: Sweep, trade: pd.DataFrame, paired: pd.DataFrame, progress: Progress = ignore
) -> list[dict[str, Any]]:
    """Those that the sweep has numbers for, in the page's order; `static` ones are in the file as SVG too."""
    return [
        *_trade_offs(trade[trade["layers_skipped"].notna()] if len(trade) else trade),
        *_mix(sweep, frames.exit_mix(sweep)),
        *_doses(frames.dose_response(trade)),
        *_depth(sweep, frames.depth_by_position(sweep, progress)),
        *_paired(paired),
    ]


def page_charts(sweep: Sweep) -> dict[str, Any]:
    """Specifications of the charts whose rows the page makes itself."""
    labels = list(frames.layer_labels(sweep).values())
    return {
        "heat": charts.specification(charts.heat_chart("One number of every run, prompts by configurations.")),
        "strip": charts.specification(charts.strip_chart(labels, "Exit layer at every position, one row per run.")),
        "mix": charts.specification(
            charts.exit_mix_chart(labels, "Share of decided tokens", "Share of tokens read at each layer, by run.")
        ),
    }


def _trade_offs(trade: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for y, title, y_title, caption in _TRADE_OFFS:
        if len(trade) and trade[y].notna().any():
            chart = charts.trade_off_chart(trade, y, y_title, f"{title}: one point per configuration. {caption}")
            yield _chart(f"trade-{y}", title, caption, [("", chart)], trade, TRADE_OFF) | {"static": True}


def _mix(sweep: Sweep, mix: pd.DataFrame) -> Iterator[dict[str, Any]]:
    if len(mix) and mix["share"].notna().any():
        mix = mix.assign(name=mix["configuration"])
        labels = list(frames.layer_labels(sweep).values())
        chart = charts.exit_mix_chart(labels, "Share of decided tokens (mean over prompts)", f"Stacked bars. {_MIX}")
        yield _chart("mix", "Where tokens exit", _MIX, [("", chart)], mix, MIX) | {"wide": True}


def _doses(dose: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for y, title in (("exit_rate", "Early exits"), ("mean_depth", "Mean depth")):
        if len(dose) and dose.loc[dose["kl_factor"].notna(), y].notna().any():
            chart = charts.dose_chart(dose, y, title, f"{title} against the KL factor. {_DOSE}")
            yield _chart(f"dose-{y}", f"{title} by KL factor", _DOSE, [("", chart)], dose, DOSE)


def _depth(sweep: Sweep, depth: pd.DataFrame) -> Iterator[dict[str, Any]]:
    if depth.empty:
        return
    factors = sorted({c.kl_factor for c in sweep.configurations if c.kl_factor is not None})
    chart = charts.depth_chart(depth, f"Depth along the text. {_DEPTH}")
    found = _chart(
        "depth", "Depth by token position", _DEPTH, [(f"{k:g}", chart) for k in factors or [0]], depth, DEPTH
    )
    for k, variant in zip(factors, found["variants"], strict=False):
        variant["rows"] = clean(depth[depth["kl_factor"].isna() | (depth["kl_factor"] == k)].to_dict("records"))
    first = min(range(len(factors)), key=lambda i: abs(factors[i] - 1), default=0)
    yield found | {"wide": True, "choice": "KL factor", "first": first}


def _paired(paired: pd.DataFrame) -> Iterator[dict[str, Any]]:
    measures = [m for m in _MEASURES if len(paired) and paired[m[0]].notna().any()]
    drawn = [
        (label, charts.paired_chart(paired, x, x_title, none, f"{label} against normal. {_PAIRED}"))
        for x, label, x_title, none in measures
    ]
    if drawn:
        found = _chart("paired", "Paired differences against normal", _PAIRED, drawn, paired, PAIRED)
        yield found | {"wide": True, "choice": "Of", "first": 0}


def _chart(
    key: str, title: str, caption: str, drawn: list[tuple[str, Any]], rows: pd.DataFrame, columns: tuple
) -> dict[str, Any]:
    variants = [{"label": label, "spec": charts.specification(chart)} for label, chart in drawn]
    return {"key": key, "title": title, "caption": caption, "variants": variants, "table": table(rows, columns)}


_TRADE_OFFS: Final = (
    (
        "perplexity",
        "Quality against layers skipped",
        "Perplexity under full depth",
        "Down and right is better. Perplexity of the text under the full-depth model. Labels are KL factors; click a "
        "point to open that configuration.",
    ),
    (
        "tokens_until_difference",
        "Fidelity against layers skipped",
        "Tokens until first difference",
        "Up and right is better. How many tokens match the normal run before the first that differs.",
    ),
)
_MEASURES: Final = (
    ("perplexity", "Perplexity", "Perplexity, as a multiple of normal's", 1.0),
    ("distinct_2", "Distinct 2-grams", "Distinct 2-grams, difference (fraction)", 0.0),
    ("longest_loop", "Longest loop", "Longest loop, difference in tokens", 0.0),
    ("n_tokens", "Tokens", "Tokens, difference", 0.0),
)
_MIX: Final = "Share of tokens read at each layer, for each configuration."
_DOSE: Final = "Dashed: normal."
_DEPTH: Final = "Band: interval over prompts. Towards the end only prompts with long texts are left; see n."
_PAIRED: Final = "Each prompt against its own normal run of the same seed. Dashed: no difference."


def table(frame: pd.DataFrame, columns: tuple[tuple[str, str, str], ...]) -> dict[str, Any]:
    """Rows with every column (the chart reads them too) and which of them the table twin shows."""
    shown = [
        {"key": key, "label": label, "form": form}
        for key, label, form in columns
        if key in frame and frame[key].notna().any()
    ]
    return {"columns": shown, "rows": clean(frame.to_dict("records"))}


def clean(value: Any) -> Any:
    """JSON has no NaN and no infinity: null. NumPy's numbers become Python's."""
    if isinstance(value, dict):
        return {key: clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def many(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _said(row: Mapping[Any, Any], name: str, form: str) -> str:
    interval = f" [{form}, {form}]".format(row[f"{name}_low"], row[f"{name}_high"])
    return form.format(row[name]) + (interval if _known(row[f"{name}_low"]) else "")


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)
