"""Commands as function calls in this process, since a new process takes seconds to import their modules.

Model facts, which commands read in a separate process, are read in this one too: it has imported torch anyway.
"""

import io
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eexit.output.events import LOGGER
from eexit.output.progress import NullDisplay, Progress
from eexit.plan import model_inspection

STEPS = {"importing Ray", "inspecting the model", "starting Ray", "joining the Ray cluster"}  # at the start of a sweep


class InterruptedWhen(NullDisplay):
    """A display at which Ctrl-C is pressed, as it were, once a condition is true of the progress."""

    def __init__(self, condition: Callable[[Progress], bool]) -> None:
        self._condition = condition

    def show(self, progress: Progress, last: bool = False) -> None:
        if self._condition(progress):
            raise KeyboardInterrupt


def without_steps(said: str) -> str:
    """Return a sweep's output without the lines on what it is doing."""
    return "".join(line for line in said.splitlines(keepends=True) if line.strip() not in STEPS)


def here(run: Callable[[list[str]], int], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command, and return its exit status and output. The logging of this process stays as it is."""
    out, err, given = io.StringIO(), io.StringIO(), [*map(str, arguments)]
    handlers, level, propagates = [*LOGGER.handlers], LOGGER.level, LOGGER.propagate
    LOGGER.handlers.clear()
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(model_inspection, "call_in_subprocess", asked_here())
            code = run(given)
    finally:
        LOGGER.handlers[:], LOGGER.propagate = handlers, propagates
        LOGGER.setLevel(level)
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())


def success(run: Callable[[list[str]], int], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command, assert that it ends well, and return its output."""
    done = here(run, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def refusal(run: Callable[[list[str]], int], *arguments: str | Path) -> str:
    """Return the one line with which a command refuses its input; assert that there is no other output."""
    done = here(run, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def asked_here(told: Callable[[str], object] = lambda name: None) -> Callable[..., Any]:
    """Return a replacement of `asking` that calls the function in this process. `told` gets the function's name."""

    @contextmanager
    def asking(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Callable[[], Any]]:
        told(function.__name__)
        yield partial(function, *args, **kwargs)

    return asking


@contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """Limit the length of all files that this process writes; nothing else may run in it, such as Ray with its logs.

    The system refuses a longer write (EFBIG) in the middle of a file, as on a full disk (ENOSPC). Python ignores the
    signal (SIGXFSZ) that would otherwise end a process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def left(folder: Path) -> list[str]:
    """Return all files and folders in a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
