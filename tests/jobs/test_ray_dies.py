"""If Ray dies during a sweep, the sweep stops and says why, instead of waiting for ever."""

import subprocess
from pathlib import Path

import pytest
from sweeping import WORK_FOR_MINUTES, below, why_it_stops

pytestmark = pytest.mark.slow


@WORK_FOR_MINUTES  # an actor may go on for seconds after its raylet has died
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
