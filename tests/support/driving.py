"""Sweeps in a test: of scripted runs by a driver, with checks of their results, and finished ones without Ray."""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import scripted
from pandas.testing import assert_frame_equal
from scripted import TOKENS_PER_RUN, RunColumns, rows_of

from cluster.actor import MakeGenerator, model_generator
from cluster.sweep import run_job
from cluster.sweep_job import SweepJob
from eexit.output.display import PlainDisplay
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.model_description import describe_model
from eexit.plan.model_inspection import ModelFacts, inspect_model
from eexit.plan.runs import plan_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import MANIFEST, encode_manifest
from eexit.results.shard_tables import error_results
from eexit.results.store.commit import RunCounts, commit
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import make_manifest
from eexit.sweeps.generator import ModelGenerator


def drive(
    config: SweepConfig, out: Path | str, make_generator: MakeGenerator = scripted.scripted, rows: int = 9,
    actors: int | None = 2, cpus: float = 1, log: io.StringIO | None = None, **others: Any,
) -> RunCounts:  # fmt: skip
    """Run a sweep on `actors` actors of `cpus` CPUs each, with scripted generators; return the tally of this call."""
    look = others.pop("look", inspect_model if make_generator is model_generator else scripted.look)
    job = SweepJob(config=config, out=str(out), actors=actors, cpus_per_actor=cpus, rows_per_shard=rows, **others)
    return run_job(job, PlainDisplay(log or io.StringIO(), every=1), make_generator, look).tally


def look_here(config: SweepConfig, rows: int) -> ModelFacts:
    """Return a model's facts, read in this process, which has imported torch anyway, without a check of artefacts."""
    model = describe_model(config)
    return asdict(model), resolve_exitable_layers(config, model.n_layers), None


def assert_complete(config: SweepConfig, out: Path) -> pd.DataFrame:
    """Assert that each planned run is there once, with its tokens, and nothing else; return the generations."""
    generations, tokens = (pd.read_parquet(out / table) for table in ("generations", "tokens"))
    assert sorted(generations.run_id) == sorted(run.run_id for run in plan_runs(config))
    ok = generations[generations.status == "ok"]
    assert sorted(tokens.run_id) == sorted([*ok.run_id] * TOKENS_PER_RUN)
    names = [path.name for folder in ("generations", "tokens") for path in (out / folder).iterdir()]
    assert all(name.endswith(".parquet") and not name.startswith(".") for name in names)
    return generations


def assert_undisturbed(config: SweepConfig, out: Path) -> None:
    """Assert that the results are complete, and equal row for row to an undisturbed sweep's."""
    assert_complete(config, out)
    expected = rows_of(list(plan_runs(config)), config)
    assert_same(pd.read_parquet(out / "generations"), expected.generations.to_pandas(), ["run_id"])
    assert_same(pd.read_parquet(out / "tokens"), expected.tokens.to_pandas(), ["run_id", "position"])


def assert_same(one: pd.DataFrame, other: pd.DataFrame, key: list[str]) -> None:
    """Assert that both have the same rows in any order."""
    frames = [frame.sort_values(key).reset_index(drop=True) for frame in (one, other)]
    assert_frame_equal(frames[0], frames[1], check_dtype=False)


def assert_same_results(one: Path, other: Path, **how: Any) -> None:
    """Assert that two sweeps have the same rows in any order, each once, by `assert_frame_equal` with these options."""
    for table, key in {"generations": ["run_id"], "tokens": ["run_id", "position"]}.items():
        rows, others = (pd.read_parquet(out / table).sort_values(key, ignore_index=True) for out in (one, other))
        assert not rows.duplicated(key).any()
        assert_frame_equal(rows, others, **how)


def alone(generations: pd.DataFrame, prompt: str) -> pd.DataFrame:
    """Return the rows of `prompt`, and assert that no other rows are errors."""
    errors = generations[generations.status == "error"]
    assert set(errors.prompt) == {prompt}
    assert len(errors) == (generations.prompt == prompt).sum()
    return errors


def actor_pids(folder: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in folder.glob("loaded-*")]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


def land_all(out: Path, config: SweepConfig) -> Path:
    """Commit the texts of the configuration's model; the runs of a prompt with id `failed` are errors."""
    model, layers, _ = look_here(config, 1)
    failed, done = (
        [run for run in plan_runs(config) if (run.prompt.id == "failed") == fails] for fails in (True, False)
    )
    if failed:
        commit(open_store(out), failed, error_results(failed, config, "no"))
    if done:
        commit(open_store(out), done, ModelGenerator(config, "cpu").generate(done))
    return _with_manifest(out, config, model, layers)


def land_rows(out: Path, config: SweepConfig, columns: RunColumns = lambda run: {}, leave_out: int = 0) -> Path:
    """Commit the rows of scripted runs, with these columns replaced."""
    runs = list(plan_runs(config))[leave_out:]
    commit(open_store(out), runs, rows_of(runs, config, columns))
    return _with_manifest(out, config, {"name": config.model, "n_layers": 30, "dtype": "float32"}, [5])


def _with_manifest(out: Path, config: SweepConfig, model: Mapping[str, Any], layers: Sequence[int]) -> Path:
    open_store(out).publish(MANIFEST, encode_manifest(make_manifest(config, model, layers)))
    return out
