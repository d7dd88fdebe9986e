"""The data of the page: rules, modes and notes."""

import json
import shutil
from pathlib import Path
from typing import Any

from report_fixtures import MakeSweep
from synthetic_sweeps import CONFIGURATIONS, write_manifest

from eexit.method.rules import ORACLES, RULES
from reports.page.payload import payload
from reports.read.sweep import read_sweep


def test_rules_modes_and_measures_are_explained(several_content: dict[str, Any]) -> None:
    assert list(several_content["rules"]) == ["confidence", "random", "kl"]
    for name, words in several_content["rules"].items():
        assert (words["definition"], words["oracle"]) == (RULES[name].definition, name in ORACLES)
    assert several_content["modes"].keys() == {"normal", "unfrozen", "frozen_residual"}
    notes = {variant["y"]: variant["note"] for variant in several_content["trade"]["variants"]}
    assert "no proof of quality" in notes["Perplexity"]


def test_where_tokens_are_sampled_a_note_is_on_disagreement(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder = shutil.copytree(make_sweep(2), tmp_path / "sampled")
    said = "normal disagrees too"
    assert said not in json.dumps(payload(read_sweep(str(folder)), "")[0])
    about = json.loads((folder / "sweep.json").read_text())
    about["config"]["temperature"] = 0.7
    write_manifest(folder, about)
    variants = payload(read_sweep(str(folder)), "")[0]["trade"]["variants"]
    assert {each["y"] for each in variants if said in each["note"]} == {"Disagreement"}


def test_what_was_not_recorded_has_no_numbers(make_sweep: MakeSweep, tmp_path: Path) -> None:
    """Neither answers, nor tokens, without which generations still have their text."""
    folder = shutil.copytree(make_sweep(1, CONFIGURATIONS[:2]), tmp_path / "s")
    for file in (folder / "tokens").iterdir():
        file.unlink()
    data, _ = payload(read_sweep(str(folder)), "")
    assert data["numbers"] is None, "the chart has them"
    assert "correct" not in [metric["key"] for metric in data["metrics"]]
    (prompt,) = data["prompts"]
    assert prompt["answer"] is None
    assert (prompt["runs"][0]["n"], prompt["runs"][0]["text"][:11]) == (0, "The cat sat")
