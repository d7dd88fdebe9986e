"""The overview's charts: which there are, and that each field they name is a column of their rows."""

import re
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from chart_fields import charts_of, content_of, drawn, missing_fields, variant_of
from report_fixtures import MakeSweep, Visit, all_drawn, ink_of, saved
from synthetic_sweeps import CHOSEN, KL_1, add_timings, graded, swept

from eexit.plan.configuration import Configuration, EarlyExit, HFGenerate, NoExit
from reports.read.sweep import read_sweep
from reports.shared.styles import HOLLOW


def test_every_chart_has_the_columns_that_it_names_and_gives_n(several_content: Any, make_sweep: MakeSweep) -> None:
    charts = charts_of(several_content)
    assert list(charts) == ["quality", "mix", "dose-exit_rate", "dose-mean_depth", "depth"]
    assert {key: missing for key, chart in charts.items() if (missing := missing_fields(chart))} == {}
    captions = [chart["caption"] for chart in several_content["charts"]]
    assert len(captions) == 4
    assert all("95% intervals over prompts; n = 12 prompts." in caption for caption in captions)
    _, *few = drawn(read_sweep(str(make_sweep(2)))).values()
    assert all("n = 2 prompts." in chart["caption"] and "intervals" not in chart["caption"] for chart in few)


def test_where_nothing_exits_early_no_chart_says_what_is_saved(tmp_path: Path) -> None:
    folder = swept(tmp_path / "s", [NoExit()], 1, columns=lambda *_: dict.fromkeys(COSTS, 100.0))
    add_timings(folder, {NoExit(): [1.0, 1.0], HFGenerate(): [2.0, 2.0]})
    assert drawn(read_sweep(str(folder))).keys() == {"mix", "depth"}


FIXED = EarlyExit("unfrozen", "fixed", 10.0)
COSTS = ("macs_full", "macs_required", "macs_executed")


@pytest.mark.parametrize(("contradicted", "is_named"), [(4, True), (2, False)])
def test_a_rule_that_is_mostly_contradicted_is_named(tmp_path: Path, contradicted: int, is_named: bool) -> None:
    marks = {NoExit(): "✓" * 6, EarlyExit("skip", "confidence", 0.7): "✓✗" * 3}
    folder = graded(tmp_path / "s", marks, exits_on_normal=5, contradicted_on_normal=contradicted)
    trade = drawn(read_sweep(str(folder)))["quality"]
    assert trade["caption"].startswith("Careful: ") == is_named
    assert ("skip/confidence/0.7 (80.0% [80.0, 80.0] of 30 exits)." in trade["caption"]) == is_named
    assert "contradicted" in [column["key"] for column in trade["table"]["columns"]]


def test_the_chart_is_drawn_with_the_chosen_setting_ringed(answered: Path, visit: Visit) -> None:
    page = visit("#/?open=numbers", answered)
    figure = page.locator('[data-chart="quality"]')
    quality, cost = figure.locator("select").all()
    assert quality.locator("option").all_inner_texts()[:2] == ["Accuracy", "Score by the judge"]
    assert ink_of(all_drawn(figure).locator(".chart")) > 50
    cost.select_option(label="multiply-adds, run")
    quality.select_option(label="Disagreement")
    assert "Thin lines" not in figure.inner_text()
    cost.select_option(label="layers skipped")
    figure.get_by_role("button", name="replayed").click()
    assert "Thin lines" in figure.inner_text()
    page.wait_for_timeout(300)
    svg = saved(page, "Save Quality against cost as SVG").path().read_text()
    assert len(re.findall(r'<path [^>]*stroke="#16191d"[^>]*stroke-width="2.5"', svg)) == 1, "the ring"
    assert len(re.findall(r'<path [^>]*stroke-width="1"[^>]*class="mark-line|<g class="mark-line', svg)) >= 2
    figure.locator("summary").click()
    cells = figure.locator("tbody tr").filter(has_text=CHOSEN).first.inner_text()
    assert "disagreement ≤ 5%" in cells, "not by the ring alone"


def test_the_thick_line_joins_what_no_online_setting_beats_in_both(answered: Path) -> None:
    """The bolder setting loses answers; of two with the same saving, the one with fewer right answers is beaten."""
    chart = content_of(answered)["trade"]
    rows = chart["table"]["rows"]
    online = [row for row in rows if row["mode"] == "normal" or (row["rule"] == "confidence" and not row["control_of"])]
    points = [(row["correct"], row["layers_skipped"]) for row in online]
    kept = [(y, x) for y, x in points if not any(better > y and more >= x for better, more in points)]
    assert len(kept) > 1, "full depth and a setting at least"
    layers = [each for each in variant_of(chart, "Accuracy")["spec"]["layer"] if each["mark"].get("strokeWidth") == 9]
    svg = vl_convert.vegalite_to_svg({"layer": layers, "data": {"name": "rows"}, "datasets": {"rows": rows}})
    (path,) = re.findall(r'class="mark-line role-mark[^>]*><path [^>]*d="([^"]+)"', svg)
    assert len(re.findall(r"[ML]", path)) == len(kept)


@pytest.mark.parametrize("loop", [3, 2])
def test_points_of_loops_are_hollow_and_the_caption_says_so(tmp_path: Path, loop: int) -> None:
    """More than half of the text is one loop, or just half."""
    of_all = dict.fromkeys(COSTS, 100.0) | {"n_tokens": 4}
    columns = {FIXED.key: of_all | {"longest_loop": loop}}
    grid: list[Configuration] = [NoExit(), FIXED, KL_1]
    folder = swept(tmp_path / "s", grid, 1, columns=lambda its, *_: columns.get(its.key, of_all))
    chart = drawn(read_sweep(str(folder)))["quality"]
    for measure, cost in (("Disagreement", "layers skipped"), ("Perplexity", "multiply-adds, run")):
        spec = variant_of(chart, measure, cost)["spec"]
        svg = vl_convert.vegalite_to_svg(spec | {"datasets": {"rows": chart["table"]["rows"]}})
        circles = re.findall(r'<path [^>]*d="M[\d.]+,0A[^>]*>', svg)
        assert sum('fill-opacity="0"' in mark for mark in circles) == (loop == 3), measure
        titles = {tip["title"] for layer in spec["layer"] for tip in layer["encoding"].get("tooltip", [])}
        assert "In one loop" in titles
    assert (HOLLOW in chart["caption"]) == (loop == 3)


@pytest.mark.parametrize(("first", "kind"), [(3, "log"), (30, "linear")])
def test_a_logarithmic_axis_is_said_to_be_one(tmp_path: Path, first: int, kind: str) -> None:
    at = {NoExit(): 100, KL_1: first}
    folder = swept(tmp_path / "s", n_prompts=2, columns=lambda its, *_: {"tokens_until_difference": at[its]})
    variant = variant_of(drawn(read_sweep(str(folder)))["quality"], "Fidelity")
    assert ("The axis is logarithmic." in variant["note"]) == (kind == "log")
    channels = [layer["encoding"].get("y", {}) for layer in variant["spec"]["layer"]]
    assert {channel["scale"]["type"] for channel in channels if "scale" in channel} == {kind}
