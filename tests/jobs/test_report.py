"""`eexit report`: its output, the place of the page, and its exit status."""

from pathlib import Path

import pytest
from chart_fields import content_of
from commands import full_disk, here, left, refusal, success
from report_fixtures import MakeSweep
from synthetic_sweeps import NORMAL_ALONE

from jobs.report import main
from reports import PageOptions, build_report


def test_the_report_lands_in_the_sweeps_folder_or_where_asked(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder, several = make_sweep(1, NORMAL_ALONE), make_sweep(3, NORMAL_ALONE)
    done = here(main, folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{folder / 'report.html'}\n", "")
    assert (folder / "report.html").stat().st_size > 100_000
    original, page = tmp_path / "analysis.json", tmp_path / "deep" / "page.html"
    original.write_text('[{"prompt": "?", "results": []}]')
    success(main, original, "--out", page)
    assert "<title>" in page.read_text(encoding="utf-8")
    for flags in (("--ids", "2"), ("--prompts", "1")):
        success(main, several, "--out", page, *flags)
        assert len(content_of(page)["prompts"]) == 1


def test_on_a_full_disk_an_older_report_stays(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder, out = make_sweep(2, NORMAL_ALONE), tmp_path / "r.html"
    with full_disk(4096):
        done = here(main, folder, "--out", out)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"stopped: [Errno 27] File too large: '{out}'\n"
    assert left(tmp_path) == []
    build_report(str(folder), out, PageOptions(max_bytes=0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 3, "with side files"
    with full_disk(len(before[out]) // 2), pytest.raises(OSError, match="File too large"):
        build_report(str(folder), out, PageOptions(max_bytes=0))
    with full_disk(100_000), pytest.raises(OSError, match="File too large"):
        build_report(str(make_sweep(1, NORMAL_ALONE)), out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    success(main, folder, "--out", out)
    assert left(tmp_path) == ["r.data", "r.html"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere"], "nowhere"), ([""], ""), (["broken.json"], "broken.json"), (["nowhere.json"], "nowhere.json"),
        ([".", "--prompts", "0"], "argument --prompts: "), ([".", "--prompts", "1", "--ids", "2"], "argument --ids: "),
        ([".", "--margin=1.5"], "must be"), ([".", "--margin=-0.1"], "got -0.1"), ([".", "--margin=nan"], "got nan"),
        ([".", "--margin=two"], "got two"), (["sweep", "--ids", "nobody"], "no such prompt in the sweep: nobody"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(make_sweep: MakeSweep, tmp_path: Path, flags: list[str], message: str) -> None:
    (tmp_path / "broken.json").write_text("{")
    results = make_sweep(1, NORMAL_ALONE) if flags[0] == "sweep" else tmp_path / flags[0]
    assert message in refusal(main, results, *flags[1:])
