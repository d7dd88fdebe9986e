"""A full disk: for a while, no written file can be longer than a number of bytes.

The system refuses the write beyond that size (EFBIG), in the middle of a file, as it does on a full disk (ENOSPC).
"""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import here

ROOT = Path(__file__).parents[2]
_LIMITED = """
import resource, sys
most, code, *arguments = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
sys.path.insert(0, {root!r})
sys.dont_write_bytecode = True
sys.argv = [code, *arguments]
exec(code)
"""


@contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """Limit all writes of this process, so nothing else may run in it, such as Ray with its logs.

    Python ignores the signal (SIGXFSZ) that would otherwise end a process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def on_a_full_disk(
    most_bytes: int, run: Callable[[list[str]], int], *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a command, and return its exit status and output."""
    with full_disk(most_bytes):
        return here(run, *arguments)


def on_a_full_disk_aside(most_bytes: int, code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run code likewise in a separate process, where this one has Ray."""
    command = [sys.executable, "-c", _LIMITED.format(root=str(ROOT)), str(most_bytes), code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def left(folder: Path) -> list[str]:
    """Return all files and folders in a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
