"""`ray start --head` as in `cluster/README.md`, in a separate home folder, and a stop that ends no other Ray."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from ray_fixtures import short_folder
from sweeping import environment_with, processes_of

ROOT = Path(__file__).parents[2]
AGENT_PORT = 52365  # a head's agent's default
# A new head starts its job agent last; on a busy machine that takes a while.
NO_AGENT = "No available agent to submit job"


def readme_lines() -> tuple[str, str, str]:
    """Return the lines that set the authentication, start the head and submit the job."""
    block = (ROOT / "cluster" / "README.md").read_text().split("```")[1]
    export, start, submit, *_ = re.findall("^(?:export|ray start|ray job submit) .*", block, re.MULTILINE)
    return export, start, submit


class Head:
    """A started head; commands run as in the shell that started it."""

    def __init__(self, home: Path, temporary: str) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = environment_with(
            temporary, HOME=str(home), PATH=path, RAY_USAGE_STATS_ENABLED="0", COLUMNS="100"
        )

    def sh(self, *lines: str, check: bool = True) -> str:
        script = "\n".join(["set -e", readme_lines()[0], *lines])
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, out: Path, *arguments: str, options: str = "") -> str:
        """Run the README's line with this `--out` and further flags."""
        line = readme_lines()[2].replace("/abs/path", str(out)).replace("submit ", f"submit {options}", 1)
        end = time.monotonic() + 600
        while NO_AGENT in (said := self.sh(" ".join([line, *arguments]), check=False)):
            assert time.monotonic() < end, said
        return said

    def kill(self, named: str = "") -> None:
        """Kill the head's processes that have `named` in their command line."""
        for process in processes_of(self.environment["RAY_TMPDIR"]):
            with suppress(psutil.Error):
                if named in " ".join(process.cmdline()):
                    process.kill()


@contextmanager
def started_head(home: Path) -> Iterator[Head]:
    with short_folder() as temporary:
        head = Head(home, temporary)
        try:
            head.sh(readme_lines()[1])
            yield head
        finally:
            head.kill()
