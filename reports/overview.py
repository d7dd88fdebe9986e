"""The overview: findings in words, charts with their rows, and the tables that say the same."""

import math
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from reports import charts, frames
from reports.sweep import NORMAL, Sweep


def findings(sweep: Sweep) -> list[str]:
    """One sentence per mode, at its KL factor nearest to 1, each number with its interval and n."""
    trade, paired = frames.trade_off(sweep), frames.paired_differences(sweep)
    sentences = []
    for mode in dict.fromkeys(c.mode for c in sweep.configurations if c.mode != NORMAL):
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


def overview_charts(sweep: Sweep) -> list[dict[str, Any]]:
    """Those that the sweep has numbers for, in the page's order; `static` ones are in the file as SVG too."""
    trade, dose = frames.trade_off(sweep), frames.dose_response(sweep)
    mix, depth = frames.exit_mix(sweep), frames.depth_by_position(sweep)
    found: list[dict[str, Any]] = []

    def add(key: str, title: str, caption: str, chart: Any, rows: pd.DataFrame, columns: tuple, **more: Any) -> None:
        # Neither Altair's address of the schema nor its configuration: the page brings the theme.
        spec = {name: part for name, part in chart.to_dict().items() if name not in ("$schema", "config")}
        described = {"key": key, "title": title, "caption": caption, "spec": spec, "table": table(rows, columns)}
        found.append(described | more)

    skipping = trade[trade["layers_skipped"].notna()] if len(trade) else trade
    for y, title, y_title, caption in _TRADE_OFFS:
        if len(skipping) and skipping[y].notna().any():
            chart = charts.trade_off_chart(skipping, y, y_title, f"{title}: one point per configuration. {caption}")
            add(f"trade-{y}", title, caption, chart, skipping, TRADE_OFF, static=True)
    if len(mix) and mix["share"].notna().any():
        add("mix", "Where tokens exit", _MIX, charts.exit_mix_chart(mix, f"Stacked bars. {_MIX}"), mix, MIX, wide=True)
    for y, title in (("exit_rate", "Early exits"), ("mean_depth", "Mean depth")):
        if len(dose) and dose.loc[dose["kl_factor"].notna(), y].notna().any():
            chart = charts.dose_chart(dose, y, title, f"{title} against the KL factor. {_DOSE}")
            add(f"dose-{y}", f"{title} by KL factor", _DOSE, chart, dose, DOSE)
    if len(depth):
        factors = sorted({c.kl_factor for c in sweep.configurations if c.kl_factor is not None})
        first = min(factors, key=lambda k: abs(k - 1), default=None)
        chart = charts.depth_chart(depth, f"Depth along the text. {_DEPTH}")
        choice = {"label": "KL factor", "values": factors, "first": first}
        add("depth", "Depth by token position", _DEPTH, chart, depth, DEPTH, wide=True, choice=choice)
    return found


_TRADE_OFFS: Final = (
    (
        "perplexity",
        "Quality against layers skipped",
        "Perplexity under full depth",
        "Down and right is better. Perplexity of the text under the full-depth model. Labels are KL factors.",
    ),
    (
        "tokens_until_difference",
        "Fidelity against layers skipped",
        "Tokens until first difference",
        "Up and right is better. How many tokens match the normal run before the first that differs.",
    ),
)
_MIX: Final = "Share of tokens read at each layer, for each configuration."
_DOSE: Final = "Dashed: normal."
_DEPTH: Final = "Band: interval over prompts. Towards the end only prompts with long texts are left; see n."


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
