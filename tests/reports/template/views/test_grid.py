"""Most likely tokens of layers: the full-depth pass at each layer, the early-exit pass at the exit, and the grid."""

from pathlib import Path
from typing import Any

import pytest
from report_fixtures import Page, Visit, Walk, rows_of, saved, violations
from synthetic_sweeps import LAYERS, Run, run_rows, write_runs

from reports import build_report

RANKS = len(LAYERS) + 1
PHONE = (("width", 360), ("height", 740))


def recorded_rows(mode: str, k: float | None, student: bool) -> Run:
    """Return four tokens with the full-depth pass's tokens at each layer, full depth's own from rank 3 on.

    At positions 2 and 3, the early-exit pass had another token, if it was recorded.
    """
    row, rows = run_rows("0", "?", mode, k, ["The", " cat", " sat", " on"])
    for i, token in enumerate(rows):
        token["kl"] = [9.0, 4.0, 1.0, 0.3, 0.05]
        token["top_token_ids"] = [[9 if rank >= 3 else 50 + rank, 60] for rank in range(RANKS)]
        token["top_tokens"] = [[" dog" if rank >= 3 else f" word{rank}", "\n"] for rank in range(RANKS)]
        token["top_prob"] = [[0.5, 0.25]] * RANKS
        if student:
            rank = [*LAYERS, 29].index(token["exit_layer"])
            own = i >= 2 and mode != "normal"
            token["exit_top_token_ids"] = [80 + i, 60] if own else token["top_token_ids"][rank]
            token["exit_top_tokens"] = [f" student{i}", "\n"] if own else token["top_tokens"][rank]
            token["exit_top_prob"] = [0.75, 0.125] if own else token["top_prob"][rank]
    return row, rows


def sweep_report(folder: Path, student: bool) -> Path:
    runs = [recorded_rows(mode, k, student) for mode, k in (("normal", None), ("frozen_residual", 1.0))]
    sweep = write_runs(folder / "sweep", runs)
    return build_report(str(sweep), folder / "report.html")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep_report(tmp_path_factory.mktemp("recorded"), student=True)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep_report(tmp_path_factory.mktemp("older"), student=False)


def test_the_early_exit_pass_stands_beside_full_depth_where_they_part(walk: Walk, recorded: Path) -> None:
    page = walk("#/p/0/frozen_residual/kl/1/t/2", path=recorded)  # read after layer 15
    rows = page.locator(".pane tbody tr")
    assert rows.count() == RANKS + 1
    assert rows.nth(2).locator("th").inner_text().split() == ["15", "full", "depth"]
    assert rows.nth(2).locator(".piece").first.inner_text() == " word2"
    student = page.locator(".pane tr.here")
    assert student.count() == 1
    assert student.locator("th").inner_text().split() == ["15", "early", "exit"]
    assert student.locator(".piece").first.inner_text() == " student2"
    assert "75%" in student.inner_text()
    assert "the token was read from it" in page.locator(".pane caption").inner_text()
    heads = page.locator(".pane thead th").all_inner_texts()
    assert "≈" in heads[1], "rounded"
    assert "≈" in heads[2]
    assert "≈ −1.5 nats" in page.locator(".pane").inner_text()


def test_one_row_is_enough_where_both_passes_predict_the_same(walk: Walk, recorded: Path) -> None:
    page = walk("#/p/0/frozen_residual/kl/1/t/1", path=recorded)
    assert page.locator(".pane tbody tr").count() == RANKS
    assert page.locator(".pane tr.here").count() == 1
    assert "the early-exit pass predicts the same there" in page.locator(".pane caption").inner_text()


def test_results_without_the_student_say_that_it_was_not_recorded(walk: Walk, older: Path) -> None:
    pane = walk("#/p/0/frozen_residual/kl/1/t/2", path=older).locator(".pane").inner_text()
    assert "wasn't recorded" in pane
    assert "student had the same" not in pane
    assert "wasn't recorded" not in walk("#/p/0/normal/t/2", path=older).locator(".pane").inner_text()


def test_the_tokens_csv_has_what_each_was_read_from(walk: Walk, recorded: Path) -> None:
    page = walk("#/p/0/frozen_residual/kl/1", path=recorded)
    rows = rows_of(saved(page, "CSV of tokens"))
    assert [row["exit_top_1"] for row in rows] == [" dog", " dog", " student2", " student3"]
    assert [row["top_15_1"] for row in rows] == [" word2"] * 4
    assert float(rows[2]["exit_top_prob_1"]) == pytest.approx(0.75, abs=0.003)


def open_grid(page: Page) -> Any:
    """Return the grid, which is open in a wide window."""
    if page.viewport_size["width"] < 1100:
        page.locator("summary", has_text="Layers × positions").first.click()
    grid = page.locator(".grid table").first
    grid.wait_for()
    return grid


