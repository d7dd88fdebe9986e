"""Sweeps that the command makes, as fixtures."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from byte_model import save_byte_model
from sweeping import SCRIPT, sweep, sweep_here, wait_for


@pytest.fixture
def max_new_tokens() -> int:
    return 12


@pytest.fixture
def n_prompts() -> int:
    return 40


@pytest.fixture
def command(tmp_path: Path, n_prompts: int, max_new_tokens: int) -> list[str]:
    save_byte_model(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {n}\n" for n in range(n_prompts)))
    return [
        *(sys.executable, str(SCRIPT), "--model", str(tmp_path / "model"), "--prompts", str(tmp_path / "prompts.txt")),
        *("--dtype", "float32", "--max-new-tokens", f"{max_new_tokens}", "--rows-per-shard", "2"),
        *("--out", str(tmp_path / "out"), "--modes", "normal", "--exit-every", "2", "--device", "cpu"),
    ]


@pytest.fixture
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory(prefix="eexit-", ignore_cleanup_errors=True) as temporary:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with subprocess.Popen(
            command,
            env={**inherited, "RAY_TMPDIR": temporary},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            yield process
            process.kill()


@pytest.fixture
def at_work(started: subprocess.Popen[str], tmp_path: Path) -> subprocess.Popen[str]:
    wait_for(started, lambda: any((tmp_path / "out" / "generations").glob("*.parquet")))
    return started


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random model of 256 positions whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("tiny")
    save_byte_model(folder)
    return folder


@pytest.fixture(scope="session")
def environment() -> Iterator[dict[str, str]]:
    folder = tempfile.mkdtemp(prefix="eexit-")  # short: Ray's socket names are limited
    own = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "COLUMNS": "100"}
    yield {**{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}, **own}
    shutil.rmtree(folder, ignore_errors=True)


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
    done = sweep(environment, "--config", folder / "mine.toml", "--device", "cpu", "--json", folder / "new" / "figures")
    assert done.returncode == 0, done.stderr
    (folder / "progress.txt").write_text(done.stderr)
    return folder, done.stdout
