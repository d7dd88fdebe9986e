import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from byte_model import save_byte_model
from sweeping import wait_for

SCRIPT = Path(__file__).parents[2] / "jobs" / "sweep.py"


@pytest.fixture
def max_new_tokens() -> int:
    return 12


@pytest.fixture
def command(tmp_path: Path, max_new_tokens: int) -> list[str]:
    save_byte_model(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {n}\n" for n in range(40)))
    return [
        *(sys.executable, str(SCRIPT), "--model", str(tmp_path / "model"), "--prompts", str(tmp_path / "prompts.txt")),
        *(
            "--dtype",
            "float32",
            "--max-new-tokens",
            f"{max_new_tokens}",
            "--rows-per-shard",
            "2",
            "--out",
            str(tmp_path / "out"),
        ),
        *("--modes", "normal", "--exit-every", "2", "--device", "cpu"),
    ]


@pytest.fixture
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory(prefix="eexit-", ignore_cleanup_errors=True) as temporary:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        process = subprocess.Popen(
            command,
            env={**inherited, "RAY_TMPDIR": temporary},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        yield process
        process.kill()
        process.wait()


@pytest.fixture
def at_work(started: subprocess.Popen[str], tmp_path: Path) -> subprocess.Popen[str]:
    wait_for(started, lambda: any((tmp_path / "out" / "generations").glob("*.parquet")))
    return started
