"""The section on learned exits: the cards in sweep.json as one chart with its table."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from chart_fields import known, missing_fields
from report_fixtures import MakeSweep, Visit, all_drawn, ink_of
from synthetic_sweeps import FINAL, LAYERS, write_manifest

from reports.page.run_info import facts
from reports.read.sweep import Sweep, read_sweep
from reports.sections.learned_exits import learned_section

SHARES = {
    "lens": {5: 0.040, 10: 0.068, 15: 0.111, 20: 0.267, 25: 0.455},
    "linear": {5: 0.287, 10: 0.309, 15: 0.345, 20: 0.481, 25: 0.716},
}
THRESHOLDS = (0.1, 0.5)
RULE = "confidence/0.97"


def card(what: str, *table: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Return an artefact's card, as in the sweep.json of a sweep that uses it."""
    about = {
        "what": what, "layers": LAYERS, "readout": "lens", "model": {"name": "tiny", "n_layers": FINAL + 1},
        "data": {"sweep": "results/texts", "n_prompts": 72, "n_tokens": 9294, "n_held_out_prompts": 18,
                 "n_held_out_tokens": 2411},
        "settings": {"what": what, "layers": LAYERS, "rules": [RULE] if what == "gate" else []},
        "table": [dict.fromkeys(("at", "taken", "kept", "agreement")) | {"n": 1990} | row for row in table],
        "versions": {"torch": "2.9.0", "eexit": "0.1.0"}, "made": "2026-01-02T03:04:05+00:00", "seconds": 92.5,
    }  # fmt: skip
    return about | change


READOUT = card(
    "linear", *({"layer": at, "series": name, "agreement": SHARES[name][at]} for name in SHARES for at in LAYERS)
)
# It keeps fewer exits with a higher threshold, and none at the first layer.
GATE = card("gate", *(
    {"layer": layer, "series": RULE, "at": at, "taken": 0.4 - at / 2, "kept": 1 - at if layer > 5 else None}
    for layer, at in product(LAYERS, THRESHOLDS)
))  # fmt: skip


def sweep_with(folder: Path, make_sweep: MakeSweep, **cards: dict[str, Any]) -> Sweep:
    """Write a sweep that uses these artefacts."""
    shutil.copytree(make_sweep(1, [("normal", None), ("unfrozen", 1.0)]), folder)
    about = json.loads((folder / "sweep.json").read_text())
    about["config"] |= {role: f"exits/{role}" for role in cards}
    about["config"]["digests"] = {role: f"{number}" * 64 for number, role in enumerate(cards, 1)}
    write_manifest(folder, about | {"learned": cards})
    return read_sweep(str(folder))


def test_a_chart_has_the_numbers_of_all_cards(several: Sweep, make_sweep: MakeSweep, tmp_path: Path) -> None:
    assert learned_section(several) is None
    assert dict(facts(several))["Readout"] == "lens"
    assert not {"Probe", "Adapter", "Deciding reads"} & dict(facts(several)).keys()
    sweep = sweep_with(tmp_path / "s", make_sweep, readout=READOUT, gate=GATE)
    found = known(learned_section(sweep))
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
    said = {"Held out": "2,411 tokens of 18 prompts", "Made": "2026-01-02 03:04:05 UTC"}
    assert (dict(first["facts"]) | said, dict(second["facts"])["Rules"]) == (dict(first["facts"]), RULE)
    used = {"Readout": "linear (exits/readout, 111111111111)", "Gate": "gate (exits/gate, 222222222222)"}
    assert about | used == about


@pytest.mark.parametrize("lacks", ["shares", "the table", "everything"])
def test_what_a_card_lacks_is_left_out(make_sweep: MakeSweep, tmp_path: Path, lacks: str) -> None:
    without = [row | {"agreement": None} for row in READOUT["table"]] if lacks == "shares" else []
    gate = GATE if lacks == "shares" else GATE | {"table": []}
    cards = {"readout": READOUT | {"table": without}, "gate": gate, "adapter": card("adapter", model={}, data={})}
    if lacks == "everything":
        cards = {role: {"what": role} for role in cards}
    found = known(learned_section(sweep_with(tmp_path / "s", make_sweep, **cards)))
    assert [len(chart["variants"]) for chart in found["charts"]] == ([1] if lacks == "shares" else [])
    assert len(found["artefacts"]) == 3


def test_the_section_is_opened_by_its_address(make_sweep: MakeSweep, visit: Visit, tmp_path: Path) -> None:
    sweep_with(tmp_path / "s", make_sweep, readout=READOUT, gate=GATE)
    page = visit("#/at/learned", tmp_path / "s")
    assert page.evaluate("document.activeElement.id") == "learned"
    chart = page.locator('[data-chart="learned"]')
    assert ink_of(all_drawn(chart).locator(".chart")) > 50
    chart.locator("select").select_option(label="gate")
    chart.locator("summary").click()
    chart.locator("tbody tr").first.wait_for()  # a table is made once it has been opened
    assert chart.locator("tbody tr").count() == 2 * len(LAYERS) + len(THRESHOLDS) * (len(LAYERS) - 1)
