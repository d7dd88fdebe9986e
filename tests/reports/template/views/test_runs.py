"""The overview's table of runs: what was written, its filters, and their effects on the charts and on what is saved."""

from pathlib import Path

import pytest
from report_fixtures import Page, Visit, Walk, rows_of, saved
from synthetic_sweeps import graded, with_kinds

from eexit.plan.configuration import EarlyExit, NoExit

GAINS, LOSES, SAME = (EarlyExit("unfrozen", "confidence", parameter) for parameter in (0.7, 0.8, 0.9))
LOST, GAINED = "right at full depth, wrong here", "wrong at full depth, right here"
DIFFER = "differs from full depth"


def section(page: Page) -> Page:
    return page.locator("section", has=page.locator("#runs"))


def shown(page: Page) -> list[str]:
    """Return the marks of full depth and of the setting in each row, once they are drawn."""
    section(page).locator("tbody tr").first.wait_for()
    rows = section(page).locator("tbody tr").all()
    marks = [row.locator("td.written .right, td.written .wrong").all_inner_texts() for row in rows]
    return ["".join(mark[0] for mark in pair) for pair in marks]


def pick(page: Page, menu: str, option: str) -> None:
    section(page).get_by_role("combobox", name=menu).select_option(option)


def test_runs_show_what_was_written_and_a_number_and_lead_to_why(walk: Walk, answered: Path) -> None:
    page = walk("#/?runs.setting=unfrozen/kl/2", path=answered)
    section(page).locator("tbody tr").nth(3).get_by_text("abcd").last.wait_for()
    section(page).get_by_role("link", name="Why: unfrozen/kl/2 on prompt").first.click()
    page.get_by_role("heading", name="unfrozen/kl/2 on prompt").wait_for()
    assert page.locator(".tokens").count() == 2
    page = walk("#/")
    pick(page, "Cells", "Early exits")
    rows = section(page).locator("tbody tr")
    assert rows.count() == 4
    section(page).get_by_role("button", name="Show more").click()
    section(page).get_by_role("button", name="U·kl 2").click()
    cells, failed = (rows.nth(at).locator(f"td:not(.words) {which}") for at, which in ((0, "a"), (-1, ".bad")))
    assert rows.last.inner_text().startswith("2")  # failed there: no value
    assert failed.inner_text().startswith("✕")
    assert "Early exits" in section(page).locator("caption").inner_text()
    assert len(set(cells.evaluate_all("all => all.map(a => getComputedStyle(a).backgroundColor)"))) > 1
    failed.click()
    page.get_by_role("heading", name="unfrozen/kl/2 on prompt 2").wait_for()


def test_filters_of_rows_drive_the_charts_and_what_is_saved(visit: Visit, walk: Walk, tmp_path: Path) -> None:
    """There are ten prompts of two kinds; a setting only gains, one loses more than it gains, one does neither."""
    marks = {NoExit(): "✓✓✓✓✓✓✗✗✗✗", GAINS: "✓✓✓✓✓✓✓✓✗✗", LOSES: "✗✗✗✓✓✓✓✗✗✗", SAME: "✓✓✓✓✓✓✗✗✗✗"}
    path = with_kinds(graded(tmp_path / "s", marks), ["even", "odd"] * 5)
    page = walk(f"#/?runs.setting={GAINS.key}", path=path)
    assert shown(page) == ["✗✓", "✗✓", "✓✓", "✓✓"], "of ten, the first four"
    pick(page, "Setting", LOSES.key)
    assert shown(page) == ["✓✗", "✓✗", "✓✗", "✗✓"]
    assert "10 of 10 prompts that this file holds with this setting. 3 lost, 1 gained." in section(page).inner_text()
    options = section(page).get_by_role("combobox", name="Show").locator("option").all_inner_texts()
    lost_by_all = "right at full depth, wrong under every rule (0)"
    of_setting = ["all (10)", f"{LOST} (3)", f"{GAINED} (1)", lost_by_all, "right here (4)", "wrong here (6)"]
    assert options == [*of_setting, f"{DIFFER} (10)"]
    of_all = rows_of(saved(page, "Save Quality against cost as JSON"))
    pick(page, "Show", DIFFER)
    caption = page.locator("[data-chart=quality] figcaption")
    caption.get_by_text("Of the 10 selected of 10 prompts, without intervals.").wait_for()
    of_same = rows_of(saved(page, "Save Quality against cost as JSON"))
    means = ("correct", "disagreement", "layers_skipped", "perplexity", "correct_n")
    for one, two in zip(of_all, of_same, strict=True):
        assert [one[name] for name in means] == pytest.approx([two[name] for name in means], rel=1e-5)
    assert of_same[1]["correct_low"] is None
    pick(page, "Show", LOST)
    caption.get_by_text("Of the 3 selected of 10 prompts").wait_for()
    rows = rows_of(saved(page, "Save Quality against cost as JSON"))
    right = {row["configuration"]: row["correct"] for row in rows}
    assert right == {"normal": 1, GAINS.key: 1, LOSES.key: 0, SAME.key: 1}
    assert "not of those 3 selected" in page.locator("[data-chart=beside] figcaption").inner_text()
    rows = rows_of(saved(page, "Save Runs as CSV"))
    assert page.locator("#saved").inner_text() == "Saved 3 of 10 rows as Runs-3-of-10.csv; 7 are missing"
    told = {"kind": "even", "expected": "42", "full_depth_right": "1", "right": "0", "text": "So it is 41"}
    assert rows[0] | told == rows[0]
    pick(page, "Kind", "even")
    assert shown(page) == ["✓✗", "✓✗"]
    cells = section(page).locator("tbody tr").first.locator("td:not(.words) a")
    assert [cell[0] for cell in cells.all_inner_texts()] == ["✓", "✓", "✗", "✓"], "every setting has a cell"
    pick(page, "Kind", "all")
    pick(page, "Show", GAINED)
    assert shown(page) == shown(visit("#/" + page.url.partition("#/")[2], path=path)) == ["✗✓"]


def test_every_seed_stands_beside_its_own_run_of_full_depth(visit: Visit, tmp_path: Path) -> None:
    folder = graded(tmp_path / "s", {NoExit(): "✓✗", LOSES: "✗✗"}, seeds=(0, 1, 2))
    page = visit(f"#/?runs.filter={LOST.replace(' ', '+')}", path=folder)
    assert shown(page) == ["✓✗"] * 3
    assert "3 of 6 runs that this file holds with this setting. 3 lost, 0 gained." in section(page).inner_text()
    heads = section(page).locator("tbody th").all_inner_texts()
    assert [head.splitlines()[0] for head in heads] == [f"0, seed {seed}" for seed in (0, 1, 2)]
