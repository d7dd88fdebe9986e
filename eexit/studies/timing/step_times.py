"""Duration of a decode step by slots and layers run, and the saving that it permits at most.

A step of eight slots takes hardly longer than a step of one, and all slots go through a layer together while any of
them needs it. So the saving of time follows from T(slots, layers) rather than from the share of layers. Steps are timed
with exits of all slots at one layer (rule `fixed`). Exits of slots at different layers save less, since a step goes as
deep as its deepest slot.

Shapes: G exitable layers and the final one.
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
    "A step, in milliseconds, by the sequences decoded together and by the last layer run, at which all of them exit "
    "(medians over rounds)."
)
ALLOWED_CAPTION = (
    "Allowed: what exits as often at each layer as in the sweep's runs of these prompts would save of the time if "
    "deciding were free, nothing were deferred and all sequences exited at the same steps. In time: realised."
)


@dataclass(frozen=True)
class StepTimes:
    """Median seconds of a step, by batch size and last layer run."""

    layers: Sequence[int]  # the exitable ones that were timed, and the final one
    seconds: Mapping[int, Sequence[float]]  # batch size → of each layer

    def allowed(self, batch: int, share_G: Sequence[float]) -> float:
        """Return the saving of time, as a share of a full-depth step, if all slots exit at the same layer in each step.

        `share_G` has the share of steps that end at each layer.
        """
        seconds_G = np.array(self.seconds[batch])
        return 1 - float(np.array(share_G) @ seconds_G) / float(seconds_G[-1])


def step_times(measurements: Iterable[Mapping[str, Any]], n_layers: int) -> StepTimes | None:
    """Return the step times of one call; None unless it has exits at one layer and `normal`."""
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
    """Return True if all tokens exit at the layer that is the rule's parameter."""
    found = RULES.get(rule or "")
    return found is not None and not found.score_name and not found.draws


def step_table(times: StepTimes) -> ResultTable:
    table = ResultTable(STEP_CAPTION)
    table.add("number", "rows", *(f"layer\n{layer}" for layer in times.layers))
    for rows, seconds in times.seconds.items():
        table.add_row(str(rows), *(format_number(1e3 * each, ".1f") for each in seconds))
    return table


def allowed_table(
    measurements: Sequence[Mapping[str, Any]], times: StepTimes, exit_shares: Mapping[str, Mapping[int, float]]
) -> ResultTable:
    """Return the table of permitted, run and realised savings, for configurations with known exits."""
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
