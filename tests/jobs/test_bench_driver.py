"""The bench of the driver, small."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "jobs" / "bench_driver.py"


def test_it_prints_a_table_of_what_it_measured() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--runs", "5000"], capture_output=True, text=True, check=True)
    row = done.stdout.splitlines()[-1]
    runs, files, per_second, driving, resuming, first, whole = (
        float(x) for x in re.findall(r"[\d.]+", row.replace(",", ""))
    )
    assert (runs, files) == (5000, 84)
    assert per_second > 0
    assert 0 < driving < 300
    assert 0 < resuming < 300
    assert 0 <= first <= whole
