"""Labels, tooltips, fading and order don't mislead the reader, and search finds what it should."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_fixtures import MakeSweep, Page, Visit, Walk
from synthetic_sweeps import run_rows, write_runs

from reports import build_report

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


def tooltips(page: Page, key: str) -> Iterator[str]:
    """Return the tooltips of points, from the topmost on."""
    page.locator(f"[data-chart={key}] .chart:has(canvas[aria-label])").wait_for()
    canvas = page.locator(f"[data-chart={key}] canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for x, y in canvas.evaluate(ON_POINTS):
        page.mouse.move(box["x"] + x, box["y"] + y)
        if page.locator("#vg-tooltip-element.visible").count():
            yield " ".join(page.locator("#vg-tooltip-element tr").all_inner_texts())


def test_tooltips_say_where_an_interval_is_and_where_there_are_too_few_prompts(
    visit: Visit, make_sweep: MakeSweep
) -> None:
    folder = make_sweep(6, fail=lambda prompt, mode, k: (mode, k) == ("unfrozen", 0.5) and prompt > 2)
    page = visit(
        "#/?open=all", path=build_report(str(folder), folder / "r.html"), viewport=(("width", 700), ("height", 900))
    )
    said = set(tooltips(page, "beside"))
    few = {tooltip for tooltip in said if "too few prompts for an interval" in tooltip}
    assert few
    assert said - few, "of the other rows"
    assert all(re.search(r"\[.+, .+\]", tooltip) for tooltip in said - few)
    assert not any("null" in tooltip for tooltip in said)


@pytest.mark.parametrize("measure", ["Perplexity", "Fidelity", "Disagreement"])
def test_the_column_that_the_trade_off_is_about_is_seen_in_its_table(walk: Walk, measure: str) -> None:
    page = walk(f"#/?quality.y={measure}")
    figure = page.locator("[data-chart=quality]")
    figure.locator("summary").click()
    title = "Same as normal until" if measure == "Fidelity" else measure
    column = figure.locator("thead th", has_text=title).bounding_box()
    shown = figure.locator(".scroll").bounding_box()
    assert column["x"] + column["width"] <= shown["x"] + shown["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_layers_keep_their_colours_under_forced_colours(walk: Walk, scheme: str) -> None:
    page = walk("#/p/0/unfrozen/kl/0.5/t/5", forced_colors="active", color_scheme=scheme)
    colour = "e => getComputedStyle(e).backgroundColor"
    assert page.locator(".t.r0").first.evaluate(colour) == "rgb(44, 79, 163)"
    assert page.locator(".legend .swatch").nth(3).evaluate(colour) == "rgb(252, 199, 95)"
    assert page.locator(".pane .bar.c1").first.evaluate(colour) == "rgb(91, 155, 208)"
    text = "e => getComputedStyle(e).color"  # of an element without fill: the page's own
    assert page.locator(".t.r5").first.evaluate(text) == page.locator("main p").first.evaluate(text)


def test_a_newlines_layer_number_stays_on_its_line(visit: Visit, tmp_path: Path) -> None:
    run = run_rows("0", "?", "unfrozen", 0.5, ["one", "\n", "two", " three\n\n", "four"])
    page = visit(
        "#/p/0/unfrozen/kl/0.5", path=build_report(str(write_runs(tmp_path / "s", [run])), tmp_path / "r.html")
    )
    top = "e => e.getClientRects()[e.getClientRects().length - 1].top"
    without = [token.evaluate(top) for token in page.locator(".t").all()]
    page.get_by_role("button", name="Layer numbers").click()
    lines = [token.evaluate(top) for token in page.locator(".t").all()]
    assert lines[0] == lines[1] < lines[2]
    assert len(set(lines)) == len(set(without))
    assert page.locator(".tokens").inner_text().split("\n")[0].startswith("one↵")
    assert "".join(page.locator(".tokens").evaluate("e => e.textContent").split("↵")) == "one\ntwo three\n\nfour"


def test_search_finds_every_place_of_a_text(walk: Walk) -> None:
    page = walk("#/s/cat")
    hits = page.locator(".hits li")
    normal = [text for text in hits.all_inner_texts() if text.startswith("normal on prompt 0,")]
    assert [re.findall(r"token (\d+)", text)[0] for text in normal] == ["2", "10", "18"]
    assert re.search(r"\d+ places in \d+ of 42 generated texts", page.locator("main").inner_text())


def test_search_finds_prompts_and_whole_words(walk: Walk) -> None:
    page = walk("#/s/question%203")
    assert "Prompt 3 itself" in page.locator(".hits").inner_text()
    page.locator(".hits a").first.click()
    page.get_by_role("heading", name="Prompt 3").wait_for()
    page = walk("#/s/ca")
    assert page.locator(".hits li").count() > 10
    page.get_by_label("Whole words").check()
    page.locator('body[data-ready="#/w/ca"]').wait_for()
    assert page.locator(".hits li").count() == 0
    page.get_by_label("Search texts and prompts").fill("cat")
    page.keyboard.press("Enter")
    page.locator('body[data-ready="#/w/cat"]').wait_for()
    assert page.locator(".hits li").count() > 10


@pytest.mark.parametrize("query", ["mat.", "$", "(", "[a-z]", "\\", "/", "${1} {{ 7*7 }}"])
def test_search_takes_words_as_they_are(walk: Walk, query: str) -> None:
    page = walk(f"#/s/{'%24%7B1%7D%20%7B%7B%207*7%20%7D%7D' if '1' in query else query}")
    marked = page.locator(".hits mark").all_inner_texts()
    assert {text.lower() for text in marked} <= {query.lower()}
    assert bool(marked) == (query not in ("(", "\\", "[a-z]"))


def test_search_shows_some_hundreds_at_a_time(visit: Visit, tmp_path: Path) -> None:
    run = run_rows("0", "?", "unfrozen", 1.0, [" the"] * 450)
    page = visit("#/s/the", path=build_report(str(write_runs(tmp_path / "s", [run])), tmp_path / "r.html"))
    assert "450 places in 1 of 1 generated text" in page.locator("main").inner_text()
    shown = page.locator(".hits li")
    assert shown.count() == 200
    page.get_by_role("button", name="Show 200 more").click()
    page.get_by_role("button", name="Show 200 more").click()
    assert shown.count() == 450
    assert not page.get_by_role("button", name="Show 200 more").is_visible()
