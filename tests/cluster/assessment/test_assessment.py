"""A `--quick` assessment of real processes with a Ray of their own, killed with SIGKILL in each of its steps."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import pytest
from assessing import COMMANDS, flags_of, settled, write_prompts
from byte_model import save_exiting_model

SUPPORT: Final = Path(__file__).parents[2] / "support"
SECONDS_INTO_A_STEP: Final = 1.5
N_PROMPTS: Final = 300
TRIES: Final = 5
NO_RAY: Final = "Ray can't be started on this machine"


def start(flags: list[str], log: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(SUPPORT / "assessing.py"), *flags]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": path})


def kill(process: subprocess.Popen[bytes]) -> None:
    own = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for each in own:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def ended(flags: list[str], log: Path, step: str = "") -> bool:
    """Return True if an assessment ended well or, given a step, was killed in it; start anew without Ray in time."""
    for _ in range(TRIES):
        process = start(flags, log)
        while process.poll() is None and not (step and f" of 10, {step}" in log.read_text()):
            time.sleep(0.05)
        if process.poll() is None:
            time.sleep(0 if step == "choice" else SECONDS_INTO_A_STEP)  # choosing takes less than that
            later = [f" of 10, {each}" for each in COMMANDS[COMMANDS.index(step) + 1 :]]
            was_in_it = process.poll() is None and not any(each in log.read_text() for each in later)
            kill(process)
            return was_in_it
        if NO_RAY not in log.read_text():
            break
    return not step and process.returncode == 0


@pytest.mark.slow  # minutes: eleven processes
def test_killed_in_each_step_the_verdict_is_that_of_an_undisturbed_one_but_for_times(tmp_path: Path) -> None:
    save_exiting_model(tmp_path / "model", n_layers=8, sharp=60)
    prompts = write_prompts(tmp_path / "p.jsonl", N_PROMPTS)
    of = [flags_of(tmp_path / "model", prompts, tmp_path / name) for name in ("whole", "killed")]
    whole, killed = ([*flags, "--quick"] for flags in of)
    was_in = [step for step in COMMANDS if ended(killed, tmp_path / f"{step}.log", step)]
    print("killed in", was_in)
    assert len(was_in) >= len(COMMANDS) - 2, "a step may have been too short"
    for flags, log in ((killed, tmp_path / "killed.log"), (whole, tmp_path / "whole.log")):
        assert ended(flags, log), log.read_text()
    assert settled(tmp_path / "killed") == settled(tmp_path / "whole")
    assert "Does early exit pay? Not known. A smoke run certifies nothing." in (tmp_path / "killed.log").read_text()