def test_the_grid_has_each_layers_likeliest_token_at_every_position(walk: Walk, recorded: Path) -> None:
    page = walk("#/p/0/frozen_residual/kl/1", path=recorded)
    grid = open_grid(page)
    boxes = [page.locator(each).bounding_box()["width"] for each in ("details:has(.grid)", ".reading")]
    assert boxes[0] == boxes[1], "it has the full width"
    assert grid.locator("thead th").all_inner_texts() == ["Layer", "0", "1", "2", "3"]
    rows = grid.locator("tbody tr")
    assert rows.locator("th").all_inner_texts() == [*map(str, LAYERS), "29 (final)", "Generated"]
    assert rows.nth(1).locator("td").all_inner_texts() == [" word1"] * 4
    assert rows.nth(RANKS - 1).locator("td").all_inner_texts() == [" dog"] * 4
    assert rows.last.locator("td").all_inner_texts() == ["The", " cat", " sat", " on"]
    assert grid.locator("td.exit").count() == 4
    assert "exit" in rows.nth(2).locator("td").nth(2).get_attribute("class").split()


def test_the_grid_is_coloured_by_agreement_or_by_kl(walk: Walk, recorded: Path) -> None:
    page = walk("#/p/0/frozen_residual/kl/1", path=recorded)
    grid = open_grid(page)
    fill = "e => getComputedStyle(e).backgroundColor"
    fills = f"() => [...document.querySelectorAll('.grid tbody td:nth-child(2)')].map({fill})"
    none = "rgba(0, 0, 0, 0)"
    by_agreement = page.evaluate(fills)[:RANKS]
    assert [fill != none for fill in by_agreement] == [False] * 3 + [True] * 3
    page.get_by_label("Colour by").select_option("KL")
    by_kl = page.evaluate(fills)[:RANKS]
    assert by_kl[0] == none  # 9 nats
    assert len(set(by_kl)) == 5
    assert by_kl[4] == by_kl[5]  # 0.05 nats, and none
    assert "2–5" in page.locator("[aria-label=Colours]").inner_text()
    assert grid.is_visible()


def test_a_click_or_a_key_in_the_grid_goes_to_the_token(walk: Walk, recorded: Path) -> None:
    page = walk("#/p/0/frozen_residual/kl/1", path=recorded)
    grid = open_grid(page)
    page.locator(".tokens").press("Escape")
    grid.locator("tbody tr").nth(1).locator("td").nth(2).click()
    assert page.url.endswith("/t/2")
    assert page.locator(".pinned").get_attribute("data-i") == "2"
    assert "Token 3 of 4" in page.locator(".pane").inner_text()
    page.locator(".grid").press("ArrowRight")
    assert page.url.endswith("/t/3")
    assert grid.locator("thead .at").inner_text() == "3"
    page.locator(".tokens").press("Home")
    assert grid.locator("thead .at").inner_text() == "0"
    grid.locator("tbody th").first.click()  # a layer's name is no position
    assert page.url.endswith("/t/0")


def test_the_grid_stays_as_it_is_from_run_to_run(walk: Walk, recorded: Path) -> None:
    page = walk("#/p/0/frozen_residual/kl/1", path=recorded)
    open_grid(page)
    page.evaluate("location.hash = '#/p/0/normal'")
    page.get_by_role("heading", name="normal on prompt 0").wait_for()
    assert page.locator(".grid table").count() == 1
    page.locator("summary", has_text="Layers × positions").click()
    page.wait_for_url("**?grid=false")  # a link opens the visible state
    page.evaluate("location.hash = '#/p/0/frozen_residual/kl/1'")
    page.get_by_role("heading", name="frozen_residual/kl/1 on prompt 0").wait_for()
    assert page.locator(".grid table").count() == 0


def test_a_sweep_without_likely_tokens_says_how_to_have_them(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/1")
    page.locator("summary", has_text="Layers × positions").click()
    page.locator("main details").get_by_text("--record-top-k").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_grid_and_the_pane(walk: Walk, recorded: Path, axe: str, scheme: str) -> None:
    page = walk("#/p/0/frozen_residual/kl/1/vs/normal/t/2", path=recorded, color_scheme=scheme)
    open_grid(page)
    for colour in ("agreement", "kl"):
        page.get_by_label("Colour by").first.select_option(value=colour)
        assert violations(page, axe, scheme) == [], colour


def test_the_grid_is_no_wider_than_a_phone(walk: Walk, recorded: Path) -> None:
    page = walk("#/p/0/frozen_residual/kl/1/t/2", path=recorded, viewport=PHONE)
    open_grid(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_top_tokens_are_shown_whole(visit: Visit, tmp_path: Path) -> None:
    _, rows = run = recorded_rows("frozen_residual", 1.0, student=True)
    long = " internationalisation" * 3
    for token in rows:
        token["top_tokens"] = [[long, "\n"] for _ in range(RANKS)]
    page = visit(
        "#/p/0/frozen_residual/kl/1/t/2",
        path=build_report(str(write_runs(tmp_path / "s", [run])), tmp_path / "r.html"),
    )
    cut = "e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible'"
    pieces = page.locator(".pane .likely .piece")
    assert long in pieces.all_inner_texts()
    assert not any(piece.evaluate(cut) for piece in pieces.all())
