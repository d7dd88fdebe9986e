"""The overview's first chart and its table of all numbers: sorting, scrolling, and legends that fit."""

from pathlib import Path

import pytest
from report_fixtures import PHONE, Visit, Walk, all_drawn, ink_of
from synthetic_sweeps import add_timings, swept, with_answers

from eexit.method.rules import CONTROL, ExitHistogram
from eexit.plan.configuration import Configuration, EarlyExit, HFGenerate, NoExit
from reports import build_report


def test_what_it_saves_is_a_table_too_and_fits_a_phone(visit: Visit, tmp_path: Path) -> None:
    folder = with_answers(tmp_path / "s", 6, modes=("unfrozen",))
    seconds = {NoExit(): [10.0], EarlyExit("unfrozen", "confidence", 0.7): [8.0], HFGenerate(): [12.0]}
    add_timings(folder, seconds, batch=8)
    path = build_report(str(folder), tmp_path / "r.html")
    page = visit("#/?open=numbers&quality.y=Disagreement", path=path, viewport=PHONE)
    section = page.locator("[data-chart=quality]")
    assert ink_of(all_drawn(section).locator(".chart")) > 100
    section.get_by_role("combobox", name="Saved").select_option("time, realised at batch 8")
    section = page.locator("[data-fold=numbers]")
    rows = section.locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == 1 + 2 * 2 * 2 + 1
    assert rows.filter(has_text="unfrozen/kl/2").first.inner_text().startswith("unfrozen/kl/2 (oracle)")
    section.get_by_role("button", name="Saving, realised, batch 8", exact=True).press("Enter")
    assert rows.first.locator("th").inner_text() == "generate", "it loses"
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("measure", ["Perplexity", "Fidelity", "Disagreement"])
def test_the_column_that_the_trade_off_is_about_is_seen_in_its_table(walk: Walk, measure: str) -> None:
    figure = walk(f"#/?quality.y={measure}").locator("[data-chart=quality]")
    figure.locator("summary").click()
    title = "Same as normal until" if measure == "Fidelity" else measure
    column = figure.locator("thead th", has_text=title).bounding_box()
    shown = figure.locator(".scroll").bounding_box()
    assert column["x"] + column["width"] <= shown["x"] + shown["width"]


def test_no_legend_is_cut_off_in_a_report_of_every_rule(visit: Visit, tmp_path: Path) -> None:
    parameters: dict[str, tuple[float | None, ...]] = {
        "kl": (1.0,), "agree": (None,), "confidence": (0.6, 0.8), "margin": (0.4, 0.7), "entropy": (0.3, 1.0),
        "similarity": (0.95, 0.97), "patience": (2.0, 3.0), "predicted_kl": (1.0, 2.0), "fixed": (10.0, 20.0),
    }  # fmt: skip
    followed = EarlyExit("frozen_residual", "confidence", 0.8)
    grid: list[Configuration] = [NoExit(), EarlyExit("frozen_residual", CONTROL, ExitHistogram(followed.key, ()))]
    grid += [EarlyExit("frozen_residual", rule, each) for rule, several in parameters.items() for each in several]
    grid += [EarlyExit("unfrozen", rule, several[0]) for rule, several in parameters.items()]
    path = build_report(str(swept(tmp_path / "every", grid, 2)), tmp_path / "r.html")
    chart = all_drawn(visit("#/", path=path).locator("[data-chart=quality]")).locator(".chart")
    assert chart.locator("canvas").bounding_box()["width"] <= chart.bounding_box()["width"]
