"""How long a step takes, by rows and by layers run, and what that lets exits save at most.

A step of eight rows takes hardly longer than one of a single row, and layers are run as long as any row needs them. So
what exits save of the time is bounded by T(rows, layers), not by the share of layers: it is measured by having all rows
exit at one layer (rule `fixed`).

Shapes: G exitable layers and then the final one, K numbers of rows, from 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import binom

from eexit.messages.result_table import ResultTable
from eexit.messages.written import percent, written
from eexit.method.rules import RULES
from eexit.plan.configuration import NORMAL
from eexit.studies.timing.speedups import speedups

STEP_CAPTION = (
    "A step, in milliseconds, by the rows that are decoded together and by the last layer that is run, at which all "
    "rows exit (medians over rounds)."
)
ALLOWED_CAPTION = (
    "Allowed: what exits as often at each layer as in the sweep's runs of these prompts would save of the time if "
    "deciding were free and nothing were deferred: rows leave one by one, and layers are run for those that go on. In "
    "time: realised."
)


@dataclass(frozen=True)
class StepTimes:
    """Median seconds of a step, by batch size and by the last layer that is run."""

    layers: Sequence[int]  # the exitable ones that were timed, and the final one
    seconds: Mapping[int, Sequence[float]]  # batch size → of each layer

    def of(self, layer: int) -> np.ndarray:
        """By number of rows from 0 to the largest batch, (K,): between batch sizes, on a straight line."""
        at = self.layers.index(layer)
        n_rows = sorted(self.seconds)
        found: np.ndarray = np.interp(
            np.arange(n_rows[-1] + 1), [0, *n_rows], [0, *(self.seconds[rows][at] for rows in n_rows)]
        )
        return found

    def allowed(self, batch: int, share_G: Sequence[float]) -> float:
        """What of a step at full depth is saved by rows that exit at these layers with these chances, each for
        itself."""
        reach_G = np.cumsum(share_G[::-1])[::-1].clip(max=1)
        expected, before_K = 0.0, np.zeros(batch + 1)
        for layer, reach in zip(self.layers, reach_G, strict=True):
            after_K = self.of(layer)[: batch + 1]
            expected += float(binom.pmf(np.arange(batch + 1), batch, reach) @ (after_K - before_K))
            before_K = after_K
        return 1 - expected / self.seconds[batch][-1]


def step_times(measurements: Iterable[Mapping[str, Any]], n_layers: int) -> StepTimes | None:
    """From the measurements of one timing; None if no exits at one layer, or not `normal`, were timed in it."""
    found: dict[tuple[int, int], list[float]] = {}
    for row in measurements:
        rule = RULES.get(row["rule"] or "")
        is_given = rule is not None and not rule.sees and not rule.draws
        if is_given or row["configuration"] == NORMAL:
            layer = int(row["parameter"]) if is_given else n_layers - 1
            found.setdefault((row["batch"], layer), []).append(row["seconds"] * row["batch"] / row["tokens"])
    batches, layers = (sorted({key[at] for key in found}) for at in (0, 1))
    if len(layers) < 2 or len(found) < len(batches) * len(layers) or layers[-1] != n_layers - 1:
        return None
    return StepTimes(layers, {rows: [median(found[rows, layer]) for layer in layers] for rows in batches})


def step_table(times: StepTimes) -> ResultTable:
    table = ResultTable(STEP_CAPTION)
    table.add("number", "rows", *(f"layer\n{layer}" for layer in times.layers))
    for rows, seconds in times.seconds.items():
        table.add_row(str(rows), *(written(1e3 * each, ".1f") for each in seconds))
    return table


def allowed_table(
    measurements: Sequence[Mapping[str, Any]], times: StepTimes, exit_shares: Mapping[str, Mapping[int, float]]
) -> ResultTable:
    """What T(rows, layers) allows beside what was run less and what was realised, of configurations with known
    exits."""
    table = ResultTable(ALLOWED_CAPTION)
    table.add("number", "rows")
    table.add("key", "configuration")
    table.add("number", "layers\nskipped", "by what\nwas run", "allowed", "in\ntime")
    for speedup in speedups(measurements):
        shares = exit_shares.get(speedup.configuration, {})
        if shares and set(shares) <= set(times.layers) and speedup.run is not None:
            share_G = [shares.get(layer, 0.0) for layer in times.layers]
            skipped = 1 - sum(share * (layer + 1) for layer, share in shares.items()) / (times.layers[-1] + 1)
            numbers = [skipped, speedup.run, times.allowed(speedup.batch, share_G), speedup.realised]
            table.add_row(str(speedup.batch), speedup.configuration, *map(percent, numbers))
    return table
