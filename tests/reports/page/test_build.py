"""The page as a file: its content, what it must never contain, and pages of incomplete sweeps."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chart_fields import blob, content_of
from report_fixtures import MakeSweep
from synthetic_sweeps import CONFIGURATIONS, HOSTILE, NORMAL_ALONE

from eexit.errors import UsageError
from eexit.method.rules import ORACLES, RULES
from reports import PageOptions, build_report
from reports.page.build import SCRIPTS, TEMPLATE, split_blobs
from reports.page.pack_tokens import pack
from reports.page.payload import payload
from reports.page.run_info import facts
from reports.read.sweep import Sweep, read_sweep


def test_no_hostile_text_is_in_the_markup_and_the_page_requests_nothing(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert not re.search(r"owned|evil\.example", page)
    assert content_of(report)["prompts"][1]["text"] == HOSTILE
    assert HOSTILE in json.loads(blob(page, "pieces"))
    markup = re.sub(r'<script type="application/gzip;base64".*?</script>', "", page, flags=re.S)
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\s\"'<>]+", markup)) <= names
    assert not re.search(r"<(link|img|iframe|script[^>]*\ssrc=)", markup)
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy
    assert sorted(SCRIPTS) == sorted(path.relative_to(TEMPLATE).as_posix() for path in TEMPLATE.rglob("*.js"))


def test_a_large_page_leaves_tokens_beside_it(full: Path, report: Path, beside: Path, tmp_path: Path) -> None:
    """The same results give the same page, and the bulkiest kinds of tokens leave first."""
    shutil.copytree(beside.parent, tmp_path, dirs_exist_ok=True)
    small, sides = tmp_path / beside.name, tmp_path / "r.data"
    assert sorted(path.name for path in sides.iterdir()) == [f"prompt-{number}.js" for number in range(6)]
    small_size, whole = small.stat().st_size, build_report(str(full), small)
    assert not list(sides.glob("*.js"))
    assert small_size < whole.stat().st_size
    assert "'nonce-" not in whole.read_text(encoding="utf-8") == report.read_text(encoding="utf-8")
    sweep = read_sweep(str(full))
    packed = pack(sweep, sweep.generations, list(sweep.prompts))
    sizes = {kind: sum(map(len, blobs)) for kind, blobs in packed.blobs.items()}
    room = len(packed.pieces) + sizes["core"] + sizes["kl"] + sizes["prob"]
    for more, kinds in ((0, ["more"]), (-1, ["more", "prob"]), (sizes["more"], [])):
        assert list(split_blobs(packed, room + more)[1]) == kinds


def test_a_report_of_some_prompts_has_the_numbers_of_all(some: Path, make_sweep: MakeSweep, tmp_path: Path) -> None:
    """What was not recorded has no numbers: neither answers, nor tokens, without which runs still have their text."""
    data = content_of(some)
    assert [prompt["id"] for prompt in data["prompts"]] == ["2", "4"]
    assert (data["counts"]["prompts"], data["failures"][0]["prompt"]) == (6, "2")
    assert {row["n"] for row in data["charts"][0]["table"]["rows"]} == {5, 6}
    assert HOSTILE not in json.loads(blob(some.read_text(encoding="utf-8"), "pieces"))
    folder = shutil.copytree(make_sweep(1, CONFIGURATIONS[:2]), tmp_path / "s")
    for file in (folder / "tokens").iterdir():
        file.unlink()
    data, _ = payload(read_sweep(str(folder)), "")
    assert data["numbers"] is None, "the chart has them"
    assert "correct" not in [metric["key"] for metric in data["metrics"]]
    (prompt,) = data["prompts"]
    assert (prompt["answer"], prompt["runs"][0]["n"], prompt["runs"][0]["text"][:11]) == (None, 0, "The cat sat")


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


def test_rules_measures_and_the_model_are_told(several: Sweep, several_content: Any, make_sweep: MakeSweep) -> None:
    """Where tokens are sampled, a note is on disagreement."""
    assert list(several_content["rules"]) == ["confidence", "random", "kl"]
    for name, words in several_content["rules"].items():
        assert (words["definition"], words["oracle"]) == (RULES[name].definition, name in ORACLES)
    assert several_content["modes"].keys() == {"normal", "unfrozen", "frozen_residual"}
    notes = {variant["y"]: variant["note"] for variant in several_content["trade"]["variants"]}
    assert "no proof of quality" in notes["Perplexity"]
    sweep = read_sweep(str(make_sweep(2)))
    for temperature, noted in ((0.0, set[str]()), (0.7, {"Disagreement"})):
        config = {**sweep.config, "temperature": temperature}
        variants = payload(replace(sweep, about=sweep.about | {"config": config}), "")[0]["trade"]["variants"]
        assert {each["y"] for each in variants if "normal disagrees too" in each["note"]} == noted
    about = several.about | {"model": {"name": "tiny", "dtype": "bfloat16", "gguf_bits": 4}, "dtype_asked": "auto"}
    about |= {"versions": {"python": "3.13", "eexit": None, "torch": "2.9.0"}}
    told = dict(facts(replace(several, about=about)))
    assert told["Model"] == "tiny bfloat16 (--dtype auto), weights dequantised from 4 bits"
    assert told["Versions"] == "python 3.13, torch 2.9.0"
