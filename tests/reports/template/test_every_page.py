"""What holds on every page: accessibility (axe, keyboard, phone, colours), hostile text, and no scripts."""

import re
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import PHONE, Visit, Walk, all_drawn, open_tables, violations
from synthetic_sweeps import HOSTILE

PROMPT, RUN, FAILED, SEARCH = "#/p/1?prompt.numbers=true", "#/p/1/unfrozen/kl/1/vs/normal/t/4", "#/fail", "#/s/cat"
ROUTES = (PROMPT, RUN, FAILED, SEARCH, "#/p/2/unfrozen/kl/2", "#/c/unfrozen/kl/1", "#/w/cat", "#/methods", "#/nowhere")
TOGGLES = "#/?quality.modes=unfrozen,frozen_residual&quality.oracles=true&quality.controls=true&quality.replayed=true"
# Visible red elements, except tokens and colours of layers.
RED = """() => [...document.querySelectorAll("body *")].filter((element) => {
  if (element.closest(".t, .swatch, .bar") || !element.checkVisibility()) return false;
  const style = getComputedStyle(element);
  const sides = ["Top", "Right", "Bottom", "Left"].filter((side) => style[`border${side}Width`] !== "0px");
  const colours = [style.color, style.backgroundColor, ...sides.map((side) => style[`border${side}Color`])];
  return colours.some((colour) => {
    const [r, g, b, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
    return alpha && r - Math.max(g, b) > 60 && g - b < 60;
  });
}).map((element) => element.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize(("scheme", "routes"), [("light", ROUTES), ("dark", ROUTES[:4])])
def test_axe_finds_nothing(walk: Walk, axe: str, scheme: str, routes: tuple[str, ...]) -> None:
    """In the dark scheme, one page of each kind with particular colours is checked; folded parts are checked below."""
    for route in ("#/", *routes):
        assert violations(walk(route, color_scheme=scheme), axe, scheme) == [], route


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_state_of_toggles(walk: Walk, answered: Path, axe: str, scheme: str) -> None:
    """If a choice changes one section, only that section is checked."""
    found = list[Any]()
    page = walk("#/", path=answered, color_scheme=scheme)
    beside = page.locator("[data-chart=beside]")
    for kind in ("modes", "rules and exit sets", "settings and their controls", "one with all others"):
        beside.get_by_role("combobox", name="Compare").select_option(kind)
        if not beside.locator("table").count():
            beside.locator("summary").click()
        beside.locator("table").wait_for()
        found += violations(page, axe, scheme, "[data-chart=beside]")
    page.locator(".verdict .term").first.focus()
    page.get_by_role("tooltip").wait_for()
    found += violations(page, axe, scheme, ".verdict") + violations(page, axe, scheme, "#tip")
    of_prompt, of_run = "#/p/3?prompt.numbers=true", "#/p/3/unfrozen/kl/2/vs/normal/t/1?run.numbers=true"
    for route in (of_prompt, of_run, f"{TOGGLES}&open=all"):
        page = all_drawn(walk(route, path=answered, color_scheme=scheme))
        open_tables(page)
        found += violations(page, axe, scheme)
    assert found == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_red_is_late_and_nothing_else(walk: Walk, answered: Path, scheme: str) -> None:
    for route in ("#/?open=all", "#/p/2", "#/p/2/unfrozen/kl/2", "#/p/0/unfrozen/kl/1/vs/normal", "#/fail"):
        assert walk(route, color_scheme=scheme).evaluate(RED) == [], route
    page = walk("#/p/10?prompt.numbers=true", path=answered, color_scheme=scheme)
    assert page.evaluate(RED) == []
    seen = page.locator(".said-by .wrong, .said-by .right, td .wrong, td .right")
    assert seen.count() > 4
    colours = {(each.inner_text()[0], each.evaluate("e => getComputedStyle(e).color")) for each in seen.all()}
    assert [mark for mark, _ in sorted(colours)] == ["✓", "✗"], "each has one colour, its own"
    page.evaluate("document.querySelector('h1').style.color = 'var(--final)'")
    assert len(page.evaluate(RED)) == 1, "and would be found"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_layers_keep_their_colours_under_forced_colours(walk: Walk, scheme: str) -> None:
    page = walk("#/p/0/unfrozen/kl/0.5/t/5", forced_colors="active", color_scheme=scheme)
    parts = [page.locator(part).first for part in (".t.r0", ".legend .swatch.c3", ".pane .bar.c1")]
    colours = [part.evaluate("e => getComputedStyle(e).backgroundColor") for part in parts]
    assert colours == ["rgb(44, 79, 163)", "rgb(252, 199, 95)", "rgb(91, 155, 208)"]
    text = "e => getComputedStyle(e).color"  # of an element without fill: the page's own
    assert page.locator(".t.r5").first.evaluate(text) == page.locator("main p").first.evaluate(text)


def test_everything_is_reached_by_keyboard(visit: Visit) -> None:
    """After `scrollIntoView` of a pinned token, browsers continue from it, unless something has the focus."""
    page = visit("#/p/0/unfrozen/kl/1/vs/normal/t/23", viewport=(("width", 1280), ("height", 250)))
    place = page.locator(".pinned").bounding_box()
    assert 0 < place["y"] < 250 - place["height"]
    stops = []
    for key in ("Tab", "Enter", *["Tab"] * 24):
        page.keyboard.press(key)
        focused = "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"
        stops.append(page.evaluate(focused))
    assert [stops[0], *stops[2:4]] == ["Skip to content", "Overview", "Prompt 0"]
    assert "Fill final layer" in stops
    assert stops.count("Tokens of unfrozen/kl/1") == 1  # one stop, whatever the length
    tokens = page.get_by_role("group", name="Tokens of unfrozen/kl/1")
    for key, place in (("Home", "0"), ("n", "2"), ("ArrowRight", "3"), ("ArrowLeft", "2"), ("End", "23")):
        tokens.press(key)
        assert page.locator(".pinned").get_attribute("data-i") == place
    assert page.url.endswith("/t/23")
    tokens.press("Escape")
    assert (page.locator(".pinned").count(), page.url.endswith("/t/23")) == (0, False)


def test_nothing_is_wider_than_a_phone(walk: Walk) -> None:
    for route in ("#/?open=all", *ROUTES):
        assert walk(route, viewport=PHONE).evaluate("document.documentElement.scrollWidth") == 360, route


def test_nothing_shows_through_the_headings_of_a_table(walk: Walk, answered: Path) -> None:
    """Headings are opaque, and above all content that scrolls beneath them."""
    page = walk("#/p/3?prompt.numbers=true", path=answered, viewport=PHONE)
    scroll = page.locator(".fold .scroll")
    mark = "cell => cell.append(Object.assign(document.createElement('b'), {className: 'blank'}))"
    scroll.locator("td").first.evaluate(mark)
    scroll.evaluate("box => { box.style.maxHeight = '300px'; box.scrollIntoView(); box.scrollTo(90, 60); }")
    heads = scroll.locator("th:is(thead *, :first-child)")
    for theme in ("dark", "light"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        grounds = heads.evaluate_all("all => all.map(th => getComputedStyle(th).backgroundColor)")
        assert all(ground.startswith("rgb(") for ground in grounds), grounds
    at = scroll.bounding_box()
    seen = """([x, y]) => [...Array(10).keys()].flatMap(i => [[x + 20, y + 25 * i + 9], [x + 20 * i + 9, y + 20]])
        .map(([x, y]) => document.elementFromPoint(x, y).closest("th, td")?.tagName)"""
    assert set(page.evaluate(seen, [at["x"], at["y"]])) == {"TH"}


def test_hostile_text_is_shown_and_does_nothing(walk: Walk) -> None:
    for route in ("#/?strip.prompt=1", "#/c/normal", "#/s/script", *ROUTES[:3], ROUTES[4]):
        page = walk(route)
        assert page.evaluate("window.owned") is None
        assert page.locator("main img, main script").count() == 0
        assert "<script>" in page.locator("main").inner_text(), route


def test_long_and_odd_text_survives(walk: Walk, visit: Visit) -> None:
    page = walk("#/p/1/normal")
    assert page.locator(".t").nth(2).inner_text() == "x" * 10_000
    shown = page.locator(".t").nth(1).inner_text()
    for part in ("👩‍👩‍👧 é 漢字", "⟨202E⟩right to left⟨2069⟩", "⟨00⟩⟨07⟩⟨1B⟩[31m", "⟨2028⟩", "{{ 7*7 }}", "↵", "⇥end"):
        assert part in shown
    assert HOSTILE.split("\n")[0][:40] in shown
    assert not re.search("[\u202e\u2069\x00\x1b]", shown)
    page = visit("#/?open=all", java_script_enabled=False)
    assert "a rule that knew as much would skip" in page.locator("main").inner_text()
    assert page.locator("header button:visible, header select:visible, header input:visible").count() == 0
