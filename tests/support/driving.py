"""Driver of a sweep of scripted runs in a test, and checks of its results."""

import io
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import scripted
from pandas.testing import assert_frame_equal
from scripted import TOKENS_PER_RUN, rows_of

from cluster.actor import MakeGenerator, model_generator
from cluster.sweep import run_job
from cluster.sweep_job import SweepJob
from eexit.output.display import PlainDisplay
from eexit.plan.model_inspection import ModelFacts, inspect_model
from eexit.plan.runs import plan_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.store.commit import RunCounts


def drive(
    config: SweepConfig,
    out: Path | str,
    make_generator: MakeGenerator = scripted.scripted,
    rows: int = 9,
    actors: int | None = 2,
    cpus: float = 1,
    log: io.StringIO | None = None,
    **others: Any,
) -> RunCounts:
    """Run a sweep on `actors` actors of `cpus` CPUs each, with scripted generators; return the tally of this call."""
    look = others.pop("look", inspect_model if make_generator is model_generator else scripted.look)
    job = SweepJob(config=config, out=str(out), actors=actors, cpus_per_actor=cpus, rows_per_shard=rows, **others)
    return run_job(job, PlainDisplay(log or io.StringIO(), every=1), make_generator, look).tally


def look_here(config: SweepConfig, rows: int) -> ModelFacts:
    """Return a model's facts, read in this process, which has imported torch anyway."""
    from eexit.plan.exit_layers import resolve_exitable_layers
    from eexit.plan.model_description import describe_model

    model = describe_model(config)
    return asdict(model), resolve_exitable_layers(config, model.n_layers), None


def assert_complete(config: SweepConfig, out: Path) -> pd.DataFrame:
    """Assert that each planned run is there once, with its tokens, and nothing else; return the generations."""
    generations = pd.read_parquet(out / "generations")
    tokens = pd.read_parquet(out / "tokens")
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


def alone(generations: pd.DataFrame, prompt: str) -> pd.DataFrame:
    """Return the rows of `prompt`, and assert that no other rows are errors."""
    errors = generations[generations.status == "error"]
    assert set(errors.prompt) == {prompt}
    assert len(errors) == (generations.prompt == prompt).sum()
    return errors


def actor_pids(folder: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in folder.glob("loaded-*")]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)
