"""Every chart draws, brings out the same configuration, and tells of its points."""

import re

import pytest
from report_fixtures import MakeSweep, Visit, all_drawn, ink_of, is_redrawn, open_tables

# Positions of a canvas's points in the page, row by row: coloured pixels among coloured ones. Only marks are coloured;
# paper, axes and texts are grey, and bars, which have no tooltips, are thinner.
ON_POINTS = """canvas => {
  const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const scale = canvas.getBoundingClientRect().width / width;
  const isColoured = (x, y) => {
    const [red, green, blue, alpha] = data.slice(4 * (y * width + x), 4 * (y * width + x) + 4);
    return alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60;
  };
  const places = [];
  for (let y = 2; y < canvas.height - 2; y += 2)
    for (let x = 0; x < width; x += 2)
      if ([-2, 0, 2].every((away) => isColoured(x, y + away))) places.push([x * scale, y * scale]);
  return places;
}"""


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
    folder = make_sweep(6, fail=lambda prompt, mode, k: (mode, k) == ("unfrozen", 0.5) and prompt > 2)
    page = visit("#/?open=all", path=folder, viewport=(("width", 700), ("height", 900)))
    page.locator("[data-chart=beside] .chart:has(canvas[aria-label])").wait_for()
    canvas, said = page.locator("[data-chart=beside] canvas").first, set[str]()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for x, y in canvas.evaluate(ON_POINTS):
        page.mouse.move(box["x"] + x, box["y"] + y)
        if page.locator("#vg-tooltip-element.visible").count():
            said.add(" ".join(page.locator("#vg-tooltip-element tr").all_inner_texts()))
    few = {tooltip for tooltip in said if "too few prompts for an interval" in tooltip}
    assert 0 < len(few) < len(said), "and of the other rows"
    assert all(re.search(r"\[.+, .+\]", tooltip) for tooltip in said - few)
    assert not any("null" in tooltip for tooltip in said)
