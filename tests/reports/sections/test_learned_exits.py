"""The section on learned exits: the cards in sweep.json as one chart with its table."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chart_fields import missing_fields
from report_fixtures import MakeSweep, Visit, all_drawn, ink_of
from synthetic_sweeps import FINAL, LAYERS, write_manifest

from reports.page.build import render
from reports.page.run_info import facts
from reports.read.sweep import Sweep, read_sweep
from reports.sections.learned_exits import learned_section

Used = Callable[..., Sweep]
DIGESTS = {"readout": "1" * 64, "gate": "2" * 64, "adapter": "3" * 64}
PLACES = {"readout": "exits/linear", "gate": "exits/gate", "adapter": "exits/student"}
SHARES = {
    "lens": {5: 0.040, 10: 0.068, 15: 0.111, 20: 0.267, 25: 0.455},
    "linear": {5: 0.287, 10: 0.309, 15: 0.345, 20: 0.481, 25: 0.716},
}
THRESHOLDS = (0.1, 0.5)
RULE = "confidence/0.97"


def card(what: str, *table: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Return an artefact's card, as in the sweep.json of a sweep that uses it."""
    about = {
        "format": 2, "what": what, "holds": [what], "layers": LAYERS, "readout": "lens", "adapter": None,
        "model": {"name": "tiny", "revision": None, "digest": "sha256:0", "n_layers": FINAL + 1, "dtype": "float32"},
        "data": {"sweep": "results/texts", "n_prompts": 72, "n_tokens": 9294, "n_held_out_prompts": 18,
                 "n_held_out_tokens": 2411},
        "settings": {"what": what, "layers": LAYERS, "rules": [RULE] if what == "gate" else []},
        "table": [dict.fromkeys(("at", "taken", "kept", "agreement")) | {"n": 1990} | row for row in table],
        "versions": {"torch": "2.9.0", "eexit": "0.1.0"}, "made": "2026-01-02T03:04:05+00:00", "seconds": 92.5,
        "files": {"weights.safetensors": "0" * 64}, "checksum": "",
    }  # fmt: skip
    return about | change


READOUT = card(
    "linear",
    *({"layer": layer, "series": name, "agreement": its[layer]} for name, its in SHARES.items() for layer in its),
)
GATE = card(  # it keeps fewer exits with a higher threshold, and none at the first layer
    "gate",
    *(
        {"layer": layer, "series": RULE, "at": at, "taken": 0.4 - at / 2, "kept": 1 - at if layer > 5 else None}
        for layer in LAYERS
        for at in THRESHOLDS
    ),
)


@pytest.fixture
def used(make_sweep: MakeSweep, tmp_path: Path) -> Used:
    """Return used(readout=card, …) → a sweep that uses these artefacts."""

    def used(**cards: dict[str, Any]) -> Sweep:
        folder = shutil.copytree(make_sweep(1, [("normal", None), ("unfrozen", 1.0)]), tmp_path / "s")
        about = json.loads((folder / "sweep.json").read_text())
        about["config"] |= {role: PLACES[role] for role in cards} | {"digests": {role: DIGESTS[role] for role in cards}}
        write_manifest(folder, about | {"learned": cards})
        return read_sweep(str(folder))

    return used


def section(sweep: Sweep) -> dict[str, Any]:
    found = learned_section(sweep)
    assert found
    return found


def test_without_cards_there_is_no_section_and_no_word_of_it(several: Sweep) -> None:
    assert learned_section(several) is None
    assert dict(facts(several))["Readout"] == "lens"
    assert not {"Probe", "Adapter", "Deciding reads"} & dict(facts(several)).keys()


def test_the_chart_and_its_table_have_the_numbers_of_all_cards(used: Used) -> None:
    sweep = used(readout=READOUT, gate=GATE)
    found = section(sweep)
    [chart] = found["charts"]
    assert not missing_fields(chart)
    assert [variant["label"] for variant in chart["variants"]] == ["linear", "gate"]
    rows = chart["table"]["rows"]
    for name, shares in SHARES.items():
        assert {row["layer"]: row["agreement"] for row in rows if row["series"] == name} == shares
    gated = [row for row in rows if row["artefact"] == "gate"]
    assert [(row["layer"], row["at"]) for row in gated] == [(layer, at) for layer in LAYERS[1:] for at in THRESHOLDS]
    assert {row["label"] for row in gated} == {f"{RULE} at {at:g}" for at in THRESHOLDS}
    assert all(row["share"] == row["kept"] == pytest.approx(1 - row["at"]) for row in gated)
    (first, second), about = found["artefacts"], dict(facts(sweep))
    assert first["summary"] == "linear · fitted to 9,294 tokens of 72 prompts · digest 111111111111"
    said = dict(first["facts"])
    assert (said["Held out"], said["Made"]) == ("2,411 tokens of 18 prompts", "2026-01-02 03:04:05 UTC")
    assert dict(second["facts"])["Rules"] == RULE
    assert about["Readout"] == "linear (exits/linear, 111111111111)"
    assert about["Gate"] == "gate (exits/gate, 222222222222)"


@pytest.mark.parametrize("lacks", ["shares", "the table", "everything"])
def test_what_a_card_lacks_is_left_out(used: Used, lacks: str) -> None:
    without = [row | {"agreement": None} for row in READOUT["table"]] if lacks == "shares" else []
    gate = GATE if lacks == "shares" else GATE | {"table": []}
    cards = {"readout": READOUT | {"table": without}, "gate": gate, "adapter": card("adapter", model={}, data={})}
    if lacks == "everything":
        cards = {role: {"what": role} for role in cards}
    found = section(used(**cards))
    assert [len(chart["variants"]) for chart in found["charts"]] == ([1] if lacks == "shares" else [])
    assert len(found["artefacts"]) == 3


def test_the_section_draws_and_is_opened_by_its_address(used: Used, visit: Visit, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    report.write_text(render(used(readout=READOUT, gate=GATE), ""), encoding="utf-8")
    page = visit("#/at/learned", report)
    assert page.evaluate("document.activeElement.id") == "learned"
    chart = page.locator('[data-chart="learned"]')
    assert ink_of(all_drawn(chart).locator(".chart")) > 50
    chart.locator("select").select_option(label="gate")
    chart.locator("summary").click()
    chart.locator("tbody tr").first.wait_for()  # a table is made once it has been opened
    assert chart.locator("tbody tr").count() == 2 * len(LAYERS) + len(THRESHOLDS) * (len(LAYERS) - 1)
