"""Texts with tokens coloured by exit layer, and a result table, as HTML for a notebook."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import repeat
from typing import Any, Final

import pyarrow as pa

from eexit.output.palette import exit_colours, ink_on
from eexit.output.result_table import SOFT_HYPHEN, ResultTable

MOST_PROMPTS: Final = 3  # prompts whose texts are shown
CELL: Final = "padding: 2px 8px; vertical-align: top"
LEFT: Final = f"{CELL}; text-align: left; white-space: pre-wrap"


def texts_as_html(
    prompts: Sequence[Mapping[str, Any]], runs: Iterable[tuple[Mapping[str, Any], pa.Table]], layers: Sequence[int]
) -> str:
    """Return the first prompts, each with the coloured texts of its runs by configuration, and a legend.

    `runs` are rows of `generations` with columns `token` and `exit_layer` of their tokens. `layers` are the exitable
    layers and the final one, which has no colour.
    """
    colours = dict(zip(layers[:-1], exit_colours(len(layers)), strict=False))
    rows: dict[str, list[str]] = {}
    for run, tokens in runs:
        cells = _cell("th", run["configuration"], LEFT), f'<td style="{LEFT}">{_coloured(tokens, colours)}</td>'
        rows.setdefault(run["prompt_id"], []).append(f"<tr>{''.join(cells)}</tr>")
    texts = [
        f'<p style="{LEFT}">{escape(prompt["prompt"])}</p><table>{"".join(rows.get(prompt["id"], []))}</table>'
        for prompt in prompts[:MOST_PROMPTS]
    ]
    if len(prompts) > MOST_PROMPTS:
        texts.append(f"<p>and {len(prompts) - MOST_PROMPTS:,} more prompts, which report() shows</p>")
    legend = [f'<span style="{_ink(colour)}; padding: 0 6px">{layer}</span>' for layer, colour in colours.items()]
    return f"{''.join(texts)}<p>exited after layer {' '.join(legend)}, or not before the final one ({layers[-1]})</p>"


def table_as_html(table: ResultTable) -> str:
    """Return a result table with its caption below."""
    styles = [f"{CELL}; text-align: {column.justify}" for column in table.columns]
    heads = [str(column.header).replace(SOFT_HYPHEN, "").replace("-\n", "-") for column in table.columns]
    rows = zip(*([*map(str, column.cells)] for column in table.columns), strict=True)
    body = [f"<tr>{''.join(map(_cell, repeat('td'), cells, styles))}</tr>" for cells in rows]
    head = "".join(map(_cell, repeat("th"), heads, styles))
    caption = f'<p style="max-width: 60em">{escape(str(table.caption))}</p>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{caption}"


def _cell(kind: str, text: str, style: str) -> str:
    return f'<{kind} style="{style}">{escape(text)}</{kind}>'


def _coloured(tokens: pa.Table, colours: Mapping[int, str]) -> str:
    spans = []
    for token, layer in zip(tokens["token"].to_pylist(), tokens["exit_layer"].to_pylist(), strict=True):
        style = f' style="{_ink(colours[layer])}"' if layer in colours else ""
        spans.append(f'<span title="layer {layer}"{style}>{escape(token)}</span>')
    return "".join(spans)


def _ink(colour: str) -> str:
    return f"background: {colour}; color: {ink_on(colour)}"
