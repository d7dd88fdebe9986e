"""Most likely tokens of layers: the full-depth pass at each layer, the early-exit pass at the exit, and the grid."""

from pathlib import Path

import pytest
from report_fixtures import PHONE, Walk, rows_of, saved, violations
from synthetic_sweeps import LAYERS, run_rows, write_runs

RANKS = len(LAYERS) + 1
RUN = "#/p/0/frozen_residual/kl/1"
SETTINGS = ("normal", None), ("frozen_residual", 1.0)
LONG = " internationalisation" * 3


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four tokens with the full-depth pass's tokens at each layer, full depth's own from rank 3 on.

    At positions 2 and 3, the early-exit pass had another token.
    """
    runs = [run_rows("0", "?", mode, k, ["The", " cat", " sat", " on"]) for mode, k in SETTINGS]
    for row, rows in runs:
        for i, token in enumerate(rows):
            token["kl"] = [9.0, 4.0, 1.0, 0.3, 0.05]
            token["top_token_ids"] = [[9 if rank >= 3 else 50 + rank, 60] for rank in range(RANKS)]
            token["top_tokens"] = [[" dog" if rank >= 3 else f" word{rank}", LONG] for rank in range(RANKS)]
            token["top_prob"] = [[0.5, 0.25]] * RANKS
            rank, has_own = [*LAYERS, 29].index(token["exit_layer"]), i >= 2 and row["mode"] != "normal"
            token["exit_top_token_ids"] = [80 + i, 60] if has_own else token["top_token_ids"][rank]
            token["exit_top_tokens"] = [f" student{i}", LONG] if has_own else token["top_tokens"][rank]
            token["exit_top_prob"] = [0.75, 0.125] if has_own else token["top_prob"][rank]
    return write_runs(tmp_path_factory.mktemp("recorded") / "sweep", runs)


def test_the_early_exit_pass_stands_beside_full_depth_where_they_part(walk: Walk, recorded: Path) -> None:
    page = walk(f"{RUN}/t/2", path=recorded)  # read after layer 15
    rows, student, caption = (page.locator(f".pane {part}") for part in ("tbody tr", "tr.here", "caption"))
    assert (rows.count(), student.count()) == (RANKS + 1, 1)
    for row, who, piece in ((rows.nth(2), ["full", "depth"], " word2"), (student, ["early", "exit"], " student2")):
        assert row.locator("th").inner_text().split() == ["15", *who]
        assert row.locator(".piece").first.inner_text() == piece
    assert "75%" in student.inner_text()
    assert "the token was read from it" in caption.inner_text()
    assert "≈ −1.5 nats" in page.locator(".pane").inner_text()
    pieces = page.locator(".pane .likely .piece")
    assert LONG in pieces.all_inner_texts()
    cut = "e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible'"
    assert not any(piece.evaluate(cut) for piece in pieces.all()), "top tokens are shown whole"
    walk(f"{RUN}/t/1", path=recorded)
    assert (rows.count(), student.count()) == (RANKS, 1), "one row is enough where both passes predict the same"
    assert "predicts the same there" in caption.inner_text()
    tokens = rows_of(saved(page, "CSV of tokens"))
    assert [token["exit_top_1"] for token in tokens] == [" dog", " dog", " student2", " student3"]
    assert [token["top_15_1"] for token in tokens] == [" word2"] * 4
    assert float(tokens[2]["exit_top_prob_1"]) == pytest.approx(0.75, abs=0.003)


def test_the_grid_has_each_layers_likeliest_token_and_leads_to_a_token(walk: Walk, recorded: Path) -> None:
    page = walk(RUN, path=recorded)
    grid = page.locator(".grid table").first
    grid.wait_for()
    grid_width, width = (page.locator(part).bounding_box()["width"] for part in ("details:has(.grid)", ".reading"))
    assert grid_width == width
    assert grid.locator("thead th").all_inner_texts() == ["Layer", "0", "1", "2", "3"]
    rows = grid.locator("tbody tr")
    assert rows.locator("th").all_inner_texts() == [*map(str, LAYERS), "29 (final)", "Generated"]
    assert rows.nth(1).locator("td").all_inner_texts() == [" word1"] * 4
    assert rows.last.locator("td").all_inner_texts() == ["The", " cat", " sat", " on"]
    assert grid.locator("td.exit").count() == 4
    assert "exit" in rows.nth(2).locator("td").nth(2).get_attribute("class").split()
    cells, none = page.locator(".grid tbody td:nth-child(2)"), "rgba(0, 0, 0, 0)"
    fills = "cells => cells.slice(0, -1).map(cell => getComputedStyle(cell).backgroundColor)"
    assert [fill != none for fill in cells.evaluate_all(fills)] == [False] * 3 + [True] * 3
    page.get_by_label("Colour by").select_option("KL")
    by_kl = cells.evaluate_all(fills)
    assert (by_kl[0], len(set(by_kl))) == (none, 5), "at 9 nats"
    assert by_kl[4] == by_kl[5], "at 0.05 nats, and at none"
    page.locator(".tokens").press("Escape")
    for act, position in (
        (rows.nth(1).locator("td").nth(2).click, "2"),
        (lambda: page.locator(".grid").press("ArrowRight"), "3"),
        (lambda: page.locator(".tokens").press("Home"), "0"),
        (grid.locator("tbody th").first.click, "0"),  # a layer's name is no position
    ):
        act()
        assert page.url.partition("?")[0].endswith(f"/t/{position}")
        assert page.locator(".pinned").get_attribute("data-i") == grid.locator("thead .at").inner_text() == position


def test_the_grid_stays_as_it_is_from_run_to_run_and_fits_a_phone(walk: Walk, recorded: Path) -> None:
    page = walk(RUN, path=recorded)
    page.locator("summary", has_text="Layers × positions").click()
    page.wait_for_url("**?grid=false")  # a link opens the visible state
    page.evaluate("location.hash = '#/p/0/normal'")
    page.get_by_role("heading", name="normal on prompt 0").wait_for()
    assert page.locator(".grid table").count() == 0
    page = walk("#/p/0/unfrozen/kl/1")  # of a sweep without likely tokens
    page.locator("summary", has_text="Layers × positions").click()
    page.locator("main details").get_by_text("--record-top-k").wait_for()
    page = walk(f"{RUN}/t/2", path=recorded, viewport=PHONE)
    page.locator("summary", has_text="Layers × positions").first.click()
    page.locator(".grid table").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_grid_and_the_pane(walk: Walk, recorded: Path, axe: str, scheme: str) -> None:
    page = walk(f"{RUN}/vs/normal/t/2", path=recorded, color_scheme=scheme)
    page.locator(".grid table").first.wait_for()
    for colour in ("agreement", "kl"):
        page.get_by_label("Colour by").first.select_option(value=colour)
        assert violations(page, axe, scheme) == [], colour
