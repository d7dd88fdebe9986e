"""Finished sweeps that are committed without Ray, with a model's texts or with a test's rows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from driving import look_here
from scripted import rows_of

from eexit.plan.runs import Run, plan_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import MANIFEST, encode_manifest
from eexit.results.shard_tables import error_results
from eexit.results.store.commit import commit
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import make_manifest
from eexit.sweeps.generator import ModelGenerator


def land_all(out: Path, config: SweepConfig, leave_out: int = 0) -> Path:
    """Commit the texts of the configuration's model; the runs of a prompt with id `failed` are errors."""
    store, runs = open_store(out), list(plan_runs(config))[leave_out:]
    model, layers, _ = look_here(config, 1)
    store.publish(MANIFEST, encode_manifest(make_manifest(config, model, layers)))
    failed, done = ([run for run in runs if (run.prompt.id == "failed") == fails] for fails in (True, False))
    if failed:
        commit(store, failed, error_results(failed, config, "no"))
    if done:
        commit(store, done, ModelGenerator(config, "cpu").generate(done))
    return out


def land_rows(
    out: Path, config: SweepConfig, columns: Callable[[Run], Mapping[str, Any]] = lambda run: {}, leave_out: int = 0
) -> Path:
    """Commit the rows of scripted runs, with these columns replaced."""
    store, runs = open_store(out), list(plan_runs(config))[leave_out:]
    commit(store, runs, rows_of(runs, config, columns))
    store.publish(
        MANIFEST,
        encode_manifest(make_manifest(config, {"name": config.model, "n_layers": 30, "dtype": "float32"}, [5])),
    )
    return out
