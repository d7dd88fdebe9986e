"""Commands whose function is called in this process: a new one takes seconds to import their modules."""

import io
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from cluster.console.events import LOGGER


def here(run: Callable[[list[str]], int], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What a command returns and says. The logging of this process stays as it is."""
    out, err, given = io.StringIO(), io.StringIO(), [*map(str, arguments)]
    handlers, level, propagates = [*LOGGER.handlers], LOGGER.level, LOGGER.propagate
    LOGGER.handlers.clear()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = run(given)
    finally:
        LOGGER.handlers[:], LOGGER.propagate = handlers, propagates
        LOGGER.setLevel(level)
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())
