"""The overview's charts of a sweep with several rules: what is saved, by which rule, and legends that fit."""

import re
from pathlib import Path

from report_fixtures import Page, Visit, all_drawn, ink_of
from synthetic_sweeps import swept

from eexit.method.rules import CONTROL, ExitHistogram
from eexit.plan.configuration import Configuration, EarlyExit, NoExit
from reports import build_report


def test_what_it_saves_is_a_table_too_and_fits_a_phone(
    visit: Visit, several_report: Path, rules_grid: list[Configuration]
) -> None:
    page = visit(
        "#/?open=numbers&quality.y=Disagreement", path=several_report, viewport=(("width", 360), ("height", 740))
    )
    section = page.locator("[data-chart=quality]")
    assert ink_of(all_drawn(section).locator(".chart")) > 100
    section.get_by_role("combobox", name="Saved").select_option("time, realised at batch 8")
    section = page.locator("[data-fold=numbers]")
    rows = section.locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == len(rules_grid) + 1
    assert rows.filter(has_text="generate").count() == 1
    assert rows.filter(has_text="unfrozen/kl/1").first.inner_text().startswith("unfrozen/kl/1 (oracle)")
    section.get_by_role("button", name="Saving, realised, batch 8", exact=True).press("Enter")
    assert rows.first.locator("th").inner_text() == "generate", "it loses"
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_report_of_every_rule_stays_readable(visit: Visit, tmp_path: Path) -> None:
    """No legend is cut off."""
    parameters: dict[str, tuple[float | None, ...]] = {
        "kl": (1.0,), "agree": (None,), "confidence": (0.6, 0.8), "margin": (0.4, 0.7), "entropy": (0.3, 1.0),
        "similarity": (0.95, 0.97), "patience": (2.0, 3.0), "predicted_kl": (1.0, 2.0), "fixed": (10.0, 20.0),
    }  # fmt: skip
    followed = EarlyExit("frozen_residual", "confidence", 0.8)
    grid: list[Configuration] = [NoExit(), EarlyExit("frozen_residual", CONTROL, ExitHistogram(followed.key, ()))]
    grid += [EarlyExit("frozen_residual", rule, each) for rule, several in parameters.items() for each in several]
    grid += [EarlyExit("unfrozen", rule, several[0]) for rule, several in parameters.items()]
    folder = swept(tmp_path / "every", grid, 2)
    page = visit("#/?open=all", path=build_report(str(folder), tmp_path / "r.html"))
    chart = all_drawn(page.locator("[data-chart=quality]")).locator(".chart")
    assert chart.locator("canvas").bounding_box()["width"] <= chart.bounding_box()["width"]


def test_the_rule_of_a_dose_response_is_chosen_and_only_multiply_adds_are_theoretical(
    visit: Visit, several_report: Path
) -> None:
    page = visit("#/?open=all", path=several_report)
    chart = page.locator("[data-chart=dose-exit_rate]")
    chart.get_by_role("combobox", name="Rule").select_option("fixed: exit layer")
    chart.locator(".chart canvas[aria-label*='exit layer of rule fixed']").wait_for()
    assert is_of_multiply_adds(page), "not layers skipped, which is another number of the same setting"
    page.goto(several_report.as_uri() + "#/methods")
    page.get_by_role("heading", name="Depth and savings").wait_for()
    assert is_of_multiply_adds(page)


def is_of_multiply_adds(page: Page) -> bool:
    """Return True if everything labelled theoretical is in multiply-adds, and layers skipped are there too."""
    page.evaluate("document.querySelectorAll('main select').forEach(select => select.remove())")  # selects list both
    said = page.locator("main").inner_text().lower()
    return "layers skipped" in said and not re.search(
        r"(skip|layers)[^.]{0,40}theoretical|theoretical[^.]{0,40}skip", said
    )
