"""`python jobs/report.py`: its output, the place of the page, and its exit status."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import here
from full_disk import full_disk, left, on_a_full_disk
from report_fixtures import MakeSweep
from synthetic_sweeps import NORMAL_ALONE

from jobs import report as report_job
from reports import PageOptions, build_report
from reports.read.prompt_choice import MOST

JOB = Path(__file__).parents[2] / "jobs" / "report.py"

Main = Callable[[list[str]], int]


@pytest.fixture
def main() -> Main:
    main: Main = runpy.run_path(str(JOB))["main"]
    return main


def test_the_report_lands_in_the_sweeps_folder(
    main: Main, make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_sweep(1, NORMAL_ALONE)
    assert main([str(folder)]) == 0
    assert capsys.readouterr() == (f"{folder / 'report.html'}\n", "")
    assert (folder / "report.html").stat().st_size > 100_000


def test_the_help_says_how_many_prompts_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        report_job.main(["--help"])
    assert f"prompts to hold (default: {MOST})" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("what", ["nowhere", "", "broken.json", "nowhere.json"])
def test_bad_results_are_one_line_and_code_2(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    (tmp_path / "broken.json").write_text("{")
    assert main([str(tmp_path / what)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert str(tmp_path) in printed.err


def test_an_original_file_is_drawn_where_asked(main: Main, tmp_path: Path) -> None:
    (tmp_path / "analysis.json").write_text('[{"prompt": "?", "results": []}]')
    assert main([str(tmp_path / "analysis.json"), "--out", str(tmp_path / "deep" / "page.html")]) == 0
    assert "<title>" in (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")


def test_some_prompts_are_held(main: Main, make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder, out = make_sweep(3, NORMAL_ALONE), tmp_path / "r.html"
    assert main([str(folder), "--out", str(out), "--ids", "2"]) == 0
    some = out.stat().st_size
    assert main([str(folder), "--out", str(out), "--prompts", "2"]) == 0
    assert out.stat().st_size > some
    assert main([str(folder), "--out", str(out), "--ids", "nobody"]) == 2


@pytest.mark.parametrize("wrong", [["--prompts", "0"], ["--prompts", "x"], ["--prompts", "1", "--ids", "2"]])
def test_a_wrong_number_of_prompts_is_refused(
    main: Main, tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), *wrong]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: argument --")
    assert len(printed.err.splitlines()) == 1


def test_on_a_full_disk_an_older_report_stays_and_the_same_command_then_goes(
    main: Main, make_sweep: MakeSweep, tmp_path: Path
) -> None:
    folder, out = make_sweep(2, NORMAL_ALONE), tmp_path / "r.html"
    done = on_a_full_disk(4096, report_job.main, folder, "--out", out)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [f"stopped: [Errno 27] File too large: '{out}'"]
    assert left(tmp_path) == []
    assert main([str(folder), "--out", str(out)]) == 0
    written = out.read_bytes()
    with full_disk(len(written) // 2), pytest.raises(OSError, match="File too large"):
        build_report(str(folder), out, PageOptions(max_bytes=0))
    assert (left(tmp_path), out.read_bytes()) == (["r.html"], written)


def test_side_files_of_an_older_report_stay_on_a_full_disk(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder, out = make_sweep(2, NORMAL_ALONE), tmp_path / "r.html"
    build_report(str(folder), out, PageOptions(max_bytes=0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 3
    smaller = make_sweep(1, NORMAL_ALONE)
    with full_disk(100_000), pytest.raises(OSError, match="File too large"):
        build_report(str(smaller), out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    build_report(str(folder), out)
    assert left(tmp_path) == ["r.data", "r.html"]


@pytest.mark.parametrize("margin", ["0", "1", "1.5", "-0.1", "nan", "two"])
def test_a_margin_is_a_share_between_0_and_1(margin: str, tmp_path: Path) -> None:
    done = here(report_job.main, tmp_path, f"--margin={margin}")
    assert done.returncode == 2
    assert "must be" in done.stderr
    assert f"got {margin}" in done.stderr
