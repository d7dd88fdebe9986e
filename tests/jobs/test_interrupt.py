"""A running sweep: signals end it cleanly, a second sweep is refused, and no port is open to other machines."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from sweeping import WORK_FOR_MINUTES, assert_stops, below, none_is_left_of, wait_for, why_it_stops

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("interruptible")]


def assert_is_clean(out: Path) -> None:
    """Some of the runs have landed, and nothing else is there."""
    assert 0 < len(pd.read_parquet(out / "generations")) < 1000
    assert sorted(path.name for path in out.iterdir()) == ["generations", "sweep.json", "tokens"]
    names = [path.name for folder in ("generations", "tokens") for path in (out / folder).iterdir()]
    assert not [name for name in names if not name.endswith(".parquet")]


@WORK_FOR_MINUTES
def test_nothing_listens_beyond_this_machine_a_second_sweep_refuses_and_sigterm_ends_the_first_cleanly(
    at_work: subprocess.Popen[str], command: list[str], tmp_path: Path
) -> None:
    ours = [psutil.Process(at_work.pid), *psutil.Process(at_work.pid).children(recursive=True)]
    listening = {
        (connection.laddr.ip, process.name())
        for process in ours
        if process.is_running()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    assert [(ip, name) for ip, name in listening if ip not in loopback] == []
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2
    assert f"is in use by process {at_work.pid} on " in second.stderr
    assert_stops(at_work, signal.SIGTERM)
    assert_is_clean(tmp_path / "out")


def is_looking_at_the_model(process: subprocess.Popen[str], out: Path) -> bool:
    return bool(below(process, "import answer"))


def is_starting_ray(process: subprocess.Popen[str], out: Path) -> bool:
    return bool(below(process, "gcs_server"))


def has_ray_and_no_actor(process: subprocess.Popen[str], out: Path) -> bool:
    return bool(below(process, "RuntimeEnvAgent")) and not below(process, "SweepActor")


def is_ending_ray(process: subprocess.Popen[str], out: Path) -> bool:
    return len(list((out / "generations").glob("*.parquet"))) == 20 and not below(process, "raylet/raylet")


def is_building_the_report(process: subprocess.Popen[str], out: Path) -> bool:
    return len(list((out / "generations").glob("*.parquet"))) == 20 and not below(process)


@pytest.mark.parametrize(
    ("moment", "by"),  # each signal at two moments or more, with those of a sweep at work
    [
        (is_looking_at_the_model, signal.SIGINT),
        (is_looking_at_the_model, signal.SIGHUP),
        (is_starting_ray, signal.SIGTERM),  # which Ray handles meanwhile
        (is_starting_ray, signal.SIGINT),
        (has_ray_and_no_actor, signal.SIGHUP),
    ],
)
def test_before_anything_has_landed_it_ends_as_cleanly_and_leaves_nothing(
    started: subprocess.Popen[str],
    tmp_path: Path,
    moment: Callable[[subprocess.Popen[str], Path], bool],
    by: signal.Signals,
) -> None:
    wait_for(started, lambda: moment(started, tmp_path / "out"))
    assert_stops(started, by)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("moment", [is_ending_ray, is_building_the_report])
def test_when_all_has_landed_it_ends_as_cleanly(
    started: subprocess.Popen[str], tmp_path: Path, moment: Callable[[subprocess.Popen[str], Path], bool]
) -> None:
    wait_for(started, lambda: moment(started, tmp_path / "out"))
    assert_stops(started, signal.SIGTERM)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["generations", "sweep.json", "tokens"]


@WORK_FOR_MINUTES
def test_ctrl_c_ends_it_as_cleanly_and_signals_that_follow_change_nothing(
    at_work: subprocess.Popen[str], tmp_path: Path
) -> None:
    def tell() -> None:  # not by SIGTERM, whose handler Ray removes for a moment when it ends
        at_work.send_signal(signal.SIGINT)
        while at_work.poll() is None:
            time.sleep(0.1)
            at_work.send_signal(signal.SIGINT)
            at_work.send_signal(signal.SIGHUP)

    assert why_it_stops(at_work, tell) == "interrupted"
    assert_is_clean(tmp_path / "out")


@pytest.mark.parametrize("n_prompts", [10])
def test_what_nohup_has_it_ignore_is_ignored(command: list[str], tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="eexit-", ignore_cleanup_errors=True) as temporary:
        environment = {**os.environ, "RAY_TMPDIR": temporary}
        quiet: dict[str, Any] = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(["nohup", *command], **quiet)
        wait_for(process, lambda: any((tmp_path / "out" / "generations").glob("*.parquet")))
        process.send_signal(signal.SIGHUP)
        assert process.wait() == 0


def test_a_driver_that_is_killed_while_it_looks_at_the_model_leaves_no_process(
    started: subprocess.Popen[str],
) -> None:
    temporary = psutil.Process(started.pid).environ()["RAY_TMPDIR"]
    wait_for(started, lambda: any(child.memory_info().rss > 150e6 for child in below(started)))
    started.kill()
    started.wait()
    while not none_is_left_of(started, temporary):
        time.sleep(0.1)
