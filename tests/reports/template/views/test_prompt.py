"""The page of a prompt under every setting: equal texts once, coloured, with where they part from full depth."""

from pathlib import Path
from typing import Any

from report_fixtures import PHONE, Walk
from synthetic_sweeps import run_rows, write_runs

from eexit.plan.configuration import EarlyExit


def test_equal_texts_are_told_once_with_where_they_part_from_full_depth(walk: Walk, tmp_path: Path) -> None:
    """Two settings write full depth's text, two others another one. Bold is what the other text does not have."""
    runs = []
    same = (("normal", None), ("unfrozen", 2.0), ("frozen_residual", 2.0))
    texts = dict.fromkeys(same, "cat sat on") | {("unfrozen", 0.5): "dog ran on", ("unfrozen", 1.0): "cow ran ."}
    for (mode, k), text in texts.items():
        pieces, is_right = ["A", *(f" {word}" for word in text.split())], text.startswith("cat")
        marks: dict[str, Any] = {"answer": "cat", "correct": is_right, "equal_share": 1.0 if is_right else 0.25}
        runs.append(run_rows("0", "?", mode, k, pieces, found_answer=text[:3], **marks))
    written = write_runs(tmp_path / "s", runs)
    page = walk("#/p/0", path=written)
    assert page.locator("#written").inner_text() == "What was written: 3 different texts"
    assert "Right: 3 of 5 runs." in page.locator("main").inner_text()
    full, *others = page.locator(".said-by").all()
    assert "3 settings wrote this: normal, U·kl 2, F·kl 2" in full.inner_text()
    assert full.locator(".right").count() == 1
    full.get_by_role("link", name="F·kl 2").hover()
    assert "colours of F·kl 2" in full.inner_text()
    for other, rest in zip(others, (["dog", "ran"], ["cow", "ran", "."]), strict=True):
        assert other.locator(".wrong").count() == 1
        assert [words.strip() for words in other.locator(".own").all_text_contents()] == rest, "bold"
        assert other.locator(".differs").inner_text() == "differs from here"
    page.get_by_role("combobox", name="Show").select_option("right at full depth, wrong here")
    assert page.locator(".said-by").count() == 3, "beside full depth's own"
    assert page.locator("details.fold[open]").count() == 0, "numbers are behind a toggle"
    cells = walk("#/?runs.setting=unfrozen/kl/0.5", path=written).locator(".runs td.written")
    cells.last.get_by_text("ran").wait_for()
    bold = [[words.strip() for words in cell.locator("strong").all_text_contents()] for cell in cells.all()]
    assert bold == [["cat", "sat"], ["dog", "ran"]]
    page = walk("#/p/0/unfrozen/kl/0.5/vs/normal", path=written)
    assert [words.strip() for words in page.locator(".own").all_text_contents()] == ["dog", "ran", "cat", "sat"]
    weights = "all => all.map(e => getComputedStyle(e).fontWeight)"
    assert set(page.locator(".tokens .own").evaluate_all(weights)) == {"700"}
    assert set(page.locator(".tokens .t:not(.own)").evaluate_all(weights)) == {"400"}
    assert page.locator("main strong").count() == 0


def test_the_texts_of_a_prompt_are_coloured_and_lead_to_their_runs(walk: Walk) -> None:
    page = walk("#/p/0")
    full, part, *_ = page.locator(".said-by").all()
    assert full.locator(".t:not(.r5)").count() == 0, "at full depth"
    assert part.locator(".differs + .own").count() == 1
    fills = "all => all.map(t => getComputedStyle(t).backgroundColor)"
    colours = part.locator(".t").evaluate_all(fills)
    name = part.get_by_role("link").first.get_attribute("title")
    part.locator(".t").nth(2).click()
    page.get_by_role("heading", name=f"{name} on prompt 0").wait_for()
    assert page.locator(".pinned").get_attribute("data-i") == "2"
    assert page.locator(".tokens .t").evaluate_all(fills) == colours
    assert len(set(colours)) > 3


def test_a_long_name_fits_a_phone_and_what_a_gate_passed_over_leaves_no_column(walk: Walk, tmp_path: Path) -> None:
    gated = EarlyExit("frozen_residual", "confidence", 0.97, (15, 20), "0.1")
    row, rows = run_rows("0", "?", gated.mode, 1.0, ["A", " cat"], of=gated)
    runs = [run_rows("0", "?", "normal", None, ["A", " cat"]), (row, [it | {"exit_score": [None] * 5} for it in rows])]
    path = write_runs(tmp_path / "s", runs)
    for route in (f"#/p/0/{gated.key}/vs/normal/t/1", "#/p/0", f"#/c/{gated.key}", "#/"):
        page = walk(route, path=path, viewport=PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, route
        assert "false" not in page.locator("main").inner_text()
