"""The results of each configuration of a sweep, as numbers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.landing import read_columns
from cluster.store import Store
from eexit.configuration import Configuration
from eexit.evaluation import log_perplexity, mean_perplexity
from eexit.schema import ERROR, GENERATIONS, OK

KEYS = ("parameter", "kl_factor", "seed")
MEASURES = tuple(
    field.name
    for field in GENERATIONS
    if any(of(field.type) for of in (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean))
    and field.name not in KEYS
)


def figures(store: Store, configurations: Sequence[Configuration]) -> list[dict[str, Any]]:
    """For each configuration its runs, errors, and the mean over its runs of each measure of `GENERATIONS`.

    A mean is None if no run has the measure, or if it is not finite. The mean of `correct` is the accuracy, and that of
    `perplexity` is geometric (`eexit.evaluation.mean_perplexity`).
    """
    generations = read_columns(store, ["status", "configuration", *MEASURES])
    return [_of_configuration(configuration, generations) for configuration in configurations]


def outcomes(configuration: Configuration, generations: pa.Table) -> tuple[int, int, pa.Table]:
    """How many runs of a configuration there are, how many of them are errors, and the rows of those that are not."""
    runs = generations.filter(pc.field("configuration") == configuration.key)
    n_errors = runs.filter(pc.field("status") == ERROR).num_rows
    return runs.num_rows, n_errors, runs.filter(pc.field("status") == OK)


def _of_configuration(configuration: Configuration, generations: pa.Table) -> dict[str, Any]:
    n_runs, n_errors, done = outcomes(configuration, generations)
    return {
        **configuration.columns,
        "runs": n_runs,
        "errors": n_errors,
        "means": {name: mean_of(name, done) for name in MEASURES},
    }


def mean_of(measure: str, runs: pa.Table) -> float | None:
    """The mean of a measure over runs; None if no run has it, or if it is not finite."""
    known = runs[measure].drop_null()
    if measure == "perplexity" and len(known):
        mean = mean_perplexity(float(np.mean(log_perplexity(known.to_numpy()))))
    else:
        mean = pc.mean(known).as_py()
    return mean if mean is not None and math.isfinite(mean) else None
