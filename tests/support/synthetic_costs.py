"""What the runs of a synthetic sweep cost, and how long they would take: made up, but in the proportions of a small
model with a large vocabulary, whose head costs as much as eight layers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from eexit.method.rules import ONLINE
from eexit.plan.configuration import COLUMNS, GENERATE, NORMAL, Configuration, Exit
from eexit.results.store.folder import open_store
from eexit.results.study_tables import TIMINGS

LAYER: Final = 3.5e6  # multiply-adds for one token
HEAD: Final = 28e6
KEYS: Final = 0.2e6  # keys and values of one layer alone
STEP_SECONDS: Final = {1: 8e-3, 8: 2e-3}  # batch → what a token takes besides its multiply-adds
PER_SECOND: Final = {1: 5e9, 8: 15e9}  # batch → multiply-adds


def run_costs(configuration: Configuration, layers_n: np.ndarray, ranks_n: np.ndarray, n_layers: int) -> dict[str, Any]:
    """The cost columns of a run. `layers_n` are the exit layers of its decided tokens, `ranks_n` their exit ranks."""
    n, n_run = len(layers_n), int((layers_n + 1).sum())
    full = n * (n_layers * LAYER + HEAD)
    needed = {"cost_full": full, "cost_needed": full}
    layers, keys, reads = n * n_layers, 0, n
    if isinstance(configuration, Exit):
        needed = {"cost_full": full, "cost_needed": n_run * LAYER + n * HEAD}
        if configuration.is_oracle:
            return needed
        if configuration.state != "unfrozen":
            layers, keys = n_run, n * n_layers - n_run
        if configuration.rule in ONLINE and ONLINE[configuration.rule].reads:
            reads += int(ranks_n.sum())
    run = layers * LAYER + reads * HEAD + keys * KEYS
    return needed | {"cost_run": run, "layers_run": layers, "head_reads": reads, "keys_written": keys}


def write_synthetic_timings(
    folder: Path, generations: Sequence[dict[str, Any]], batches: Sequence[int] = (1, 8), rounds: int = 5
) -> None:
    """Timings of every configuration of these runs but the oracles, and of transformers' `generate`."""
    draw = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    of: dict[str, list[dict[str, Any]]] = {}
    for run in generations:
        if run.get("cost_run") is not None:
            of.setdefault(run["configuration"], []).append(run)
    for batch in batches:
        for number in range(1, rounds + 1):
            for key, runs in of.items():
                identity = {name: runs[0][name] for name in COLUMNS}
                costs = {name: sum(run[name] for run in runs) for name in ("cost_full", "cost_needed", "cost_run")}
                tokens = sum(run["n_tokens"] - 1 for run in runs)
                rows.append(identity | costs | _measurement(draw, batch, number, tokens, costs["cost_run"], len(runs)))
                if key == NORMAL:
                    timed = _measurement(draw, batch, number, tokens, 1.25 * costs["cost_full"], len(runs))
                    rows.append({"configuration": GENERATE} | timed)
    TIMINGS.publish(open_store(folder), "0" * 32, [{"started": 1_770_000_000_000_000} | row for row in rows])


def _measurement(
    draw: np.random.Generator, batch: int, number: int, tokens: int, cost: float, prompts: int
) -> dict[str, Any]:
    seconds = (tokens * STEP_SECONDS[batch] + cost / PER_SECOND[batch]) * float(np.exp(0.02 * draw.normal()))
    return {
        "batch": batch, "round": number, "prompts": prompts, "tokens": tokens, "seconds": seconds, "device": "cpu",
        "machine": "Synthetic CPU", "threads": 2, "versions": "none", "model": "synthetic", "dtype": "float32",
    }  # fmt: skip
