"""The overview answers first: its order and length, its explanations, and every choice in the address."""

import re
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import MOST_PROSE, PHONE, Visit, Walk, all_drawn, is_redrawn, prose_seen, saved, words_seen

LAPTOP = (("width", 1280), ("height", 720))
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
    box, heading = contents.bounding_box(), page.locator("#beside").bounding_box()
    assert -1 <= box["y"] < 100, "still in sight"
    assert (box["y"] + box["height"] if viewport == PHONE else 0) <= heading["y"] < 200, "not beneath the contents"


def test_every_choice_is_in_the_address_and_shows_what_it_says(walk: Walk, visit: Visit, answered: Path) -> None:
    page = walk("#/", path=answered)
    assert "?" not in page.url, "where nothing is chosen, nothing is said"
    quality, beside = page.locator("[data-chart=quality]"), page.locator("[data-chart=beside]")
    said = "Certainly higher: 0, lower: 0 of 4 (n = 10 prompts). Mean of 4: 0.0 pp [−23.1 pp, +23.1 pp]."
    assert beside.locator("output").inner_text() == said
    all_drawn(quality).locator("summary").click()
    names = quality.locator("tbody").first.locator("th")
    names.first.wait_for()

    def toggle() -> None:
        for name in ("frozen_residual", "oracles", "controls"):
            quality.get_by_role("button", name=name).click()

    assert {*names.all_inner_texts()} == {"normal", "unfrozen/confidence/0.7", "unfrozen/confidence/0.9"}
    assert is_redrawn(quality, toggle)
    assert names.count() == 1 + 2 * 2 * 2 * 2
    quality.get_by_label("Saved").select_option("multiply-adds, run")
    beside.get_by_role("combobox", name="Compare").select_option("rules and exit sets")
    beside.get_by_role("combobox", name="Other").select_option("frozen_residual/confidence")
    page.locator("[data-fold=depth] summary").click()
    page.locator("[data-chart=depth]").wait_for()
    assert page.url.count("#/?") == 1
    again = visit("#/" + page.url.partition("#/")[2], path=answered)
    chosen = again.locator("[data-chart=quality] option:checked, [data-chart=beside] option:checked").all_inner_texts()
    assert chosen[:5] == ["Accuracy", "multiply-adds, run", "rules and exit sets", "U·conf", "F·conf"]
    assert again.get_by_role("combobox", name="Other").get_attribute("title") == "frozen_residual/confidence"
    assert again.locator("[data-fold][open]").count() == again.locator("[data-fold=depth][open]").count() == 1
    pressed = again.locator("[data-chart=quality]").get_by_role("button", pressed=True).all_inner_texts()
    assert pressed == ["unfrozen", "frozen_residual", "oracles", "controls"]


def test_each_series_has_at_most_one_label_which_covers_no_other(walk: Walk, answered: Path) -> None:
    page = walk(TOGGLES, path=answered, viewport=PHONE)
    all_drawn(page.locator("[data-chart=quality]"))
    svg = saved(page, "Save Quality against cost as SVG").path().read_text()
    bold = r'<text [^>]*translate\(([-\d.]+),([-\d.]+)\)"[^>]*font-weight="600"[^>]*opacity="1"[^>]*>([^<]+)</text>'
    places = {(float(x), float(y)): label for x, y, label in re.findall(bold, svg)}
    assert set(places.values()) <= {f"{mode}·{rule}" for mode in "UF" for rule in ("conf", "kl")}
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
