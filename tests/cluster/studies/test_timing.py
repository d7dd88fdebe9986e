"""`python jobs/timings.py` as users run it; what it times and lands is tested in
tests/cluster/studies/test_time_sweep.py."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "jobs" / "timings.py"


def test_a_folder_that_holds_no_sweep_is_refused_in_a_line(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} holds no sweep.json: give the folder of a finished sweep\n"
    assert list(tmp_path.iterdir()) == []
