"""The table that ends an evaluation on tasks: configuration × task × metric."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.table import Table

CAPTION = (
    "Values as the lm-evaluation-harness computes them, ± standard error over documents. Depth: the mean of "
    "(exit layer + 1) / L over the decided tokens, if any; it says which layers the exits need, not what was saved."
)
HEADINGS = ("configuration", "seed", "task", "n-shot", "metric", "filter", "value", "stderr", "n", "depth")


def scores_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A line for each configuration, seed, task, metric and filter, with a section for each configuration."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=CAPTION, caption_justify="left")
    for heading in HEADINGS:
        is_text = heading in ("configuration", "task", "metric", "filter")
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    last = None
    for row in rows:
        if last not in (None, row["configuration"]):
            table.add_section()
        last = row["configuration"]
        table.add_row(
            row["configuration"], str(row["seed"]), row["task"], _said(row["n_shot"], "d"), _arrow(row) + row["metric"],
            row["filter"], _said(row["value"], ".4f"), _said(row["stderr"], ".4f"), _said(row["n"], ",d"),
            _said(row["mean_depth"], ".3f"),
        )  # fmt: skip
    return table


def _arrow(row: Mapping[str, Any]) -> str:
    """Which way is better, as in the harness's own tables."""
    return {True: "↑ ", False: "↓ ", None: ""}[row["higher_is_better"]]


def _said(number: float | None, form: str) -> str:
    return "–" if number is None else format(number, form)
