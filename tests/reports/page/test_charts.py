"""Content of charts: tooltips without gaps, differences in points, and names that distinguish settings."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from chart_fields import drawn, variant_of
from report_fixtures import Walk, saved

from eexit.plan.configuration import EarlyExit
from reports.read.sweep import read_sweep
from reports.sections.contrasts import PairedContrast, paired_chart
from reports.sections.exits.dose_response import dose_chart
from reports.shared.charts import specification
from reports.shared.per_configuration import naming
from reports.shared.styles import ChartStyle


def test_a_tooltip_leaves_out_what_is_not_known(walk: Walk, answered: Path) -> None:
    page = walk("#/", path=answered)
    canvas = page.locator("[data-chart=quality] canvas[aria-label]")
    svg = saved(page, "Save Quality against cost as SVG").path().read_text()
    canvas.scroll_into_view_if_needed()
    box, tip = canvas.bounding_box(), page.locator("#vg-tooltip-element.visible")
    told = ""
    for x, y in symbols_of(svg):
        page.mouse.move(box["x"] + x, box["y"] + y)
        if "confidence/0.7" in (told := "".join(tip.all_inner_texts())):
            break
    assert "unfrozen/confidence/0.7" in told
    assert "Accuracy" in told
    assert "Chosen for" not in told, "it was not chosen"
    assert "null" not in told


def symbols_of(svg: str) -> list[tuple[float, float]]:
    """Return the positions in pixels of a chart's symbols on its canvas; the plot begins at the first group."""
    (left, top), *places = [
        (float(x), float(y))
        for x, y in re.findall(r'<(?:g|path)[^>]* transform="translate\(([-\d.]+),([-\d.]+)\)"', svg)
    ]
    return [(left + x, top + y) for x, y in places]


def test_differences_are_told_in_points_from_zero(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        [naming(EarlyExit("unfrozen", "confidence", 0.9)) | {"correct": 0.04, "correct_n": 6, "order": 0}]
    ).assign(correct_low=0.02, correct_high=0.06)
    looks = ChartStyle.for_configurations([EarlyExit("unfrozen", "confidence", 0.9)])
    chart = paired_chart(rows, PairedContrast("correct", "Right answers", "Right answers, in points"), "", looks)
    spec = specification(chart) | {
        "datasets": {"rows": rows.to_dict("records")},
        "width": 600,
        "params": [{"name": "picked", "value": ""}],
    }
    labels = re.findall(r">([+−\-]?[\d.]+%?)</text>", vl_convert.vegalite_to_svg(spec))
    assert "0" in labels
    assert {"+2", "+4"} <= set(labels)


def test_each_exit_set_of_a_rule_has_a_line_of_its_own() -> None:
    rows = [
        naming(EarlyExit("unfrozen", "confidence", parameter, layers)) | {"mean_depth": depth, "mean_depth_low": None}
        for depth, layers in ((0.5, ()), (0.9, (25,)))
        for parameter in (0.8, 0.9, 0.99)
    ]
    frame = pd.DataFrame(rows).assign(mean_depth_high=None, n=6)
    looks = ChartStyle.for_configurations([EarlyExit("unfrozen", "confidence", 0.9)])
    spec = specification(dose_chart(frame, "confidence", "mean_depth", "Mean depth", "", looks))
    svg = vl_convert.vegalite_to_svg(spec | {"datasets": {"rows": frame.to_dict("records")}})
    lines = re.findall(r'class="mark-line role-mark[^>]*><path [^>]*d="([^"]+)"', svg)
    assert [len(re.findall("[ML]", line)) for line in lines] == [3, 3]


def test_the_thick_line_joins_what_no_online_setting_beats_in_both(answered: Path) -> None:
    """The bolder setting loses answers; of two with the same saving, the one with fewer right answers is beaten."""
    sweep = read_sweep(str(answered.parent))
    chart = drawn(sweep)["quality"]
    variant, rows = variant_of(chart, "Accuracy"), chart["table"]["rows"]
    online = [row for row in rows if row["mode"] == "normal" or (row["rule"] == "confidence" and not row["control_of"])]
    kept = [
        row["configuration"]
        for row in online
        if not any(
            other["correct"] > row["correct"] and other["layers_skipped"] >= row["layers_skipped"] for other in online
        )
    ]
    assert len(kept) > 1, "full depth and a setting at least"
    layers = [layer for layer in variant["spec"]["layer"] if layer["mark"].get("strokeWidth") == 9]
    assert points_of(layers, rows, "line") == len(kept)


def points_of(layers: list[dict[str, Any]], rows: list[dict[str, Any]], mark: str) -> int:
    """Return the number of points of a drawn line."""
    svg = vl_convert.vegalite_to_svg({"layer": layers, "data": {"name": "rows"}, "datasets": {"rows": rows}})
    (path,) = re.findall(rf'class="mark-{mark} role-mark[^>]*><path [^>]*d="([^"]+)"', svg)
    return len(re.findall(r"[ML]", path))
