"""Faults to expect on preemptible machines, with real processes: no run is lost, and none lands twice.

Drivers and actors that are killed, and rows that are the same bit for bit, are in `tests/support/chaos.py`.
"""

import os
import signal
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import scripted
from driving import actor_pids, alone, assert_complete, assert_undisturbed, drive, wait_until
from psutil import pid_exists
from scripted import sweep_of

from eexit.errors import SweepStopped
from eexit.plan.runs import count_runs
from eexit.results.store.commit import survey
from eexit.results.store.folder import open_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def test_a_run_that_hangs_becomes_the_one_error_row(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, "one", "two", "hang", "four", "five", modes=["normal"])
    drive(config, tmp_path / "out", rows=3, timeout=8)  # in which the others move on a busy machine too
    errors = alone(assert_complete(config, tmp_path / "out"), "hang")
    assert errors.error.item() == "timed out: not done after 8 seconds (--timeout)"
    wait_until(lambda: not any(map(pid_exists, actor_pids(tmp_path))))


def test_a_timeout_is_no_business_of_runs_that_move_and_what_has_no_memory_is_halved(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["sleep 0.5"] * 8, modes=["normal"])
    drive(config, tmp_path / "out", rows=8, timeout=3, actors=1)  # 4 seconds in all
    assert len(actor_pids(tmp_path)) == 1
    assert_undisturbed(config, tmp_path / "out")
    starved = sweep_of(tmp_path, "one", "two", "starved", "four", "five", "six", modes=["normal"])
    drive(starved, tmp_path / "starved", rows=6, actors=1)  # its process is killed
    assert_undisturbed(starved, tmp_path / "starved")


def test_an_actor_that_freezes_while_it_loads_is_replaced(tmp_path: Path) -> None:
    def freeze() -> None:
        wait_until(lambda: any(tmp_path.glob("slow/*")))
        os.kill(int(next(tmp_path.glob("slow/*")).name), signal.SIGSTOP)

    config, freezer = sweep_of(tmp_path, *"abcd"), threading.Thread(target=freeze)
    freezer.start()
    drive(config, tmp_path / "out", scripted.slow_to_load_once, actors=1, timeout=10)
    freezer.join()
    assert_undisturbed(config, tmp_path / "out")
    wait_until(lambda: not pid_exists(int(next(tmp_path.glob("slow/*")).name)))


def test_actors_that_never_end_loading_stop_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(SweepStopped, match=r"5 failures .* could not load the model: timed out: .* 0.001 sec"):
        drive(sweep_of(tmp_path, *"abcd"), tmp_path / "out", scripted.slow_to_load, actors=1, timeout=0.001)


def test_writes_cut_in_half_stop_the_sweep_and_show_nothing_partial(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = sweep_of(tmp_path, *(f"good {n}" for n in range(4)), "quota once", *map(str, range(30)))
    with pytest.raises(SweepStopped, match=r"5 failures in a row, the last: .*can't be written to: .*File too large"):
        drive(config, out, actors=1)
    files = [path for folder in ("generations", "tokens") for path in (out / folder).iterdir()]
    assert all(pq.ParquetFile(path).read().num_rows for path in files)  # whole, each of them
    assert 0 < len(survey(open_store(out)).done) < count_runs(config)
    drive(config, out)  # other processes, without the quota
    assert_undisturbed(config, out)
