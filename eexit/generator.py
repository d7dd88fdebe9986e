"""A loaded generator: runs in, Parquet-ready tables out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from eexit.config import SweepConfig
from eexit.plan import Run
from eexit.schema import ERROR, GENERATIONS, TOKENS


@dataclass(frozen=True)
class Results:
    """What some runs left: `schema.GENERATIONS` and `schema.TOKENS` tables."""

    generations: pa.Table
    tokens: pa.Table


class Generator(Protocol):
    """Anything that can do runs. A run that can't be done is an error row in the results, never an exception."""

    def generate(self, runs: Sequence[Run], progress: Callable[[int], None]) -> Results:
        """Do the runs together; calls `progress` now and then with the number of tokens made since the last call."""
        ...


def error_results(runs: Sequence[Run], config: SweepConfig, error: str) -> Results:
    """The rows of runs that could not be done: the reason, and null for everything that was not made."""
    rows = [{**run_columns(run, config), "status": ERROR, "error": error} for run in runs]
    return Results(pa.Table.from_pylist(rows, GENERATIONS), TOKENS.empty_table())


def run_columns(run: Run, config: SweepConfig) -> dict[str, object]:
    """What a generations row says of its run whatever came of it."""
    return {
        "run_id": run.run_id,
        "prompt_id": run.prompt.id,
        "prompt": run.prompt.prompt,
        **run.configuration.columns,
        "readout": config.readout,
        "seed": run.seed,
        "model": config.model,
    }
