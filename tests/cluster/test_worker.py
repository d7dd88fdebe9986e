"""Actors that are started early, and what they are taken for."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import scripted
from driving import actor_pids, children_named, wait_until
from scripted import sweep_of

from cluster.pool import Pool
from cluster.sweep import run_sweep
from cluster.worker import Hiring
from eexit.messages.progress import Silence
from eexit.plan.config import SweepConfig
from eexit.plan.model_facts import ModelFacts


@pytest.fixture
def no_ray_yet(ray_environment: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_environment.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        assert not ray.is_initialized()
        yield


@pytest.mark.usefixtures("no_ray_yet")
def test_the_first_actor_starts_while_the_model_is_looked_at_and_does_the_runs(tmp_path: Path) -> None:
    early: list[int] = []

    def look(config: SweepConfig, rows: int) -> ModelFacts:
        wait_until(lambda: bool(children_named("SweepActor")))
        early.extend(children_named("SweepActor"))
        return scripted.look(config, rows)

    config, out = sweep_of(str(tmp_path), "one", "two"), tmp_path / "out"
    summary = run_sweep(config, out, make_generator=scripted.scripted, look=look, display=Silence())
    assert summary.errors == 0
    assert len(early) == 1
    assert early[0] in actor_pids(tmp_path), "it has done nothing"


@pytest.mark.usefixtures("local_ray")
def test_an_early_actor_serves_a_pool_of_its_kind_and_ends_where_there_is_none() -> None:
    pool, hiring, arguments = Pool(1, 1, 0), Hiring(scripted.scripted), (sweep_of("m", "one"), "out", "cpu", "lease")

    def early_one() -> Any:
        hiring.start_early(pool)
        assert hiring.early
        return hiring.early[0]

    like = early_one()
    worker = hiring.hire(replace(pool, memory=1_000_000, actors=2), arguments)
    assert worker.handle is like
    worker.kill()
    unlike = early_one()
    worker = hiring.hire(replace(pool, cpus=2), arguments)
    assert worker.handle is not unlike
    worker.kill()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(unlike.progress.remote())
