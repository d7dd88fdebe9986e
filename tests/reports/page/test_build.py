"""The page as a file: its content, what it must never contain, and pages of incomplete sweeps."""

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
from chart_fields import blob, content_of
from report_fixtures import MakeSweep
from synthetic_sweeps import HOSTILE, NORMAL_ALONE

from eexit.errors import UsageError
from reports import PageOptions, build_report
from reports.page.build import SCRIPTS, TEMPLATE, split_blobs
from reports.page.pack_tokens import pack
from reports.read.sweep import read_sweep


def test_hostile_text_is_nowhere_in_the_markup_and_the_same_results_give_the_same_file(
    full: Path, report: Path, tmp_path: Path
) -> None:
    page = report.read_text(encoding="utf-8")
    assert not re.search(r"owned|evil\.example", page)
    assert content_of(report)["prompts"][1]["text"] == HOSTILE
    assert HOSTILE in json.loads(blob(page, "pieces"))
    assert page == build_report(str(full), tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_asks_for_nothing(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    markup = re.sub(r'<script type="application/gzip;base64".*?</script>', "", page, flags=re.S)
    assert set(re.findall(r"https?://[^\s\"'<>]+", markup)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"<(link|img|iframe|script[^>]*\ssrc=)", markup)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy[1]


def test_a_large_page_leaves_tokens_beside_it(full: Path, beside: Path, tmp_path: Path) -> None:
    shutil.copytree(beside.parent, tmp_path, dirs_exist_ok=True)
    small, sides = tmp_path / beside.name, tmp_path / "r.data"
    assert sorted(path.name for path in sides.iterdir()) == [f"prompt-{number}.js" for number in range(6)]
    small_size = small.stat().st_size
    whole = build_report(str(full), small)
    assert not list(sides.glob("*.js"))
    assert small_size < whole.stat().st_size
    assert "'nonce-" not in whole.read_text()


def test_the_bulkiest_kinds_leave_first(full: Path) -> None:
    sweep = read_sweep(str(full))
    packed = pack(sweep, sweep.generations, list(sweep.prompts))
    sizes = {kind: sum(map(len, blobs)) for kind, blobs in packed.blobs.items()}
    room = len(packed.pieces) + sizes["core"] + sizes["kl"] + sizes["prob"]
    assert list(split_blobs(packed, room)[1]) == ["more"]
    assert list(split_blobs(packed, room - 1)[1]) == ["more", "prob"]
    assert list(split_blobs(packed, room + sizes["more"])[1]) == []


def test_a_report_of_some_prompts_has_the_numbers_of_all(some: Path) -> None:
    data = content_of(some)
    assert [prompt["id"] for prompt in data["prompts"]] == ["2", "4"]
    assert data["counts"]["prompts"] == 6
    assert data["failures"][0]["prompt"] == "2"
    assert {row["n"] for row in data["charts"][0]["table"]["rows"]} == {5, 6}
    assert HOSTILE not in json.loads(blob(some.read_text(encoding="utf-8"), "pieces"))


def test_a_page_that_is_no_report_is_not_written_over(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder, out = str(make_sweep(1, NORMAL_ALONE)), tmp_path / "r.html"
    side = tmp_path / "r.data" / "prompt-9.js"
    side.parent.mkdir()
    for mine in (out, side):
        mine.write_text("mine")
        with pytest.raises(UsageError, match=f"{mine} is not a report's file"):
            build_report(folder, out)
        assert mine.read_text() == "mine"
        mine.unlink()
    for _ in range(2):  # its own page is
        build_report(folder, out, PageOptions(max_bytes=0))


def test_every_script_of_the_template_is_in_the_page() -> None:
    assert sorted(SCRIPTS) == sorted(path.relative_to(TEMPLATE).as_posix() for path in TEMPLATE.rglob("*.js"))
    functions = (re.findall(r"^(?:async )?function (\w+)", (TEMPLATE / name).read_text(), re.M) for name in SCRIPTS)
    names = list(itertools.chain(*functions))
    assert len(names) == len(set(names))
