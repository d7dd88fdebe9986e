"""An actor that dies or can't load is replaced, and its uncommitted runs are done by another."""

import io
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
import scripted
from driving import actor_pids, alone, assert_complete, assert_undisturbed, drive, wait_until
from scripted import TOKENS_PER_RUN, sweep_of

from eexit.results.store.commit import RunCounts


@pytest.mark.usefixtures("ray_here")
def test_what_died_once_is_done_again(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, "one", "die once", "three", "four")
    assert drive(config, tmp_path / "out").errors == 0
    assert (tmp_path / "died").exists()
    assert set(assert_complete(config, tmp_path / "out").status) == {"ok"}


@pytest.mark.usefixtures("local_ray")
def test_invariant_6_every_run_is_there_once_though_actors_die(tmp_path: Path) -> None:
    """The first is killed in the middle of a shard, and then a run ends the process of whoever does it."""
    config = sweep_of(tmp_path, *["sleep 0.03"] * 36, "die", "sleep 0.03", modes=["normal"])
    killed: list[int] = []
    done: Counter[str] = Counter()

    def kill() -> None:
        wait_until(lambda: len(marks(tmp_path)) > 3)
        killed.extend(actor_pids(tmp_path))
        os.kill(killed[0], signal.SIGKILL)
        done.update(marks(tmp_path))

    killer = threading.Thread(target=kill)
    killer.start()
    tally = drive(config, tmp_path / "out", actors=1)
    killer.join()
    assert killed
    assert tally == RunCounts(runs=38, errors=1, tokens=37 * TOKENS_PER_RUN)
    errors = alone(assert_complete(config, tmp_path / "out"), "die")
    assert "the process that did it died: The actor is dead because its worker process has died." in errors.error.item()
    again = Counter(marks(tmp_path))
    assert any(again[run_id] > n for run_id, n in done.items()), "what was done when it was killed is done again"


def marks(folder: Path) -> list[str]:
    """The runs that were done, each as often as that was."""
    return [path.name.split("-")[1] for path in folder.glob("did-*")]


@pytest.mark.usefixtures("ray_here")
def test_an_actor_that_cannot_load_later_stops_nothing(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *map(str, range(8)), "die once", *map(str, range(20)))
    log = io.StringIO()
    assert drive(config, tmp_path / "out", scripted.loadable_twice, log=log).errors == 0
    assert any(tmp_path.glob("tried-*"))
    assert "an actor could not load the model: model 'nowhere' can't be found" in log.getvalue()
    assert_undisturbed(config, tmp_path / "out")


@pytest.mark.usefixtures("ray_here")
def test_prompts_that_kill_their_process_next_to_each_other_stop_nothing(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["die"] * 4, *map(str, range(4)), modes=["normal"])
    drive(config, tmp_path / "out", rows=2)
    assert len(alone(assert_complete(config, tmp_path / "out"), "die")) == 4
