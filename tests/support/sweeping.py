"""Commands in a separate process or in this one, and checks of a sweep that was stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from commands import here

from jobs.sweep import main

SCRIPT = Path(__file__).parents[2] / "jobs" / "sweep.py"
# For tests that strike while there is work: more than any machine does before the strike.
WORK_FOR_MINUTES = pytest.mark.parametrize(("n_prompts", "max_new_tokens"), [(1000, 240)])


def sweep(
    environment: dict[str, str], *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)


def sweep_here(
    environment: dict[str, str], *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a sweep in this process, if it ends before any Ray starts: a new process takes seconds to import modules."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environment.keys():
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(cwd or Path.cwd())
        return here(main, *arguments)


def wait_for(process: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    """Wait for `moment`, and assert that the process doesn't end before."""
    while not moment():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def below(process: subprocess.Popen[str], named: str = "") -> list[psutil.Process]:
    """Return the descendant processes with `named` in their command line."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if named in " ".join([child.name(), *child.cmdline()]):
                found.append(child)
    return found


def processes_of(temporary: str) -> Iterator[psutil.Process]:
    """Yield the running processes that inherited this folder for Ray's files."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == temporary and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def assert_stops(process: subprocess.Popen[str], by: signal.Signals) -> None:
    assert why_it_stops(process, lambda: process.send_signal(by)) == "interrupted"


def why_it_stops(process: subprocess.Popen[str], when: Callable[[], object]) -> str:
    """Call `when`, wait until the process has stopped with no process left, and return the reason that it gave.

    Assert that no run which the reason stopped is logged as failed by itself.
    """
    temporary = psutil.Process(process.pid).environ()["RAY_TMPDIR"]
    when()
    _, said = process.communicate()
    assert process.returncode == 1, f"{process.returncode}: {said}"
    *_, first, last = said.splitlines()
    assert last == "committed runs stay: the same command resumes from them"
    assert "Traceback" not in said, said
    assert "run_ids" not in said, said
    while any(processes_of(temporary)):
        time.sleep(0.1)
    assert first.startswith("stopped: "), said
    return first.removeprefix("stopped: ")
