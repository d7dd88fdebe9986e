"""The main results of a sweep, as sentences."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pandas as pd

from eexit.messages.wording import counted
from eexit.messages.written import percent, written
from reports.read.parameters import representatives
from reports.read.sweep import Sweep

SAMPLED: Final = (
    "Tokens are sampled in this sweep, but compared with full depth's most likely token, so that normal disagrees too."
)
FEW: Final = 3  # pairs of mode and rule; with more of them, each gets a shorter sentence
SEVERAL: Final = 6  # with more pairs than this, each mode gets one sentence


def findings(trade: pd.DataFrame, paired: pd.DataFrame, sampled: bool = False) -> list[str]:
    """One sentence on how often tokens differ from those of full depth, then one sentence per mode and rule.

    Each mode and rule is described at its representative parameter, and each number has its interval and n. `paired`
    compares with `normal`. `sampled` means that tokens were sampled rather than decoded greedily. With more than `FEW`
    pairs of mode and rule there is one shorter sentence for each pair, and no other; with more than `SEVERAL`, one for
    each mode, without intervals.
    """
    rows = representatives(trade[trade["exit_rate"].notna()]) if len(trade) else []
    if len(rows) > SEVERAL:
        modes = dict.fromkeys(row["mode"] for row in rows)
        in_modes = [_of_mode(mode, [row for row in rows if row["mode"] == mode]) for mode in modes]
        return in_modes + ([SAMPLED] if sampled else [])
    if len(rows) > FEW:
        return [_in_short(row) for row in rows] + ([SAMPLED] if sampled else [])
    return [*_how_often(rows, sampled), *(_what_it_does(row, paired) for row in rows)]


def _how_often(rows: list[dict[Any, Any]], sampled: bool) -> Iterator[str]:
    comparable = [row for row in rows if is_known(row["disagreement"])]
    if not comparable:
        return
    n = max(row["disagreement_n"] for row in comparable)
    shares = [
        f"on {with_interval(row | {'n': n}, 'disagreement')} of "
        f"{'those' if index else 'the decided tokens'} of {row['shown_as']}{_beside_control(row)}{_but_in_a_loop(row)}"
        for index, row in enumerate(comparable)
    ]
    n_prompts = counted(n, "prompt")
    said = f"Full depth, given the same text, would have said something else {_listed(shares)} (n = {n_prompts})."
    yield f"{said} {SAMPLED}" if sampled else said


def _beside_control(row: Mapping[Any, Any]) -> str:
    control = row.get("disagreement_control")
    return f" ({percent(control)} for its control, with random exits at the same depths)" if is_known(control) else ""


def _but_in_a_loop(row: Mapping[Any, Any]) -> str:
    """What a low disagreement hides: full depth, given a loop, goes on with it."""
    return f" (but {percent(row['loop_share'])} of its text is one loop)" if row["looping"] else ""


def _in_short(row: Mapping[Any, Any]) -> str:
    parts = []
    if is_known(row["layers_skipped"]):
        parts.append(f"would skip {with_interval(row, 'layers_skipped')} of the layers")
    if is_known(row["disagreement"]):
        share = with_interval(row, "disagreement")
        aside = _beside_control(row) + _but_in_a_loop(row)
        parts.append(f"says something else than full depth on {share} of decided tokens{aside}")
    parts = parts or [f"exits early on {with_interval(row, 'exit_rate', '.0%')} of tokens"]
    return f"{row['shown_as']} {_listed(parts)} (n = {counted(row['n'], 'prompt')})."


def _of_mode(mode: str, rows: list[dict[Any, Any]]) -> str:
    """Each rule of a mode at its representative parameter, those of the lowest disagreement first.

    Those that write loops come last: their disagreement is low only because full depth, given a loop, goes on with it.
    """
    parts: list[str] = []
    looping = False
    for row in sorted(
        rows,
        key=lambda row: (row["looping"], row["disagreement"] if is_known(row["disagreement"]) else math.inf),
    ):
        layers = percent(row["layers_skipped"]) if is_known(row["layers_skipped"]) else "an unknown share"
        words = [row["shown_as"].removeprefix(f"{mode}/")]
        words += [layers] if parts else ["would skip", layers, "of the layers"]
        if is_known(row["disagreement"]):
            words += ["at", percent(row["disagreement"]), *([] if parts else ["disagreement"])]
        control = row.get("disagreement_control")
        words += [f"(its control: {percent(control)})"] if is_known(control) else []
        share = percent(row["loop_share"])
        words += [f"(one loop: {share})" if looping else f"(but {share} of the text is one loop)"] * row["looping"]
        looping = row["looping"]
        parts.append(" ".join(words))
    n = counted(max(row["n"] for row in rows), "prompt")
    return f"{mode}: {', '.join(parts)} (n = {n}; intervals: in the table of the first chart)."


def _what_it_does(row: dict[Any, Any], paired: pd.DataFrame) -> str:
    parts = [f"exits early on {with_interval(row, 'exit_rate', '.0%')} of tokens"]
    if is_known(row["layers_skipped"]):
        parts.append(f"would skip {with_interval(row, 'layers_skipped')} of the layers")
    if is_known(row["tokens_until_difference"]):
        first = with_interval(row, "tokens_until_difference", ".0f")
        parts.append(f"matches normal for its first {first} token{'' if first == '1' else 's'} on average")
    pair = paired[paired["configuration"] == row["configuration"]] if len(paired) else paired
    if len(pair) and is_known(pair.iloc[0]["perplexity"]):
        ratio = with_interval(pair.iloc[0].to_dict() | {"n": row["n"]}, "perplexity", ".2f")
        parts.append(f"has {ratio} times normal's perplexity{_but_in_a_loop(row)}")
    return f"{row['shown_as']} {_listed(parts)} (n = {counted(row['n'], 'prompt')})."


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def is_sampled(sweep: Sweep) -> bool:
    """Whether tokens were sampled, rather than decoded greedily."""
    return bool(sweep.about.get("config", {}).get("temperature"))


def with_interval(row: Mapping[Any, Any], name: str, form: str = ".1%") -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    fewer = "" if row[f"{name}_n"] == row["n"] else f" (n = {row[f'{name}_n']})"
    interval = f" [{written(low, form)}, {written(high, form)}]" if is_known(low) else ""
    return written(row[name], form) + interval + fewer


def is_known(value: Any) -> bool:
    return value is not None and math.isfinite(value)
