"""Every chart draws, brings out the same configuration, and tells of its points."""

import re

import pytest
from report_fixtures import MakeSweep, Visit, all_drawn, ink_of, is_redrawn, open_tables, saved


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_draws_ink_and_brings_out_the_same_configuration(visit: Visit, scheme: str) -> None:
    page = all_drawn(visit("#/?open=all", color_scheme=scheme))
    assert page.locator(".chart").count() == 6
    assert min(ink_of(chart) for chart in page.locator(".chart").all()) > 50
    open_tables(page)
    assert page.locator("figure canvas[aria-label]").count() == 6
    highlight = page.get_by_label("Highlight")
    assert is_redrawn(page.locator("[data-chart=mix]"), lambda: highlight.select_option("unfrozen/kl/1"))


def test_tooltips_have_intervals_or_say_why_there_is_none(visit: Visit, make_sweep: MakeSweep) -> None:
    """Labels of a saved chart's points have the tooltips' words."""
    folder = make_sweep(6, fail=lambda prompt, mode, k: (mode, k) == ("unfrozen", 0.5) and prompt > 2)
    page = all_drawn(visit("#/?open=all", path=folder))
    svg = saved(page, "Save Side by side as SVG").path().read_text()
    tooltips = {*re.findall(r'aria-label="([^"]+)" role="[^"]+" aria-roledescription="point"', svg)}
    few = {tooltip for tooltip in tooltips if "too few prompts for an interval" in tooltip}
    assert 0 < len(few) < len(tooltips), "and of the other rows"
    assert all(re.search(r"\[.+, .+\]", tooltip) for tooltip in tooltips - few)
    page.locator("[data-chart=mix] canvas").hover(position={"x": 400, "y": 60})
    assert "n prompts" in page.locator("#vg-tooltip-element.visible").inner_text()
