"""Finished sweeps that are committed without Ray, with a model's texts or with a test's rows."""

from collections.abc import Callable, Mapping, Sequence
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
    model, layers, _ = look_here(config, 1)
    runs = list(plan_runs(config))[leave_out:]
    failed, done = ([run for run in runs if (run.prompt.id == "failed") == fails] for fails in (True, False))
    if failed:
        commit(open_store(out), failed, error_results(failed, config, "no"))
    if done:
        commit(open_store(out), done, ModelGenerator(config, "cpu").generate(done))
    return _with_manifest(out, config, model, layers)


def land_rows(
    out: Path, config: SweepConfig, columns: Callable[[Run], Mapping[str, Any]] = lambda run: {}, leave_out: int = 0
) -> Path:
    """Commit the rows of scripted runs, with these columns replaced."""
    runs = list(plan_runs(config))[leave_out:]
    commit(open_store(out), runs, rows_of(runs, config, columns))
    return _with_manifest(out, config, {"name": config.model, "n_layers": 30, "dtype": "float32"}, [5])


def _with_manifest(out: Path, config: SweepConfig, model: Mapping[str, Any], layers: Sequence[int]) -> Path:
    open_store(out).publish(MANIFEST, encode_manifest(make_manifest(config, model, layers)))
    return out
