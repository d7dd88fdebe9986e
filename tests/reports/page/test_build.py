"""The page as a file: its content, what it must never contain, and pages of incomplete sweeps."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chart_fields import blob
from synthetic_sweeps import (
    HOSTILE,
    UNUSUAL,
)

from reports import build_report
from reports.page.build import split_blobs
from reports.page.pack_tokens import pack
from reports.read.sweep import read_sweep


@cache
def report(folder: Path) -> tuple[str, dict[str, Any]]:
    path = folder / "report.html"
    page = (path if path.exists() else build_report(str(folder), path)).read_text(encoding="utf-8")
    return page, json.loads(blob(page, "payload"))


def test_hostile_text_is_nowhere_in_the_markup(full: Path) -> None:
    page, data = report(full)
    assert "owned" not in page
    assert "evil.example" not in page
    assert data["prompts"][1]["text"] == HOSTILE
    assert HOSTILE in json.loads(blob(page, "pieces"))


def test_the_page_asks_for_nothing(full: Path) -> None:
    page, _ = report(full)
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


def test_the_same_results_give_the_same_file(full: Path, tmp_path: Path) -> None:
    assert report(full)[0] == build_report(str(full), tmp_path / "report.html").read_text(encoding="utf-8")


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


def test_a_report_of_some_prompts_says_what_it_holds(some: Path) -> None:
    page = some.read_text(encoding="utf-8")
    data = json.loads(blob(page, "payload"))
    assert [prompt["id"] for prompt in data["prompts"]] == ["2", "4"]
    assert data["counts"]["prompts"] == 6
    assert data["failures"][0]["prompt"] == "2"
    assert {row["n"] for row in data["charts"][0]["table"]["rows"]} == {5, 6}
    assert HOSTILE not in json.loads(blob(page, "pieces"))


@pytest.mark.parametrize("name", UNUSUAL)
def test_sweeps_that_are_not_whole_still_give_a_report(unusual: Callable[[str], Path], name: str) -> None:
    page = unusual(name).read_text(encoding="utf-8")
    data = json.loads(blob(page, "payload"))
    titles = {chart["key"] for chart in data["charts"]}
    assert "NaN" not in blob(page, "payload").decode()
    assert data["counts"]["failed"] == (14 if name == "all failed" else 0)
    assert titles == (set() if name in ("empty", "all failed") else titles)
    assert bool(data["beside"]) == (name in ("partial", "one prompt", "no normal"))
    intervals = [
        row["exit_rate_low"] for chart in data["charts"] if "trade" in chart["key"] for row in chart["table"]["rows"]
    ]
    assert all((low is None) == (UNUSUAL[name]["n_prompts"] < 5) for low in intervals)


def test_every_script_of_the_template_is_in_the_page() -> None:
    from reports.page.build import SCRIPTS, TEMPLATE

    assert sorted(SCRIPTS) == sorted(path.relative_to(TEMPLATE).as_posix() for path in TEMPLATE.rglob("*.js"))
    names = list(
        itertools.chain(*(re.findall(r"^(?:async )?function (\w+)", (TEMPLATE / s).read_text(), re.M) for s in SCRIPTS))
    )
    assert len(names) == len(set(names))
