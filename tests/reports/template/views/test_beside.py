"""The overview's section "Side by side": which comparisons it offers, and never of the measure that is equal."""

from pathlib import Path

import pytest
from report_fixtures import Page, Visit, Walk, all_drawn
from synthetic_sweeps import graded, run_rows, write_runs

from eexit.method.rules import ExitHistogram
from eexit.plan.configuration import Configuration, EarlyExit, NoExit
from reports import build_report

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
    """If the chosen measure is made equal, the choice moves to the measure by which the mix is the best."""
    page, moved = walk(MIXES, path=answered), {}
    section(page).locator("summary").click()
    for at, held in HELD.items():
        match_at(page, at)
        moved[at] = measure(page).input_value()
        assert held not in measure(page).locator("option").all_inner_texts()
        assert section(page).locator("output").inner_text().startswith("Certainly higher: ")
        assert held not in section(page).locator("thead").inner_text()
    assert moved == {
        "equal right answers": "Layers skipped", "equal layers skipped": "Right answers",
        "equal multiply-adds run": "Right answers",
    }  # fmt: skip
    page = walk(f"{MIXES}&beside.other=unfrozen/kl&beside.at=equal+layers+skipped", path=answered)
    section(page).locator("summary").click()
    table = section(page).get_by_role("table")
    assert "unfrozen/kl beside unfrozen/confidence, at equal layers skipped" in table.inner_text()
    row = section(page).locator("tbody tr").first.inner_text()
    assert "%" in row
    assert "unfrozen/confidence/0.9" in row


@pytest.mark.parametrize("at", HELD)
def test_an_address_that_asks_for_what_is_held_equal_shows_another_measure(walk: Walk, answered: Path, at: str) -> None:
    address = f"{MIXES}&beside.at={at}&beside.measure={HELD[at]}".replace(" ", "+")
    page = walk(address, path=answered)
    assert measure(page).input_value() in set(HELD.values()) - {HELD[at]}


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


@pytest.fixture(scope="module")
def across_modes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of two modes with a rule, `fixed` at one layer, and controls with one mode's exits.

    The frozen mode loses two answers of ten under the rule, and four under the rule's exits.
    """
    exits_of = ExitHistogram("unfrozen/confidence/0.7", ())
    marks: dict[Configuration, str] = {NoExit(): "✓" * 10}
    for mode, lost, lost_at_random in (("unfrozen", 0, 0), ("frozen_residual", 2, 4)):
        marks[EarlyExit(mode, "confidence", 0.7)] = "✗" * lost + "✓" * (10 - lost)
        marks[EarlyExit(mode, "fixed", 20.0)] = "✗" * 10
        marks[EarlyExit(mode, "random", exits_of)] = "✗" * lost_at_random + "✓" * (10 - lost_at_random)
    folder = graded(tmp_path_factory.mktemp("modes") / "s", marks)
    return build_report(str(folder), folder / "report.html")


def test_modes_are_compared_without_what_is_the_same_in_both_by_construction(walk: Walk, across_modes: Path) -> None:
    page = all_drawn(walk("#/?beside.kind=modes", path=across_modes))
    said = section(page).locator("output").inner_text()
    assert "of 1 (n = 10 prompts)" in said
    assert "Mean of 1: −20.0" in said
    assert said.endswith("Left out, the same in every mode: fixed/20.")


@pytest.mark.parametrize(
    ("at", "found"),
    [("the same exits, drawn at random", "unfrozen/confidence/0.7\n−40.0"), ("equal layers skipped", "confidence/0.7")],
)
def test_modes_are_compared_at_the_same_exits_and_at_equal_layers(
    walk: Walk, across_modes: Path, at: str, found: str
) -> None:
    page = walk("#/?beside.kind=modes", path=across_modes)
    match_at(page, at)
    section(page).locator("summary").click()
    section(page).locator("tbody tr").first.wait_for()
    (row,) = section(page).locator("tbody tr").all_inner_texts()
    assert row.replace("\t", "\n").startswith(found)
    assert "Left out" not in section(page).locator("output").inner_text()


def test_where_nothing_can_be_compared_no_empty_chart_stands_beneath(visit: Visit, tmp_path: Path) -> None:
    one, other = (EarlyExit("unfrozen", "confidence", parameter) for parameter in (0.7, 0.9))
    runs = [run_rows("0", "?", "normal", None, ["a", "b"]), run_rows("1", "?", "normal", None, ["a", "b"])]
    runs += [run_rows("0", "?", "unfrozen", 1.0, ["a", "b"], of=one)]
    runs += [run_rows("1", "?", "unfrozen", 1.0, ["a", "b"], of=other)]
    path = build_report(str(write_runs(tmp_path / "s", runs)), tmp_path / "r.html")
    page = visit(f"#/?beside.base={one.key}&beside.other={other.key}", path=path)
    assert section(page).locator("output").inner_text() == "Nothing that can be compared so."
    assert not section(page).locator(".chart").is_visible()
    section(page).get_by_role("combobox", name="Other").select_option("all others")
    section(page).locator("canvas").wait_for()
