"""Commands in a separate process or in this one, sweeps that they make, and checks of a sweep that was stopped."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
from byte_model import save_byte_model
from commands import here
from ray_fixtures import short_folder

from jobs.sweep import main

SCRIPT = Path(__file__).parents[2] / "jobs" / "sweep.py"
# For tests that strike while there is work: more than any machine does before the strike.
WORK_FOR_MINUTES = pytest.mark.parametrize("command", [(1000, 240)], indirect=True)


def flags_in(folder: Path, n_prompts: int) -> list[str]:
    """Save a model and prompts in a folder, and return the flags of a sweep of them."""
    save_byte_model(folder / "model")
    (folder / "prompts.txt").write_text("".join(f"prompt {n}\n" for n in range(n_prompts)))
    model = ("--model", str(folder / "model"), "--dtype", "float32", "--exit-every", "2")
    return [*model, "--prompts", str(folder / "prompts.txt")]


def sweep_here(
    environment: dict[str, str], *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a sweep in this process, if it ends before any Ray starts: a new process takes seconds to import modules."""
    with patch.dict(os.environ, environment, clear=True), chdir(cwd or Path.cwd()):
        return here(main, *arguments)


def environment_with(ray_folder: Path | str, **others: str) -> dict[str, str]:
    """Return this process's environment, for a process with this folder for Ray's files and no other setting of Ray."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**inherited, "RAY_TMPDIR": str(ray_folder), **others}


@contextmanager
def running(command: Sequence[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command that may start a Ray, and kill it at the end of the context."""
    with short_folder() as temporary:
        environment, pipe = environment_with(temporary, **environment), subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


def wait_for(process: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    """Wait for `moment`, and assert that the process doesn't end before."""
    while not moment():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def below(process: subprocess.Popen[Any], named: str = "") -> list[psutil.Process]:
    """Return the descendant processes with `named` in their command line."""
    found = []
    with suppress(psutil.NoSuchProcess):
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


@pytest.fixture
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Return the command of a sweep, in 20 shards unless the test has `WORK_FOR_MINUTES`."""
    n_prompts, n_tokens = getattr(request, "param", (40, 12))
    return [
        *(sys.executable, str(SCRIPT), *flags_in(tmp_path, n_prompts), "--modes", "normal", "--device", "cpu"),
        *("--max-new-tokens", f"{n_tokens}", "--rows-per-shard", "2", "--out", str(tmp_path / "out")),
    ]


@pytest.fixture
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with running(command) as process:
        yield process


@pytest.fixture
def at_work(started: subprocess.Popen[str], tmp_path: Path) -> subprocess.Popen[str]:
    wait_for(started, lambda: any((tmp_path / "out" / "generations").glob("*.parquet")))
    return started


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_byte_model(folder)
    return folder


@pytest.fixture(scope="session")
def environment() -> Iterator[dict[str, str]]:
    with short_folder() as folder:
        yield environment_with(folder, RAY_AUTH_MODE="disabled", COLUMNS="100")


@pytest.fixture(scope="session")
def finished(tiny: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a finished sweep and its printed results: three good prompts, an empty one, and one that is too long."""
    folder = tmp_path_factory.mktemp("finished")
    prompts = ["one", "two <script>", "", "x" * 300, "three"]
    (folder / "mine.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    (folder / "mine.toml").write_text(
        f'model = "{tiny}"\nprompts = "mine.jsonl"\nout = "{folder / "out"}"\ndtype = "float32"\n'
        "kl_factors = [1]\nmax_new_tokens = 8\nexit_every = 2\n"
    )
    sweep_here(environment, "--config", folder / "mine.toml", "--dry-run")  # which stores the model's facts
    flags = ("--config", str(folder / "mine.toml"), "--device", "cpu", "--json", str(folder / "new" / "figures"))
    done = subprocess.run([sys.executable, SCRIPT, *flags], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "progress.txt").write_text(done.stderr)
    return folder, done.stdout
