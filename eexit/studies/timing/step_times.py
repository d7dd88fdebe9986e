"""How long a step takes, by rows and by layers run, and what that lets exits save at most.

A step of eight rows takes hardly longer than one of a single row, and all rows go through a layer together, as long as
any row needs it. So what exits save of the time follows from T(rows, layers), not from the share of layers: it is
measured by having all rows exit at one layer (rule `fixed`). No exits save more of it than those of rows that leave at
the same steps: where they leave at different ones, a step goes as deep as the deepest of them.

Shapes: G exitable layers and then the final one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from eexit.method.rules import RULES
from eexit.output.result_table import ResultTable
from eexit.output.text import format_number, percent
from eexit.plan.configuration import NORMAL, short_name
from eexit.studies.timing.speedups import in_time, speedups

STEP_CAPTION = (
    "A step, in milliseconds, by the rows that are decoded together and by the last layer that is run, at which all "
    "rows exit (medians over rounds)."
)
ALLOWED_CAPTION = (
    "Allowed: what exits as often at each layer as in the sweep's runs of these prompts would save of the time if "
    "deciding were free, nothing were deferred and all rows left at the same steps. In time: realised."
)


@dataclass(frozen=True)
class StepTimes:
    """Median seconds of a step, by batch size and by the last layer that is run."""

    layers: Sequence[int]  # the exitable ones that were timed, and the final one
    seconds: Mapping[int, Sequence[float]]  # batch size → of each layer

    def allowed(self, batch: int, share_G: Sequence[float]) -> float:
        """What is saved of a step at full depth if all rows exit at the same layer, which has these chances."""
        seconds_G = np.array(self.seconds[batch])
        return 1 - float(np.array(share_G) @ seconds_G) / float(seconds_G[-1])


def step_times(measurements: Iterable[Mapping[str, Any]], n_layers: int) -> StepTimes | None:
    """From the measurements of one timing; None if exits at one layer or `normal` were not timed in it."""
    found: dict[tuple[int, int], list[float]] = {}
    for row in measurements:
        layer = int(row["parameter"]) if exits_at_one_layer(row["rule"]) else n_layers - 1
        if layer < n_layers - 1 or row["configuration"] == NORMAL:
            found.setdefault((row["batch"], layer), []).append(row["seconds"] * row["batch"] / row["tokens"])
    batches, layers = (sorted({key[at] for key in found}) for at in (0, 1))
    if len(layers) < 2 or len(found) < len(batches) * len(layers) or layers[-1] != n_layers - 1:
        return None
    return StepTimes(layers, {rows: [median(found[rows, layer]) for layer in layers] for rows in batches})


def exits_at_one_layer(rule: str | None) -> bool:
    """Whether all tokens exit at the layer that is the rule's parameter."""
    found = RULES.get(rule or "")
    return found is not None and not found.sees and not found.draws


def step_table(times: StepTimes) -> ResultTable:
    table = ResultTable(STEP_CAPTION)
    table.add("number", "rows", *(f"layer\n{layer}" for layer in times.layers))
    for rows, seconds in times.seconds.items():
        table.add_row(str(rows), *(format_number(1e3 * each, ".1f") for each in seconds))
    return table


def allowed_table(
    measurements: Sequence[Mapping[str, Any]], times: StepTimes, exit_shares: Mapping[str, Mapping[int, float]]
) -> ResultTable:
    """What T(rows, layers) allows beside what was run less and what was realised, of configurations whose exits are
    known.
    """
    table = ResultTable(ALLOWED_CAPTION)
    table.add("number", "rows")
    table.add("key", "configuration", shorten=short_name)
    table.add("number", "layers\nskipped", "by what\nwas run", "allowed", "in\ntime")
    for speedup in speedups(measurements):
        shares = exit_shares.get(speedup.configuration, {})
        if shares and set(shares) <= set(times.layers) and speedup.run is not None:
            share_G = [shares.get(layer, 0.0) for layer in times.layers]
            skipped = 1 - sum(share * (layer + 1) for layer, share in shares.items()) / (times.layers[-1] + 1)
            numbers = [skipped, speedup.run, times.allowed(speedup.batch, share_G)]
            table.add_row(str(speedup.batch), speedup.configuration, *map(percent, numbers), in_time(speedup))
    return table
