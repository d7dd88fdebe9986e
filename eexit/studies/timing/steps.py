"""How long a step takes, by rows and by layers run, and what that lets exits save at most.

A step of eight rows takes hardly longer than one of a single row, and layers are run as long as any row needs them. So
what exits save of the time follows from T(rows, layers), not from the share of layers: it is measured by having all
rows exit at one layer (rule `fixed`). One row is always timed, and so is one row less than what is asked about.

Rows that leave each for itself (*independent*) are what settings are held against. It is no bound: rows that leave at
the same steps (*together*) are saved whole steps, and may gain several times as much.

Shapes: G exitable layers and then the final one, K numbers of rows, from 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import binom

from eexit.method.rules import RULES
from eexit.output.result_table import ResultTable
from eexit.output.text import percent, written
from eexit.plan.configuration import NORMAL, short_name
from eexit.studies.timing.speedups import speedups

STEP_CAPTION = (
    "A step, in milliseconds, by the rows that are decoded together and by the last layer that is run, at which all "
    "rows exit (medians over rounds)."
)
ALLOWED_CAPTION = (
    "Allowed: what exits as often at each layer as in the sweep's runs of these prompts would save of the time if "
    "deciding were free and nothing were deferred. Independent rows leave one by one, and layers are run for those "
    "that go on; rows that leave together all leave at the same steps. In time: realised."
)


@dataclass(frozen=True)
class StepTimes:
    """Median seconds of a step, by batch size and by the last layer that is run."""

    layers: Sequence[int]  # the exitable ones that were timed, and the final one
    seconds: Mapping[int, Sequence[float]]  # batch size → of each layer

    def of(self, layer: int) -> np.ndarray:
        """By number of rows from 0 to the largest batch, (K,): between sizes that were timed, on a straight line. No
        rows take no time, and one row was timed.
        """
        at = self.layers.index(layer)
        n_rows = sorted(self.seconds)
        found: np.ndarray = np.interp(
            np.arange(n_rows[-1] + 1), [0, *n_rows], [0, *(self.seconds[rows][at] for rows in n_rows)]
        )
        return found

    def together(self, batch: int, share_G: Sequence[float]) -> float:
        """What is saved of a step at full depth if all rows exit at the same layer, which has these chances."""
        seconds_G = np.array(self.seconds[batch])
        return 1 - float(np.array(share_G) @ seconds_G) / float(seconds_G[-1])

    def independent(self, batch: int, share_G: Sequence[float]) -> float:
        """What is saved of it by rows that exit at these layers with these chances, each for itself."""
        reach_G = np.cumsum(share_G[::-1])[::-1].clip(max=1)
        expected, before_K = 0.0, np.zeros(batch + 1)
        for layer, reach in zip(self.layers, reach_G, strict=True):
            after_K = self.of(layer)[: batch + 1]
            expected += float(binom.pmf(np.arange(batch + 1), batch, reach) @ (after_K - before_K))
            before_K = after_K
        return 1 - expected / self.seconds[batch][-1]


def step_times(measurements: Iterable[Mapping[str, Any]], n_layers: int) -> StepTimes | None:
    """From the measurements of one timing; None if exits at one layer or `normal` were not timed in it, or not with one
    row: what so few rows take is never taken from what more of them take.
    """
    found: dict[tuple[int, int], list[float]] = {}
    for row in measurements:
        layer = int(row["parameter"]) if exits_at_one_layer(row["rule"]) else n_layers - 1
        if layer < n_layers - 1 or row["configuration"] == NORMAL:
            found.setdefault((row["batch"], layer), []).append(row["seconds"] * row["batch"] / row["tokens"])
    batches, layers = (sorted({key[at] for key in found}) for at in (0, 1))
    is_whole = len(layers) > 1 and len(found) == len(batches) * len(layers) and layers[-1] == n_layers - 1
    if not is_whole or batches[0] != 1:
        return None
    return StepTimes(layers, {rows: [median(found[rows, layer]) for layer in layers] for rows in batches})


def exits_at_one_layer(rule: str | None) -> bool:
    """Whether all tokens exit at the layer that is the rule's parameter."""
    found = RULES.get(rule or "")
    return found is not None and not found.sees and not found.draws


def step_batches(asked: Sequence[int]) -> list[int]:
    """The batch sizes at which steps are timed, where these are asked about: also one row, and one row less than each,
    since most steps that exits shorten run so many.
    """
    return sorted({1, *asked, *(rows - 1 for rows in asked if rows > 1)})


def step_table(times: StepTimes) -> ResultTable:
    table = ResultTable(STEP_CAPTION)
    table.add("number", "rows", *(f"layer\n{layer}" for layer in times.layers))
    for rows, seconds in times.seconds.items():
        table.add_row(str(rows), *(written(1e3 * each, ".1f") for each in seconds))
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
    table.add("number", "layers\nskipped", "by what\nwas run", "independent\nrows", "rows\ntogether", "in\ntime")
    for speedup in speedups(measurements):
        shares = exit_shares.get(speedup.configuration, {})
        if shares and set(shares) <= set(times.layers) and speedup.run is not None:
            share_G = [shares.get(layer, 0.0) for layer in times.layers]
            skipped = 1 - sum(share * (layer + 1) for layer, share in shares.items()) / (times.layers[-1] + 1)
            allowed = times.independent(speedup.batch, share_G), times.together(speedup.batch, share_G)
            numbers = [skipped, speedup.run, *allowed, speedup.realised]
            table.add_row(str(speedup.batch), speedup.configuration, *map(percent, numbers))
    return table
