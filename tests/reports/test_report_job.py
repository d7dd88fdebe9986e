"""The command: what it prints, where it writes, how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

JOB = Path(__file__).parents[2] / "jobs" / "report.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(JOB), *arguments], capture_output=True, text=True, timeout=60)


def test_the_report_lands_in_the_sweeps_folder(make_sweep):
    folder = make_sweep(1)
    done = run(str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(folder / "report.html")
    assert (folder / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize("what", ["nowhere", "", "broken.json", "nowhere.json"])
def test_bad_results_are_one_line_and_code_2(tmp_path, what):
    (tmp_path / "broken.json").write_text("{")
    done = run(str(tmp_path / what))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path) in done.stderr


def test_an_original_file_is_drawn_where_asked(tmp_path):
    (tmp_path / "analysis.json").write_text('[{"prompt": "?", "results": []}]')
    done = run(str(tmp_path / "analysis.json"), "--out", str(tmp_path / "deep" / "page.html"))
    assert done.returncode == 0
    assert "<title>" in (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
