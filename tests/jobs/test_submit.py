"""The README's commands for a cluster, `ray start --head` and `ray job submit`; and a head that dies during a sweep.

All tests that start such a head are in this file, since its ports are fixed and only one can run at a time.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from driving import assert_same_results, wait_until
from ray_head import AGENT_PORT, ROOT, Head, started_head
from sweeping import WORK_FOR_MINUTES, flags_in, wait_for

from cluster.console.flags_from_config import load_job
from eexit.plan.runs import plan_runs
from eexit.results.store.commit import commit
from eexit.results.store.folder import open_store
from eexit.sweeps.generator import ModelGenerator
from jobs.sweep import DEMO

pytestmark = pytest.mark.slow
STOPPED = "committed runs stay: the same command resumes from them"
ROUNDED: dict[str, Any] = {"check_exact": False, "rtol": 1e-4, "atol": 1e-5}
FEW = ("--modes", "normal", "--max-new-tokens", "2")


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a sweep of some seconds, on a small real model."""
    given = flags_in(tmp_path_factory.mktemp("given"), 16)
    return [*given, "--max-new-tokens", "12", "--rows-per-shard", "9", "--system", "x"]


@pytest.fixture(scope="module")
def swept_home(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder after a sweep on this machine, into `local` in it, with a token as Ray leaves one there."""
    home = tmp_path_factory.mktemp("swept")
    command = [sys.executable, "jobs/sweep.py", "--out", str(home / "local"), *flags, *FEW]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run(command, cwd=ROOT, env={**environment, "HOME": str(home)}, check=True, capture_output=True)
    assert not (home / ".ray").exists()  # the sweep leaves none behind
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a" * 64)
    return home


@pytest.fixture(scope="module")
def head(swept_home: Path) -> Iterator[Head]:
    """Started there, beside another Ray; the last test that uses it kills it."""
    with socket.socket() as agent:
        with suppress(OSError):  # another Ray holds it
            agent.bind(("", AGENT_PORT))
        with started_head(swept_home) as head:
            yield head


def stop_in_the_middle(head: Head, name: str, out: Path) -> None:
    wait_until(lambda: len(list((out / "generations").glob("*.parquet"))) >= 2, seconds=600)
    head.sh(f"ray job stop {name}")


def test_from_a_fresh_home_stopped_in_the_middle_and_submitted_again(tmp_path: Path, flags: list[str]) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    flags = [*flags, "--max-new-tokens", "64"]  # so much that it lasts longer than `ray job stop` takes to start
    with started_head(home) as head:
        stopper = threading.Thread(target=stop_in_the_middle, args=(head, "first", out))
        stopper.start()
        said = head.submit(out, *flags, options="--submission-id first ")
        stopper.join()
        assert STOPPED in said
        n_committed = len(pd.read_parquet(out / "generations"))
        assert 0 < n_committed < 144
        assert [path.name for path in out.rglob("*.tmp")] == []
        assert not (out / "lease.json").exists()
        again = head.submit(out, *flags)
        assert f"{n_committed} of 144 runs are in {out}" in again
        assert "144/144 runs · " in again
        assert "\x1b[2K" not in again  # plain lines, no bar
        events = [json.loads(line[line.index("{") :]) for line in again.splitlines() if '"event"' in line]
        ids = [run_id for event in events if event["event"] == "committed" for run_id in event["run_ids"]]
        assert len(set(ids)) > 0
        assert set(ids) <= set(pd.read_parquet(out / "generations").run_id)
    config = load_job(flags, DEMO)[0].config
    runs = list(plan_runs(config))
    commit(open_store(tmp_path / "undisturbed"), runs, ModelGenerator(config, "cpu").generate(runs))
    assert_same_results(out, tmp_path / "undisturbed", **ROUNDED)


def test_after_a_local_sweep_with_a_token(head: Head, swept_home: Path, tmp_path: Path, flags: list[str]) -> None:
    said = head.submit(tmp_path / "out", *flags, *FEW)
    assert "16/16 runs · " in said, said
    assert_same_results(tmp_path / "out", swept_home / "local", **ROUNDED)


@WORK_FOR_MINUTES
def test_the_head_of_a_cluster_is_killed(head: Head, command: list[str], tmp_path: Path) -> None:
    environment = {**head.environment, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "auto"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(process, lambda: any((tmp_path / "out" / "generations").glob("*.parquet")))
    head.kill("gcs/gcs_server")
    _, said = process.communicate()
    assert process.returncode == 1
    *_, reason, last = said.splitlines()
    assert reason.startswith("stopped: the head of Ray at "), said
    assert last == STOPPED
    assert not (tmp_path / "out" / "lease.json").exists()
