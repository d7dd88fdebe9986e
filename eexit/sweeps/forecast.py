"""How much work a sweep is, before it starts: runs, tokens, memory, and the time of a step where it was measured."""

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import gettempdir
from typing import Any

from eexit.output.text import format_bytes, pluralize, with_weights
from eexit.plan.configuration import NORMAL
from eexit.plan.model_inspection import CHARACTERS_PER_TOKEN, MemoryEstimate, characters
from eexit.plan.runs import configurations, count_different_runs, count_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.parquet_files import DamagedError
from eexit.results.store.folder import open_store
from eexit.results.study_tables import TIMINGS


def forecast_lines(
    config: SweepConfig, rows_per_shard: int, model: Mapping[str, Any], memory: MemoryEstimate | None, out: str
) -> dict[str, str]:
    """Return the known lines by name, as `--dry-run` and the start of a sweep in a notebook show them.

    `model` is the model's description, and `memory` that of a process that runs shards.
    """
    n_runs, n_configurations, n_seeds = count_runs(config), len(configurations(config)), len(config.seeds)
    n_prompts, rows = len(config.prompts), min(rows_per_shard, n_runs)
    sizes = ((n_prompts, "prompt"), (n_configurations, "configuration"), (n_seeds, "seed"))
    product, n_different = " × ".join(pluralize(n, what) for n, what in sizes), count_different_runs(config)
    repeats = f"; {n_different:,} are different, others being the same for every seed or mode"
    n_new = sum(map(config.limit_of, config.prompts)) * n_configurations * n_seeds
    prompt_tokens = math.ceil(sum(characters(config)) / CHARACTERS_PER_TOKEN)
    parts = memory.parts if memory else ()
    lines = {
        "runs": f"{n_runs:,} = {product}{repeats if n_different < n_runs else ''}",
        "shards": f"about {math.ceil(n_runs / rows):,} of up to {pluralize(rows, 'run')}",
        "tokens": f"up to {n_new:,} new ones, {config.most_new_tokens:,} a run; prompts have about {prompt_tokens:,}",
        "memory": f"about {memory}" if memory else "",
        "weights": "a layer {}, the head {}".format(*map(format_bytes, parts)) if parts else "",
        "step": step_at_full_depth(out, model),
    }
    return {name: text for name, text in lines.items() if text}


def step_at_full_depth(out: str, model: Mapping[str, Any]) -> str:
    """Return the times of a full-depth decode step, from this model's latest timings in `out` or a sibling folder."""
    rows: list[dict[str, Any]] = []
    beside = Path(out).expanduser().parent
    has_results = "://" not in out and beside != Path(gettempdir())  # where other programs' folders are
    for folder in sorted(beside.glob(f"*/{TIMINGS.name}")) if has_results else ():
        with suppress(DamagedError, OSError):
            rows += [{**row, "folder": folder.parent} for row in TIMINGS.rows(open_store(folder.parent))]
    rows = [row for row in rows if (row["configuration"], row["model"]) == (NORMAL, model["name"])]
    if not (rows := [row for row in rows if row["dtype"] == model["dtype"] + with_weights(model.get("quantization"))]):
        return ""
    latest = max(rows, key=lambda row: row["started"])
    seconds: dict[int, list[float]] = {}
    for row in rows:
        if (row["folder"], row["started"]) == (latest["folder"], latest["started"]):
            seconds.setdefault(row["batch"], []).append(row["seconds"] * row["batch"] / row["tokens"])
    times = ", ".join(f"{pluralize(n, 'sequence')} {1e3 * median(seconds[n]):.1f} ms" for n in sorted(seconds))
    return f"{times}, at full depth ({latest['folder']}: {latest['machine']}, {latest['dtype']})"
