"""What charts write: tooltips without holes, differences in points, and names that tell settings apart."""

import re
from pathlib import Path

import pandas as pd
import vl_convert
from report_fixtures import Visit

from eexit.plan.configuration import Exit
from reports.charts.base import Difference, paired_chart, specification
from reports.charts.styles import Looks
from reports.frames.runs import naming

PIXELS = 8  # between the places that are looked at: points are wider


def test_a_tooltip_has_a_dash_for_what_is_not_known(visit: Visit, answered: Path) -> None:
    page = visit("#/", path=answered)
    canvas = page.locator("[data-chart=quality] .chart[data-ink] canvas")
    canvas.scroll_into_view_if_needed()
    box, tip = canvas.bounding_box(), page.locator("#vg-tooltip-element.visible")
    told = ""
    for x in range(PIXELS, int(box["width"]), PIXELS):
        for y in range(PIXELS, int(box["height"]), PIXELS):
            page.mouse.move(box["x"] + x, box["y"] + y)
            if "confidence/0.7" in (told := "".join(tip.all_inner_texts())):
                break
        else:
            continue
        break
    assert "unfrozen/confidence/0.7" in told
    assert re.search(r"Chosen for\s+–", told), "it was not chosen"
    assert "null" not in told


def test_differences_are_told_in_points_from_zero(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        [naming(Exit("unfrozen", "confidence", 0.9)) | {"correct": 0.04, "correct_n": 6, "order": 0}]
    ).assign(correct_low=0.02, correct_high=0.06)
    looks = Looks.of([Exit("unfrozen", "confidence", 0.9)])
    chart = paired_chart(rows, Difference("correct", "Right answers", "Right answers, in points"), "", looks)
    spec = specification(chart) | {
        "datasets": {"rows": rows.to_dict("records")},
        "width": 600,
        "params": [{"name": "picked", "value": ""}],
    }
    labels = re.findall(r">([+−\-]?[\d.]+%?)</text>", vl_convert.vegalite_to_svg(spec))
    assert "0" in labels
    assert {"+2", "+4"} <= set(labels)


def test_settings_of_different_exit_sets_have_different_labels() -> None:
    sets: tuple[tuple[int, ...], ...] = ((), (25,), (20, 25))
    assert [naming(Exit("unfrozen", "agree", None, layers))["label"] for layers in sets] == [
        "agree", "agree@25", "agree@20,25",
    ]  # fmt: skip
