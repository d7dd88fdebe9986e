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


def test_the_page_knows_what_rules_and_modes_say_of_themselves(several_content: dict[str, Any]) -> None:
    assert list(several_content["rules"]) == ["kl", "random", "fixed", "agree"]
    for name, words in several_content["rules"].items():
        assert (words["definition"], words["oracle"]) == (RULES[name].definition, name in ORACLES)
    assert several_content["modes"].keys() == {"normal", "unfrozen", "frozen_residual"}


def test_a_note_says_what_a_number_does_not_prove(several_content: dict[str, Any]) -> None:
    notes = {variant["y"]: variant["note"] for variant in several_content["trade"]["variants"]}
    assert "no proof of quality" in notes["Perplexity"]
    assert "no point can be higher than the texts are long" in notes["Fidelity"]


def test_where_tokens_are_sampled_disagreement_says_what_it_means(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder = shutil.copytree(make_sweep(2), tmp_path / "sampled")
    said = "so that normal disagrees too."
    assert said not in json.dumps(payload(read_sweep(str(folder)), "")[0])
    about = json.loads((folder / "sweep.json").read_text())
    about["config"]["temperature"] = 0.7
    write_manifest(folder, about)
    variants = payload(read_sweep(str(folder)), "")[0]["trade"]["variants"]
    assert {each["y"] for each in variants if said in each["note"]} == {"Disagreement"}


def test_a_sweep_without_answers_has_no_numbers_of_them(make_sweep: MakeSweep) -> None:
    data, _ = payload(read_sweep(str(make_sweep(2, CONFIGURATIONS[:2]))), "")
    assert data["numbers"] is None, "the chart has them"
    assert "correct" not in [metric["key"] for metric in data["metrics"]]
    assert all(prompt["answer"] is None for prompt in data["prompts"])


def test_generations_without_tokens_still_have_their_text(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder = shutil.copytree(make_sweep(1, CONFIGURATIONS[:1]), tmp_path / "s")
    for file in (folder / "tokens").iterdir():
        file.unlink()
    run = payload(read_sweep(str(folder)), "")[0]["prompts"][0]["runs"][0]
    assert (run["n"], run["text"][:11]) == (0, "The cat sat")
