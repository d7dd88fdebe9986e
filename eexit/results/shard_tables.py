"""The interface of a generator, which turns runs into tables that are ready for Parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from eexit.plan.config import SweepConfig
from eexit.plan.runs import ERROR, Run
from eexit.results.tables import GENERATIONS, TOKENS


@dataclass(frozen=True)
class Results:
    """The tables of some runs, with the schemas `tables.GENERATIONS` and `tables.TOKENS`."""

    generations: pa.Table
    tokens: pa.Table


class OnProgress(Protocol):
    """What a generator tells of its progress."""

    def __call__(self, tokens: int, runs: int = 0) -> None:
        """So many tokens were generated, and so many runs have ended, since the last call."""


class Generator(Protocol):
    """Anything that can do runs. A run that fails becomes an error row in the results, never an exception."""

    def generate(self, runs: Sequence[Run], progress: OnProgress) -> Results:
        """Do the runs together; calls `progress` now and then."""
        ...


def error_results(runs: Sequence[Run], config: SweepConfig, error: str) -> Results:
    """The results of runs that failed: rows with the reason, and null for everything that was not generated."""
    rows = [{**run_columns(run, config), "status": ERROR, "error": error} for run in runs]
    return Results(pa.Table.from_pylist(rows, GENERATIONS), TOKENS.empty_table())


def run_columns(run: Run, config: SweepConfig) -> dict[str, object]:
    """The columns of a generations row that do not depend on how the run went."""
    return {
        "run_id": run.run_id,
        "prompt_id": run.prompt.id,
        "prompt": run.prompt.prompt,
        "answer": run.prompt.answer,
        **run.configuration.columns,
        "readout": config.readout,
        "seed": run.seed,
        "model": config.model,
    }
