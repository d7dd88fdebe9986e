"""A sweep at work: Ctrl-C and SIGTERM end it cleanly, a second one refuses, and nothing listens beyond this machine."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from byte_model import save_byte_model

SCRIPT = Path(__file__).parents[2] / "jobs" / "sweep.py"
pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    save_byte_model(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {n}\n" for n in range(40)))
    return [
        *(sys.executable, str(SCRIPT), "--model", str(tmp_path / "model"), "--prompts", str(tmp_path / "prompts.txt")),
        *("--dtype", "float32", "--max-new-tokens", "12", "--rows-per-shard", "2", "--out", str(tmp_path / "out")),
        *("--modes", "normal", "--exit-every", "2", "--device", "cpu"),
    ]


@pytest.fixture
def at_work(command: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory(prefix="eexit-", ignore_cleanup_errors=True) as temporary:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        process = subprocess.Popen(
            command,
            env={**inherited, "RAY_TMPDIR": temporary},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        end = time.monotonic() + 90
        while not any((tmp_path / "out" / "generations").glob("*.parquet")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield process
        process.kill()
        process.wait()


def assert_ends_cleanly(process: subprocess.Popen[str], by: signal.Signals, out: Path) -> None:
    actors = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(by)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    *_, first, last = said.splitlines()
    assert first == "stopped: interrupted"
    assert last == "what has landed stays: the same command goes on from there"
    assert "Traceback" not in said
    assert not psutil.wait_procs(actors, timeout=20)[1]
    assert 0 < len(pd.read_parquet(out / "generations")) < 40
    assert sorted(path.name for path in out.iterdir()) == ["generations", "sweep.json", "tokens"]
    names = [path.name for folder in ("generations", "tokens") for path in (out / folder).iterdir()]
    assert not [name for name in names if not name.endswith(".parquet")]


def test_a_second_sweep_refuses_and_ctrl_c_ends_the_first_cleanly(
    at_work: subprocess.Popen[str], command: list[str], tmp_path: Path
) -> None:
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert f"is in use by process {at_work.pid} on " in second.stderr
    assert_ends_cleanly(at_work, signal.SIGINT, tmp_path / "out")


def test_sigterm_is_as_good_and_nothing_listens_beyond_this_machine(
    at_work: subprocess.Popen[str], tmp_path: Path
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
    assert_ends_cleanly(at_work, signal.SIGTERM, tmp_path / "out")
