"""Every planned run lands exactly once, whatever happens to the processes that do them."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import scripted
from scripted import TOKENS_PER_RUN, sweep_of

from cluster.actor import MakeGenerator
from cluster.breaker import SweepStopped
from cluster.driver import Driver
from cluster.landing import Tally, clear_debris, landed, remove_errors
from cluster.lease import hold
from cluster.manifest import NAME
from cluster.pool import Pool
from cluster.progress import Lines
from cluster.shards import cut
from cluster.store import open_store
from eexit.config import SweepConfig, UsageError
from eexit.plan import count_runs, plan_runs


def drive(
    config: SweepConfig,
    out: Path,
    make_generator: MakeGenerator = scripted.scripted,
    rows: int = 9,
    actors: int = 2,
    log: io.StringIO | None = None,
    timeout: float | None = None,
    cpus: float = 1,
) -> Tally:
    store = open_store(out)
    store.publish(NAME, b"{}")
    with hold(store) as lease:
        clear_debris(store)
        done = landed(store)
        remove_errors(store)
        driver = Driver(
            config,
            str(out),
            cut(plan_runs(config), done, rows),
            count_runs(config),
            len(done),
            [Pool(actors, cpus, 0)],
            Lines(log or io.StringIO(), every=1),
            lease,
            timeout=timeout,
            make_generator=make_generator,
        )
        return driver.drive()


def assert_complete(config: SweepConfig, out: Path) -> pd.DataFrame:
    """Each planned run once, each with its tokens, nothing else in the folders; returns the generations."""
    generations = pd.read_parquet(out / "generations")
    tokens = pd.read_parquet(out / "tokens")
    assert sorted(generations.run_id) == sorted(run.run_id for run in plan_runs(config))
    ok = generations[generations.status == "ok"]
    assert sorted(tokens.run_id) == sorted([*ok.run_id] * TOKENS_PER_RUN)
    names = [path.name for folder in ("generations", "tokens") for path in (out / folder).iterdir()]
    assert all(name.endswith(".parquet") and not name.startswith(".") for name in names)
    return generations


def alone(generations: pd.DataFrame, prompt: str) -> pd.DataFrame:
    """The rows of `prompt`, when they are all the errors there are."""
    errors = generations[generations.status == "error"]
    assert set(errors.prompt) == {prompt}
    assert len(errors) == (generations.prompt == prompt).sum()
    return errors


@pytest.mark.usefixtures("local_ray")
def test_every_run_lands_once(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *(f"prompt {index}" for index in range(12)), seeds=(0, 1))
    log = io.StringIO()
    assert drive(config, tmp_path / "out", log=log) == Tally(runs=216, errors=0, tokens=216 * TOKENS_PER_RUN)
    assert_complete(config, tmp_path / "out")
    assert "216/216 runs" in log.getvalue().splitlines()[-1]


@pytest.mark.usefixtures("local_ray")
def test_actors_that_find_no_room_hold_nothing_up(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *(f"prompt {index}" for index in range(5)))
    drive(config, tmp_path / "out", actors=4)
    assert_complete(config, tmp_path / "out")


@pytest.mark.usefixtures("local_ray")
def test_runs_that_raise_become_error_rows_and_their_neighbours_are_done(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, "one", "raise", "three", "four")
    tally = drive(config, tmp_path / "out", rows=18)
    errors = alone(assert_complete(config, tmp_path / "out"), "raise")
    assert set(errors.error) == {"RuntimeError: no such luck"}
    assert (tally.runs, tally.errors) == (36, 9)


@pytest.mark.usefixtures("local_ray")
def test_a_run_that_kills_its_process_becomes_the_one_error_row(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, "one", "die", "three", "four", modes=["normal"])
    drive(config, tmp_path / "out", rows=2)
    errors = alone(assert_complete(config, tmp_path / "out"), "die")
    assert len(errors) == 1
    assert "the process that did it died" in errors.error.item()


@pytest.mark.usefixtures("local_ray")
def test_what_died_once_is_done_again(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, "one", "die once", "three", "four")
    assert drive(config, tmp_path / "out").errors == 0
    assert (tmp_path / "died").exists()
    assert set(assert_complete(config, tmp_path / "out").status) == {"ok"}


@pytest.mark.usefixtures("local_ray")
def test_an_actor_killed_mid_shard_is_replaced(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["sleep 0.03"] * 8)
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: len(list(tmp_path.glob("did-*"))) > 3)
        killed.extend(actor_pids(tmp_path))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    tally = drive(config, tmp_path / "out", actors=1)
    killer.join()
    assert killed
    assert tally.errors == 0
    assert_complete(config, tmp_path / "out")
    assert len(list(tmp_path.glob("did-*"))) > count_runs(config)  # some runs were done again


@pytest.mark.usefixtures("local_ray")
def test_a_model_that_cannot_load_stops_the_sweep_with_its_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model 'nowhere' can't be found"):
        drive(sweep_of(tmp_path, "one", "two"), tmp_path / "out", scripted.unloadable, actors=1)
    assert len(list(tmp_path.glob("tried-*"))) == 1


@pytest.mark.usefixtures("local_ray")
def test_a_place_that_can_no_longer_be_written_to_stops_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(SweepStopped, match=r"5 failures in a row, the last: .*can't be written to"):
        drive(sweep_of(tmp_path, "block", *"bcdefg"), tmp_path / "out", actors=1)
    assert not (tmp_path / "out" / "generations").exists()


@pytest.mark.usefixtures("local_ray")
def test_a_sweep_that_only_fails_stops(tmp_path: Path) -> None:
    with pytest.raises(SweepStopped, match="10 prompts failed and none worked, the last: RuntimeError: no such luck"):
        drive(sweep_of(tmp_path, *["raise"] * 20), tmp_path / "out")


@pytest.mark.usefixtures("local_ray")
def test_errors_are_tried_again_by_the_next_sweep(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, "one", "raise", "three")
    drive(config, tmp_path / "out", rows=18)
    tally = drive(config, tmp_path / "out", rows=18)
    assert (tally.runs, tally.errors) == (9, 9)
    alone(assert_complete(config, tmp_path / "out"), "raise")


def test_a_killed_driver_goes_on_where_it_stopped(tmp_path: Path, ray_environment: dict[str, str]) -> None:
    config = sweep_of(tmp_path, *["sleep 0.05"] * 8)
    script = Path(__file__).with_name("drive_script.py")
    command = [sys.executable, str(script), str(tmp_path), str(tmp_path / "out")]
    environment = {**os.environ, **ray_environment}
    first = subprocess.Popen(command, env=environment)
    wait_until(lambda: len(list((tmp_path / "out" / "generations").glob("*.parquet"))) >= 2)
    first.kill()
    first.wait()
    wait_until(lambda: not any(map(is_alive, actor_pids(tmp_path))))  # no orphans
    before = len(landed(open_store(tmp_path / "out")))
    assert 0 < before < count_runs(config)
    done_before = {path.name for path in tmp_path.glob("did-*")}
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert_complete(config, tmp_path / "out")
    assert len({path.name for path in tmp_path.glob("did-*")} - done_before) <= count_runs(config) - before


def actor_pids(folder: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in folder.glob("loaded-*")]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)
