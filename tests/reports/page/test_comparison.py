"""The page of a comparison in a browser: charts, links, accessibility, and nothing wider than a phone."""

from pathlib import Path

import pytest
from compared_sweeps import save_model_sweep
from report_fixtures import PHONE, Walk, all_drawn, ink_of, is_redrawn, open_tables, violations

from eexit.results.layout import REPORT, REPORT_MARK
from eexit.studies.comparison.comparison import read_comparison
from reports.page.comparison import write_comparison


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    small = save_model_sweep(folder / "small", "org/small")
    large = save_model_sweep(folder / "large", "org/<b>large", bold=0.6, max_new_tokens=64)
    (small / REPORT).write_text(REPORT_MARK)
    return write_comparison(read_comparison([small, large]), folder / "compare.html")


def test_charts_are_drawn_and_models_link_to_their_reports(walk: Walk, compared: Path) -> None:
    page = all_drawn(walk("#/", path=compared))
    assert page.locator("main li").first.inner_text() == "max_new_tokens differs: 40 (small), 64 (<b>large)"
    assert [ink_of(chart) > 50 for chart in page.locator(".chart").all()] == [True, True]
    depths = page.locator("[data-chart=depths]")
    assert is_redrawn(depths, lambda: depths.get_by_role("combobox").select_option("sure and confirmed"))
    link = page.get_by_role("link", name="small").first
    assert link.get_attribute("href") == "small/report.html"
    assert page.locator("header :is(select, input, #csv):visible").count() == 0
    assert page.locator("main b").count() == 0
    without_scripts = compared.read_text().partition("<noscript>")[2].partition("</noscript>")[0]
    assert "max_new_tokens differs" in without_scripts


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_comparison_that_fits_a_phone(walk: Walk, compared: Path, axe: str, scheme: str) -> None:
    page = all_drawn(walk("#/", path=compared, color_scheme=scheme, viewport=PHONE))
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    open_tables(page)
    assert violations(page, axe, scheme) == []
