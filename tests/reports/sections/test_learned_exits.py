"""The section on learned exits: the cards in sweep.json as one chart with its table."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chart_fields import missing_fields
from report_fixtures import MakeSweep, Visit, Walk, all_drawn, ink_of
from synthetic_sweeps import FINAL, LAYERS, write_manifest

from reports.page.build import render
from reports.page.run_info import facts
from reports.read.sweep import Sweep, read_sweep
from reports.sections.learned_exits import learned_section

Used = Callable[..., Sweep]
DIGESTS = {"readout": "1" * 64, "gate": "2" * 64, "adapter": "3" * 64}
PLACES = {"readout": "exits/linear", "gate": "exits/gate", "adapter": "exits/student"}
LENS = {5: 0.040, 10: 0.068, 15: 0.111, 20: 0.267, 25: 0.455}
LINEAR = {5: 0.287, 10: 0.309, 15: 0.345, 20: 0.481, 25: 0.716}
THRESHOLDS = (0.1, 0.5)


def card(what: str, *holds: str, **change: Any) -> dict[str, Any]:
    """Return an artefact's card, as in the sweep.json of a sweep that uses it."""
    about = {
        "format": 2, "what": what, "holds": list(holds), "layers": LAYERS, "readout": "lens", "adapter": None,
        "model": {"name": "tiny", "revision": None, "digest": "sha256:0", "n_layers": FINAL + 1, "dtype": "float32"},
        "data": {"sweep": "results/texts", "n_prompts": 72, "n_tokens": 9294, "n_held_out_prompts": 18,
                 "n_held_out_tokens": 2411},
        "settings": {"what": what, "layers": LAYERS}, "table": [],
        "versions": {"torch": "2.9.0", "eexit": "0.1.0"}, "made": "2026-01-02T03:04:05+00:00", "seconds": 92.5,
        "files": {"weights.safetensors": "0" * 64}, "checksum": "",
    }  # fmt: skip
    return about | change


def row(layer: int, series: str, **shares: float | None) -> dict[str, Any]:
    absent = dict.fromkeys(("at", "taken", "kept", "agreement"))
    return {"layer": layer, "series": series, "n": 1990, **absent, **shares}


def linear() -> dict[str, Any]:
    """Return the card of a readout that is better than the lens at every layer."""
    both = (("lens", LENS), ("linear", LINEAR))
    table = [row(layer, name, agreement=share) for name, shares in both for layer, share in shares.items()]
    return card("linear", "readout", table=table)


def gate() -> dict[str, Any]:
    """Return the card of a gate that keeps fewer exits with a higher threshold, and none at the first layer."""
    name = "confidence/0.97"
    table = [
        row(layer, name, at=at, taken=0.4 - at / 2, kept=1 - at if layer > 5 else None)
        for layer in LAYERS
        for at in THRESHOLDS
    ]
    return card("gate", "gate", table=table, settings={"rules": [name]})


@pytest.fixture(scope="module")
def bare(make_sweep: MakeSweep) -> Path:
    return make_sweep(1, [("normal", None), ("unfrozen", 1.0)])


@pytest.fixture(scope="module")
def used(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Used:
    """Return used(readout=card, …) → a sweep that uses these artefacts."""

    def used(**cards: dict[str, Any]) -> Sweep:
        folder = tmp_path_factory.mktemp("learned") / "s"
        shutil.copytree(bare, folder)
        about = json.loads((folder / "sweep.json").read_text())
        about["config"] |= {role: PLACES[role] for role in cards} | {"digests": {role: DIGESTS[role] for role in cards}}
        write_manifest(folder, about | {"learned": cards})
        return read_sweep(str(folder))

    return used


def section(sweep: Sweep) -> dict[str, Any]:
    found = learned_section(sweep)
    assert found
    return found


def test_without_cards_there_is_no_section_and_no_word_of_it(bare: Path, walk: Walk) -> None:
    sweep = read_sweep(str(bare))
    assert learned_section(sweep) is None
    assert dict(facts(sweep))["Readout"] == "lens"
    assert not {"Probe", "Adapter", "Deciding reads"} & dict(facts(sweep)).keys()
    assert walk("#/").get_by_text("Learned exits").count() == 0
    assert walk("#/methods").get_by_text("Learned exits").count() == 0


def test_the_chart_and_its_table_have_the_numbers_of_all_cards(used: Used) -> None:
    [chart] = section(used(readout=linear(), gate=gate()))["charts"]
    assert not missing_fields(chart)
    assert [variant["label"] for variant in chart["variants"]] == ["linear", "gate"]
    rows = chart["table"]["rows"]
    for name, shares in (("lens", LENS), ("linear", LINEAR)):
        its = {row["layer"]: row["agreement"] for row in rows if row["series"] == name}
        assert its == shares
    gated = [row for row in rows if row["artefact"] == "gate"]
    assert [(row["layer"], row["at"]) for row in gated] == [(layer, at) for layer in LAYERS[1:] for at in THRESHOLDS]
    assert {row["label"] for row in gated} == {f"confidence/0.97 at {at:g}" for at in THRESHOLDS}
    assert all(row["share"] == row["kept"] == pytest.approx(1 - row["at"]) for row in gated)


def test_the_artefact_and_its_data_are_described(used: Used) -> None:
    sweep = used(readout=linear(), gate=gate())
    (first, second) = section(sweep)["artefacts"]
    assert first["summary"] == "linear · fitted to 9,294 tokens of 72 prompts · digest 111111111111"
    said = dict(first["facts"])
    assert said["Held out"] == "2,411 tokens of 18 prompts"
    assert said["Made"] == "2026-01-02 03:04:05 UTC"
    assert dict(second["facts"])["Rules"] == "confidence/0.97"
    about = dict(facts(sweep))
    assert about["Readout"] == "linear (exits/linear, 111111111111)"
    assert about["Gate"] == "gate (exits/gate, 222222222222)"


@pytest.mark.parametrize("lacks", ["shares", "the table", "everything"])
def test_what_a_card_lacks_is_left_out(used: Used, lacks: str) -> None:
    cards = {"readout": linear(), "gate": gate(), "adapter": card("adapter", "adapter", model={}, data={})}
    for its in cards.values():
        its["table"] = [row | {"agreement": None} for row in its["table"]] if lacks == "shares" else []
    if lacks == "everything":
        cards = {role: {"what": role} for role in cards}
    found = section(used(**cards))
    assert [len(chart["variants"]) for chart in found["charts"]] == ([1] if lacks == "shares" else [])
    assert len(found["artefacts"]) == 3


def test_the_section_draws_and_is_opened_by_its_address(used: Used, visit: Visit, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    report.write_text(render(used(readout=linear(), gate=gate()), ""), encoding="utf-8")
    page = visit("#/at/learned", report)
    assert page.evaluate("document.activeElement.id") == "learned"
    chart = page.locator('[data-chart="learned"]')
    assert ink_of(all_drawn(chart).locator(".chart")) > 50
    chart.locator("select").select_option(label="gate")
    chart.locator("summary").click()
    rows = chart.locator("tbody tr")
    rows.first.wait_for()  # a table is made once it has been opened, and count() waits for nothing
    assert rows.count() == 2 * len(LAYERS) + len(THRESHOLDS) * (len(LAYERS) - 1)
