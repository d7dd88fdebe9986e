"""The table that ends an evaluation on tasks: configuration × task × metric."""

from collections.abc import Iterable, Mapping
from typing import Any

from eexit.output.result_table import ResultTable
from eexit.output.text import written

CAPTION = (
    "Values as the lm-evaluation-harness computes them, ± standard error over documents. Depth: the mean of "
    "(exit layer + 1) / L over the decided tokens, if any; it says which layers the exits need, not what was saved."
)
NUMBERS = {"value": ".4f", "stderr": ".4f", "n": ",.0f", "mean_depth": ".3f"}  # how columns are written


def scores_table(rows: Iterable[Mapping[str, Any]]) -> ResultTable:
    """A line for each configuration, seed, task, metric and filter, with a section for each configuration."""
    rows = list(rows)
    seeds = {row["seed"] for row in rows}
    table = ResultTable(CAPTION + "".join(f" Seed {seed}." for seed in seeds if len(seeds) == 1))
    table.add("key", "configuration")
    table.add("number", *["seed"] * (len(seeds) > 1))
    table.add("name", "task")
    table.add("number", "n-\nshot")
    table.add("name", "metric", "filter")
    table.add("number", "value", "stderr", "n", "depth")
    for row in rows:
        key, seed = row["configuration"], [str(row["seed"])] * (len(seeds) > 1)
        names = [*seed, row["task"], written(row["n_shot"], ",.0f"), _arrow(row) + row["metric"], row["filter"]]
        table.add_in(key, key, *names, *(written(row[name], form) for name, form in NUMBERS.items()))
    return table


def _arrow(row: Mapping[str, Any]) -> str:
    """Which way is better, as in the harness's own tables."""
    return {True: "↑ ", False: "↓ ", None: ""}[row["higher_is_better"]]
