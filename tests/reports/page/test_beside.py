"""The overview's section "Side by side": what is compared, and that it is never what is held equal."""

from pathlib import Path

import pytest
from report_fixtures import Page, Visit, Walk

HELD = {"equal right answers": "Right answers", "equal layers skipped": "Layers skipped",
        "equal multiply-adds run": "Multiply-adds saved, run"}  # fmt: skip
MIXES = "#/?beside.kind=rules+and+exit+sets"


def section(page: Page) -> Page:
    return page.locator("[data-chart=beside]")


def measure(page: Page) -> Page:
    return section(page).get_by_role("combobox", name="Measure")


def match_at(page: Page, at: str) -> None:
    section(page).get_by_role("combobox", name="at", exact=True).select_option(at)


def test_a_rule_stands_beside_a_mix_and_what_is_held_equal_is_neither_compared_nor_offered(
    walk: Walk, answered: Path
) -> None:
    """To hold a measure equal moves to what the mix is best by."""
    page, moved = walk(MIXES, path=answered), {}
    section(page).locator("summary").click()
    for at, held in HELD.items():
        match_at(page, at)
        moved[at] = measure(page).input_value()
        assert held not in measure(page).locator("option").all_inner_texts()
        said = section(page).locator("output").inner_text()
        assert said.startswith(moved[at])
        assert f"at {at}: certainly higher in" in said
        assert held not in section(page).locator("thead").inner_text()
    assert moved == {
        "equal right answers": "Layers skipped", "equal layers skipped": "Right answers",
        "equal multiply-adds run": "Right answers",
    }  # fmt: skip
    page = walk(f"{MIXES}&beside.other=unfrozen/kl&beside.at=equal+layers+skipped", path=answered)
    assert (
        section(page)
        .locator("output")
        .inner_text()
        .startswith(
            "Right answers, unfrozen/kl beside the best mix of unfrozen/confidence at equal layers skipped: certainly"
        )
    )
    section(page).locator("summary").click()
    row = section(page).locator("tbody tr").first.inner_text()
    assert "%" in row
    assert "unfrozen/confidence/0.9" in row


@pytest.mark.parametrize("at", HELD)
def test_an_address_that_asks_for_what_is_held_equal_shows_another_measure(walk: Walk, answered: Path, at: str) -> None:
    address = f"{MIXES}&beside.at={at}&beside.measure={HELD[at]}".replace(" ", "+")
    page = walk(address, path=answered)
    assert measure(page).input_value() in set(HELD.values()) - {HELD[at]}
    assert not section(page).locator("output").inner_text().startswith(HELD[at])


def test_a_measure_that_was_chosen_stays_until_it_is_held_equal_and_the_address_says_what_is_shown(
    visit: Visit, walk: Walk, answered: Path
) -> None:
    page = walk(MIXES, path=answered)
    measure(page).select_option("Disagreement")
    match_at(page, "equal right answers")
    assert measure(page).input_value() == "Disagreement"
    measure(page).select_option("Multiply-adds saved, run")
    match_at(page, "equal multiply-adds run")
    assert measure(page).input_value() == "Right answers"
    assert "Multiply-adds" not in page.url
    said = section(page).locator("output").inner_text()
    again = visit("#/" + page.url.partition("#/")[2], path=answered)
    assert measure(again).input_value() == "Right answers"
    assert section(again).locator("output").inner_text() == said
