"""The overview's section "Side by side": which comparisons it offers, and never of the measure that is equal."""

from pathlib import Path

from report_fixtures import Page, Visit, Walk, all_drawn
from synthetic_sweeps import graded, run_rows, write_runs

from eexit.method.rules import ExitHistogram
from eexit.plan.configuration import Configuration, EarlyExit, NoExit

# What is held equal → its measure, and the one to which the choice then moves: by that one, the mix is the best.
HELD = {
    "equal right answers": ("Right answers", "Layers skipped"),
    "equal layers skipped": ("Layers skipped", "Right answers"),
    "equal multiply-adds run": ("Multiply-adds saved, run", "Right answers"),
}
MIXES = "#/?beside.kind=rules+and+exit+sets"


class Section:
    """Section of a page, with its menus."""

    def __init__(self, page: Page) -> None:
        self.box = page.locator("[data-chart=beside]")
        self.table = self.box.get_by_role("table")
        self.said = self.box.locator("output")
        self.measure = self.menu("Measure")

    def menu(self, name: str) -> Page:
        return self.box.get_by_role("combobox", name=name, exact=True)


def test_differences_are_against_whichever_is_chosen(walk: Walk) -> None:
    section = Section(walk("#/?beside.kind=one+with+all+others&beside.measure=Perplexity"))
    section.box.locator("summary").click()
    first = section.table.locator("tbody tr").first
    first.wait_for()
    assert first.inner_text().startswith("unfrozen/kl/0.5\t2.333 [2.333, 2.333]")
    section.menu("Base").select_option("unfrozen/kl/0.5")
    assert first.inner_text().startswith("normal\t0.4286 [0.4286, 0.4286]"), "the other way round"
    assert section.table.locator("caption").inner_text() == "Side by side · all others beside unfrozen/kl/0.5"


def test_what_is_held_equal_is_neither_compared_nor_offered(visit: Visit, walk: Walk, answered: Path) -> None:
    """A measure that was chosen stays until it is held equal, and the address records what is shown."""
    page = walk(MIXES, path=answered)
    section = Section(page)
    section.box.locator("summary").click()
    for at, (held, moved) in HELD.items():
        section.menu("at").select_option(at)
        assert section.measure.input_value() == moved
        assert held not in section.measure.locator("option").all_inner_texts()
        assert section.said.inner_text().startswith("Certainly higher: ")
        assert held not in section.table.locator("thead").inner_text()
    section.measure.select_option("Disagreement")
    section.menu("at").select_option("equal right answers")
    assert section.measure.input_value() == "Disagreement"
    section.measure.select_option("Multiply-adds saved, run")
    section.menu("at").select_option("equal multiply-adds run")
    assert section.measure.input_value() == "Right answers"
    again = Section(visit("#/" + page.url.partition("#/")[2], path=answered))
    assert (again.measure.input_value(), again.said.inner_text()) == ("Right answers", section.said.inner_text())
    walk(f"{MIXES}&beside.other=unfrozen/kl&beside.at=equal+layers+skipped", path=answered)
    section.box.locator("summary").click()
    for words in ("unfrozen/kl beside unfrozen/confidence, at equal layers skipped", "% unfrozen/confidence/0.9"):
        assert words in section.table.inner_text()
    for at, (held, _) in HELD.items():
        walk(f"{MIXES}&beside.at={at}&beside.measure={held}".replace(" ", "+"), path=answered)
        assert section.measure.input_value() != held, "an address may ask for what is held equal"


def test_modes_are_compared_without_what_is_the_same_in_both_by_construction(walk: Walk, tmp_path: Path) -> None:
    """The frozen mode loses two answers of ten under the rule, and four under the rule's exits, drawn at random."""
    marks: dict[Configuration, str] = {NoExit(): "✓" * 10}
    for mode, lost, lost_at_random in (("unfrozen", 0, 0), ("frozen_residual", 2, 4)):
        marks[EarlyExit(mode, "confidence", 0.7)] = "✗" * lost + "✓" * (10 - lost)
        marks[EarlyExit(mode, "fixed", 20.0)] = "✗" * 10
        drawn = EarlyExit(mode, "random", ExitHistogram("unfrozen/confidence/0.7", ()))
        marks[drawn] = "✗" * lost_at_random + "✓" * (10 - lost_at_random)
    section = Section(all_drawn(walk("#/?beside.kind=modes", path=graded(tmp_path / "s", marks))))
    assert "of 1 (n = 10 prompts). Mean of 1: −20.0" in section.said.inner_text()
    assert section.said.inner_text().endswith("Left out, the same in every mode: fixed/20.")
    section.box.locator("summary").click()
    rows = section.table.locator("tbody tr")
    rows.first.wait_for()
    section.menu("at").select_option("the same exits, drawn at random")
    (row,) = rows.all_inner_texts()
    assert row.replace("\t", "\n").startswith("unfrozen/confidence/0.7\n−40.0")
    assert "Left out" not in section.said.inner_text()


def test_where_nothing_can_be_compared_no_empty_chart_stands_beneath(visit: Visit, tmp_path: Path) -> None:
    one, other = (EarlyExit("unfrozen", "confidence", parameter) for parameter in (0.7, 0.9))
    runs = [run_rows(prompt, "?", "normal", None, ["a", "b"]) for prompt in ("0", "1")]
    runs += [run_rows(prompt, "?", "unfrozen", 1.0, ["a", "b"], of=of) for prompt, of in (("0", one), ("1", other))]
    route = f"#/?beside.base={one.key}&beside.other={other.key}"
    section = Section(visit(route, path=write_runs(tmp_path / "s", runs)))
    assert section.said.inner_text() == "Nothing that can be compared so."
    assert not section.box.locator(".chart").is_visible()
    section.menu("Other").select_option("all others")
    section.box.locator("canvas").wait_for()
