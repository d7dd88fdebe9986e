"""The overview's section "Side by side": which comparisons it offers, and never of the measure that is equal."""

from pathlib import Path

from report_fixtures import Page, Visit, Walk, all_drawn
from synthetic_sweeps import graded, run_rows, write_runs

from eexit.method.rules import ExitHistogram
from eexit.plan.configuration import Configuration, EarlyExit, NoExit
from reports import build_report

# What is held equal → its measure, and the one to which the choice then moves: by that one, the mix is the best.
HELD = {
    "equal right answers": ("Right answers", "Layers skipped"),
    "equal layers skipped": ("Layers skipped", "Right answers"),
    "equal multiply-adds run": ("Multiply-adds saved, run", "Right answers"),
}
MIXES = "#/?beside.kind=rules+and+exit+sets"


def section(page: Page) -> Page:
    return page.locator("[data-chart=beside]")


def measure(page: Page) -> Page:
    return section(page).get_by_role("combobox", name="Measure")


def said(page: Page) -> str:
    return str(section(page).locator("output").inner_text())


def match_at(page: Page, at: str) -> None:
    section(page).get_by_role("combobox", name="at", exact=True).select_option(at)


def test_differences_are_against_whichever_is_chosen(walk: Walk) -> None:
    page = walk("#/?beside.kind=one+with+all+others&beside.measure=Perplexity")
    section(page).locator("summary").click()
    first = section(page).locator("tbody tr").first
    first.wait_for()
    assert first.inner_text().startswith("unfrozen/kl/0.5\t2.333 [2.333, 2.333]")
    section(page).get_by_role("combobox", name="Base").select_option("unfrozen/kl/0.5")
    assert first.inner_text().startswith("normal\t0.4286 [0.4286, 0.4286]"), "the other way round"
    assert section(page).locator("caption").inner_text() == "Side by side · all others beside unfrozen/kl/0.5"


def test_a_rule_stands_beside_a_mix_and_what_is_held_equal_is_neither_compared_nor_offered(
    walk: Walk, answered: Path
) -> None:
    page = walk(MIXES, path=answered)
    section(page).locator("summary").click()
    for at, (held, moved) in HELD.items():
        match_at(page, at)
        assert measure(page).input_value() == moved
        assert held not in measure(page).locator("option").all_inner_texts()
        assert said(page).startswith("Certainly higher: ")
        assert held not in section(page).locator("thead").inner_text()
    page = walk(f"{MIXES}&beside.other=unfrozen/kl&beside.at=equal+layers+skipped", path=answered)
    section(page).locator("summary").click()
    table = section(page).get_by_role("table").inner_text()
    assert "unfrozen/kl beside unfrozen/confidence, at equal layers skipped" in table
    assert "% unfrozen/confidence/0.9" in table
    for at, (held, _) in HELD.items():
        page = walk(f"{MIXES}&beside.at={at}&beside.measure={held}".replace(" ", "+"), path=answered)
        assert measure(page).input_value() != held, "an address may ask for what is held equal"


def test_a_measure_that_was_chosen_stays_until_it_is_held_equal_and_the_address_says_what_is_shown(
    visit: Visit, walk: Walk, answered: Path
) -> None:
    page = walk(MIXES, path=answered)
    measure(page).select_option("Disagreement")
    match_at(page, "equal right answers")
    assert measure(page).input_value() == "Disagreement"
    measure(page).select_option("Multiply-adds saved, run")
    match_at(page, "equal multiply-adds run")
    again = visit("#/" + page.url.partition("#/")[2], path=answered)
    assert measure(page).input_value() == measure(again).input_value() == "Right answers"
    assert said(again) == said(page)


def test_modes_are_compared_without_what_is_the_same_in_both_by_construction(walk: Walk, tmp_path: Path) -> None:
    """The frozen mode loses two answers of ten under the rule, and four under the rule's exits, drawn at random."""
    exits_of = ExitHistogram("unfrozen/confidence/0.7", ())
    marks: dict[Configuration, str] = {NoExit(): "✓" * 10}
    for mode, lost, lost_at_random in (("unfrozen", 0, 0), ("frozen_residual", 2, 4)):
        marks[EarlyExit(mode, "confidence", 0.7)] = "✗" * lost + "✓" * (10 - lost)
        marks[EarlyExit(mode, "fixed", 20.0)] = "✗" * 10
        marks[EarlyExit(mode, "random", exits_of)] = "✗" * lost_at_random + "✓" * (10 - lost_at_random)
    path = build_report(str(graded(tmp_path / "s", marks)), tmp_path / "report.html")
    page = all_drawn(walk("#/?beside.kind=modes", path=path))
    assert "of 1 (n = 10 prompts). Mean of 1: −20.0" in said(page)
    assert said(page).endswith("Left out, the same in every mode: fixed/20.")
    section(page).locator("summary").click()
    rows = section(page).locator("tbody tr")
    rows.first.wait_for()
    match_at(page, "the same exits, drawn at random")
    (row,) = rows.all_inner_texts()
    assert row.replace("\t", "\n").startswith("unfrozen/confidence/0.7\n−40.0")
    assert "Left out" not in said(page)


def test_where_nothing_can_be_compared_no_empty_chart_stands_beneath(visit: Visit, tmp_path: Path) -> None:
    one, other = (EarlyExit("unfrozen", "confidence", parameter) for parameter in (0.7, 0.9))
    runs = [run_rows(prompt, "?", "normal", None, ["a", "b"]) for prompt in ("0", "1")]
    runs += [run_rows(prompt, "?", "unfrozen", 1.0, ["a", "b"], of=of) for prompt, of in (("0", one), ("1", other))]
    path = build_report(str(write_runs(tmp_path / "s", runs)), tmp_path / "r.html")
    page = visit(f"#/?beside.base={one.key}&beside.other={other.key}", path=path)
    assert said(page) == "Nothing that can be compared so."
    assert not section(page).locator(".chart").is_visible()
    section(page).get_by_role("combobox", name="Other").select_option("all others")
    section(page).locator("canvas").wait_for()
