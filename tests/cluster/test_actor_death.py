"""An actor that dies or can't load is replaced, and its uncommitted runs are done by another."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from driving import actor_pids, alone, assert_complete, drive, wait_until
from scripted import TOKENS_PER_RUN, sweep_of

from eexit.results.store.commit import RunCounts


@pytest.mark.usefixtures("local_ray")
def test_invariant_6_every_run_is_there_once_though_actors_die(tmp_path: Path) -> None:
    """The first is killed in the middle of a shard, and then a run ends the process of whoever does it."""
    config = sweep_of(tmp_path, *["sleep 0.03"] * 36, "die", "sleep 0.03", modes=["normal"])
    done: Counter[str] = Counter()

    def marks() -> list[str]:
        return [path.name.split("-")[1] for path in tmp_path.glob("did-*")]

    def kill() -> None:
        wait_until(lambda: len(marks()) > 3)
        os.kill(actor_pids(tmp_path)[0], signal.SIGKILL)
        done.update(marks())

    killer = threading.Thread(target=kill)
    killer.start()
    tally = drive(config, tmp_path / "out", actors=1)
    killer.join()
    assert tally == RunCounts(runs=38, errors=1, tokens=37 * TOKENS_PER_RUN)
    errors = alone(assert_complete(config, tmp_path / "out"), "die")
    assert "the process that did it died: The actor is dead because its worker process has died." in errors.error.item()
    again = Counter(marks())
    assert any(again[run_id] > n for run_id, n in done.items()), "what was done when it was killed is done again"
