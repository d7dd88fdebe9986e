"""The overview answers first: its order and length, its toggles, and every choice in the address."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import (
    MOST_PROSE,
    Visit,
    Walk,
    all_drawn,
    open_tables,
    picture_of,
    prose_seen,
    rows_of,
    saved,
    shows_another,
    violations,
    words_seen,
)

LAPTOP, PHONE = (("width", 1280), ("height", 720)), (("width", 360), ("height", 740))
TOGGLES = "#/?quality.modes=unfrozen,frozen_residual&quality.oracles=true&quality.controls=true&quality.replayed=true"
MOST_WORDS = 1200


@pytest.mark.parametrize(("viewport", "screens"), [(LAPTOP, 5), (PHONE, 8)])
def test_it_is_short_and_its_contents_stay_in_sight_and_lead_to_its_sections(
    walk: Walk, answered: Path, viewport: Any, screens: int
) -> None:
    page = all_drawn(walk("#/", path=answered, viewport=viewport))
    page.locator(".runs tbody tr").first.wait_for()
    assert words_seen(page) <= MOST_WORDS
    assert 100 < prose_seen(page) <= MOST_PROSE
    assert page.evaluate("document.documentElement.scrollHeight") <= screens * dict(viewport)["height"]
    assert page.locator("h1, h2").all_inner_texts() == [
        "Does early exit pay here?", "Quality against cost", "Which setting may I use?", "Time", "Side by side",
        "Runs", "Where tokens exit", "Everything else",
    ]  # fmt: skip
    verdict, strip = (page.locator(each).bounding_box() for each in (".verdict", ".strip"))
    assert verdict["y"] + verdict["height"] <= strip["y"], "an answer first, then a coloured text"
    contents = page.get_by_role("navigation", name="Contents")
    contents.get_by_role("link", name="Side by side").click()
    page.locator("#beside:focus").wait_for(state="attached")
    assert page.evaluate("location.hash") == "#/at/beside"
    assert page.evaluate("scrollY") > 300
    box = contents.bounding_box()
    assert -1 <= box["y"] < 100, "still in sight"
    heading = page.locator("#beside").bounding_box()
    assert heading["y"] >= (box["y"] + box["height"] if viewport == PHONE else 0), "not beneath the contents"
    assert heading["y"] < 200


def test_methods_have_contents_and_say_nothing_twice(walk: Walk, visit: Visit, answered: Path) -> None:
    page = walk("#/methods", path=answered)
    contents = page.get_by_role("navigation", name="Contents")
    assert contents.get_by_role("link").all_inner_texts() == [
        "Modes", "Rules", "Means and intervals", "Depth and savings", "Texts", "Comparisons",
        "What each layer predicts", "This file", "Quality", "A run, as recorded", "A token, as recorded",
    ]  # fmt: skip
    assert words_seen(page) < 3600
    said = [words for words in page.locator("dd").all_inner_texts() if len(words.split()) > 8]
    assert len(set(said)) == len(said) > 40
    assert "shown as “Early exits”" in page.locator("main").inner_text()
    assert page.get_by_text("Model: tiny float32.").is_visible()
    contents.get_by_role("link", name="Comparisons").click()
    page.locator("#comparisons:focus").wait_for()
    assert page.evaluate("location.hash") == "#/methods/comparisons"
    again = visit("#/methods/comparisons", path=answered)
    assert again.locator("#comparisons").bounding_box()["y"] < 100


def test_every_choice_is_in_the_address_and_shows_what_it_says(walk: Walk, visit: Visit, answered: Path) -> None:
    page = walk("#/", path=answered)
    assert "?" not in page.url, "where nothing is chosen, nothing is said"
    quality, beside = page.locator("[data-chart=quality]"), page.locator("[data-chart=beside]")
    said = beside.locator("output").inner_text()
    assert said == "Certainly higher: 0, lower: 0 of 4 (n = 10 prompts). Mean of 4: 0.0 pp [−23.1 pp, +23.1 pp]."
    all_drawn(quality).locator("summary").click()
    quality.locator("tbody th").first.wait_for()

    def shown() -> set[str]:
        return set(quality.locator("tbody").first.locator("th").all_inner_texts())

    assert shown() == {"normal", "unfrozen/confidence/0.7", "unfrozen/confidence/0.9"}
    before = picture_of(quality)
    for toggle in ("frozen_residual", "oracles", "controls"):
        quality.get_by_role("button", name=toggle).click()
    assert len(shown()) == 1 + 2 * 2 * 2 * 2
    assert shows_another(quality, before)
    quality.get_by_label("Saved").select_option("multiply-adds, run")
    beside.get_by_role("combobox", name="Compare").select_option("rules and exit sets")
    beside.get_by_role("combobox", name="Other").select_option("frozen_residual/confidence")
    beside.get_by_role("combobox", name="at").select_option("equal right answers")
    page.get_by_role("combobox", name="Show").select_option("wrong here")
    page.locator("[data-fold=depth] summary").click()
    page.locator("[data-chart=depth]").wait_for()
    assert page.url.count("#/?") == 1
    assert "quality.oracles=true" in page.url
    again = visit("#/" + page.url.partition("#/")[2], path=answered)
    chosen = again.locator("[data-chart=quality] option:checked, [data-chart=beside] option:checked").all_inner_texts()
    assert chosen[:2] == ["Accuracy", "multiply-adds, run"]
    assert chosen[2:6] == [
        "rules and exit sets", "U·conf", "F·conf", "equal right answers",
    ]  # fmt: skip
    assert again.get_by_role("combobox", name="Other").get_attribute("title") == "frozen_residual/confidence"
    assert again.locator("[data-fold=depth][open]").count() == 1
    assert again.locator("[data-fold][open]").count() == 1
    assert again.locator("[data-chart=quality]").get_by_role("button", pressed=True).all_inner_texts() == [
        "unfrozen", "frozen_residual", "oracles", "controls",
    ]  # fmt: skip


def test_each_series_has_at_most_one_label_which_covers_no_other(walk: Walk, answered: Path) -> None:
    page = walk(TOGGLES, path=answered, viewport=PHONE)
    all_drawn(page.locator("[data-chart=quality]"))
    svg = saved(page, "Save Quality against cost as SVG").path().read_text()
    labels = re.findall(
        r'<text [^>]*translate\(([-\d.]+),([-\d.]+)\)"[^>]*font-weight="600"[^>]*opacity="1"[^>]*>([^<]+)</text>', svg
    )
    places = {(float(x), float(y)): label for x, y, label in labels}
    series = {f"{mode}·{rule}" for mode in "UF" for rule in ("conf", "kl")}
    assert set(places.values()) <= series
    assert 1 < len(places) == len(set(places.values()))
    for x, y in places:
        assert not any(abs(x - a) < 12 and abs(y - b) < 8 for a, b in places.keys() - {(x, y)})


def test_terms_are_explained_where_they_stand(walk: Walk, answered: Path) -> None:
    page = walk("#/", path=answered)
    term, tip = page.locator(".verdict .term", has_text="layers skipped"), page.get_by_role("tooltip")
    for ask in (term.hover, term.focus, term.click):
        ask()
        assert "1 − mean depth" in tip.inner_text()
        assert term.get_attribute("aria-describedby") == "tip"
        assert tip.bounding_box()["x"] >= 0
        page.keyboard.press("Escape")
        assert tip.count() == 0
        term.blur()
        page.mouse.move(0, 0)
    page.locator("[data-fold=numbers] summary").click()
    head = page.get_by_role("button", name="In one loop").first
    head.focus()
    assert "the share of a run's tokens in its longest stretch" in tip.inner_text()


def test_what_a_view_shows_is_saved_with_how_many_of_how_many(walk: Walk, answered: Path) -> None:
    page = walk("#/?quality.x=multiply-adds,+run", path=answered)
    content = json.loads(saved(page, "JSON of runs").path().read_text())
    assert (content["n"], content["n_in_all"], len(content["rows"])) == (12 * 17, 12 * 17, 12 * 17)
    assert content["origin"]["Size"] == "12 prompts × 17 configurations"
    assert content["choices"] == {"quality.x": "multiply-adds, run"}
    assert page.locator("#saved").inner_text() == "Saved 204 of 204 runs as runs.json"
    (row,) = rows_of(saved(page, "Save Which setting may be used as CSV"))
    assert row["configuration"] == "unfrozen/confidence/0.9"
    assert set(rows_of(saved(page, "Save Runs as JSON"))[0]) >= {"prompt_id", "full_depth", "text", "right"}


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
    for part in (".verdict", "#tip"):
        found += violations(page, axe, scheme, part)
    for route in (
        "#/p/3?prompt.numbers=true",
        "#/p/3/unfrozen/kl/2/vs/normal/t/1?run.numbers=true",
        f"{TOGGLES}&open=all",
    ):
        page = all_drawn(walk(route, path=answered, color_scheme=scheme))
        open_tables(page)
        found += violations(page, axe, scheme)
    assert found == []
