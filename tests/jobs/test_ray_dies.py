"""Ray dies under a sweep: it stops, and says why, instead of waiting for an answer that will never come."""

import subprocess
from pathlib import Path

import pytest
from ray_head import started_head
from sweeping import below, wait_for, why_it_stops

pytestmark = pytest.mark.slow


@pytest.fixture
def n_prompts() -> int:
    """So many that a fast machine has work for minutes: an actor may go on for seconds after its raylet has died."""
    return 1000


@pytest.fixture
def max_new_tokens() -> int:
    return 240


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("raylet/raylet", "the part of Ray that runs on this machine (its raylet) has died: was memory short?"),
        ("gcs/gcs_server", "the head of Ray at "),
    ],
)
def test_a_part_of_its_own_ray_is_killed(
    at_work: subprocess.Popen[str], tmp_path: Path, part: str, reason: str
) -> None:
    (victim,) = below(at_work, part)
    assert why_it_stops(at_work, victim.kill).startswith(reason)
    assert not (tmp_path / "out" / "lease.json").exists()


def test_the_head_of_a_cluster_is_killed(command: list[str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with started_head(home) as head:
        environment = {**head.environment, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "auto"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(process, lambda: any((tmp_path / "out" / "generations").glob("*.parquet")))
        head.kill("gcs/gcs_server")
        _, said = process.communicate()
    assert process.returncode == 1
    *_, reason, last = said.splitlines()
    assert reason.startswith("stopped: the head of Ray at "), said
    assert last == "what has landed stays: the same command goes on from there"
    assert not (tmp_path / "out" / "lease.json").exists()
