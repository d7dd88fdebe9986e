"""What a page saves, opened as CSV, JSON and images; and what it prints."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from report_fixtures import Page, Visit, Walk, all_drawn, rows_of, saved
from synthetic_sweeps import HOSTILE

PAPER = (("width", 688), ("height", 1017))  # A4 between the margins
SAVED = {  # title of what is saved → number of rows, and content of the first
    "Quality against cost": (7, {"configuration": "normal"}),
    "Where tokens exit": (7 * 6, {"configuration": "normal", "exit_layer": "5", "share": "0"}),
    "Side by side": (6, {"other": "unfrozen/kl/0.5", "base": "normal"}),
    "Runs": (6, {"prompt_id": "0", "setting": "frozen_residual/kl/0.5", "error": ""}),
}
CORNERS = """() => [...document.querySelectorAll("canvas")]
    .map((canvas) => canvas.getContext("2d").getImageData(0, 0, 1, 1).data.join())"""
THEME = "document.documentElement.dataset.theme"


@contextmanager
def printed(page: Page) -> Iterator[None]:
    """Assert that nothing is folded on paper, and that the page is as before afterwards."""
    folded, opened = (page.locator(f"main details{those}") for those in (":not([open], .screen)", "[open]"))
    n_folded, n_opened, address = folded.count(), opened.count(), page.url
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert folded.count() == 0 < n_folded
    yield
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.wait_for_timeout(100)
    assert (opened.count(), page.url) == (n_opened, address), "nothing was chosen"
    page.emulate_media(media="null")


def test_paper_is_white_and_has_the_charts_and_what_was_chosen(walk: Walk, answered: Path) -> None:
    page = all_drawn(walk("#/?quality.oracles=true", path=answered, color_scheme="dark"))
    assert set(page.evaluate(CORNERS)) == {"20,23,28,255"}
    with printed(page):
        assert {canvas.bounding_box()["width"] for canvas in all_drawn(page).locator("canvas").all()} == {680}
        assert ({*page.evaluate(CORNERS)}, page.evaluate(THEME)) == ({"255,255,255,255"}, "light")
        assert page.locator(".verdict").is_visible()
        for text in ("12 prompts × 17 configurations", "quality.oracles true", "#/?quality.oracles=true"):
            assert text in page.locator(".paper").inner_text()
        assert not page.locator("header").is_visible()
    assert page.evaluate(THEME) == "dark"
    page = walk("#/p/3/unfrozen/kl/2/vs/normal", path=answered)
    mark = page.locator(".outcome summary .wrong").first
    mark.wait_for(state="attached")
    with printed(page):
        assert mark.is_visible()


@pytest.mark.parametrize("way", ["button", "key"])
def test_paper_has_the_rows_that_a_table_shows_at_first_only_on_request(visit: Visit, answered: Path, way: str) -> None:
    page = visit("#/", path=answered)
    rows, said = page.locator(".runs tbody tr"), page.locator(".runs [role=status]")
    page.evaluate("""() => { window.print = () => {
        dispatchEvent(new Event("beforeprint"));
        window.printed = document.querySelector(".runs").innerText;
        document.body.dataset.printed = "yes";
        dispatchEvent(new Event("afterprint"));
    }; }""")
    assert (rows.count(), said.inner_text()) == (4, "4 of 12 rows")
    if way == "button":
        page.get_by_role("button", name="Print").click()
    else:
        page.keyboard.press("Control+p")
    page.locator("body[data-printed]").wait_for()
    on_paper = page.evaluate("printed")
    assert ("12 of 12 rows" in on_paper, on_paper.count("why")) == (True, 12), "the texts are there too"
    assert (rows.count(), said.inner_text()) == (4, "4 of 12 rows")


def test_tables_fit_on_paper_and_no_row_is_broken_over_pages(walk: Walk) -> None:
    for route, parts in (("#/p/1?prompt.numbers=true", "main tr"), ("#/c/unfrozen/kl/1", "main tr"), ("#/", ".chart")):
        page = walk(route, viewport=PAPER)
        page.emulate_media(media="print")
        assert page.locator(parts).first.evaluate("element => getComputedStyle(element).breakInside") == "avoid"
        if parts == "main tr":
            assert page.locator("main thead").first.get_by_role("button", name="Perplexity").is_visible()
            assert page.evaluate("document.documentElement.scrollWidth") == 688
        page.emulate_media(media="null")


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
    page = walk("#/?beside.kind=one+with+all+others")
    all_drawn(page.locator("[data-chart=mix]"))
    for kind, start in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        download = saved(page, f"Save Where tokens exit as {kind}")
        content = download.path().read_bytes()
        assert (download.suggested_filename, content[:4]) == (f"mix.{kind.lower()}", start)
        assert len(content) > 5_000
    for title, (n, row) in SAVED.items():
        rows = rows_of(saved(page, f"Save {title} as CSV"))
        assert (len(rows), rows[0] | row) == (n, rows[0]), title
        assert all("words" not in found and "undefined" not in found.values() for found in rows)


def test_runs_and_the_tokens_of_a_run_are_saved_as_csv(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/1")
    runs = rows_of(saved(page, "CSV of runs"))
    assert len(runs) == 6 * 7
    assert runs[1] | {"prompt_id": "0", "mode": "unfrozen", "kl_factor": "0.5", "n_tokens": "24"} == runs[1]
    assert runs[0]["text"].startswith("The cat sat on the mat.\nThe cat")
    assert runs[7]["prompt"] == HOSTILE
    (error,) = (row["error"] for row in runs if row["status"] == "error")
    assert error.startswith("CUDA out of memory")
    download = saved(page, "CSV of tokens")
    assert download.suggested_filename == "tokens-0-unfrozen_kl_1.csv"
    rows = rows_of(download)
    assert [row["position"] for row in rows] == [str(i) for i in range(24)]
    assert "".join(row["token"] for row in rows[:3]) == "The cat sat"
    assert [row["exit_layer"] for row in rows[:4]] == ["29", "29", "15", "29"]
    assert [i for i, row in enumerate(rows) if row["disagrees"] == "true"] == [3, 6, 9, 12, 15, 18, 21]
    assert (rows[0]["decided"], rows[1]["decided"]) == ("false", "true")
    assert (rows[3]["full_depth_token"], rows[4]["full_depth_token"]) == ("token 7", rows[4]["token"])
    assert [float(rows[2][name]) for name in ("kl_10", "logprob")] == pytest.approx([2.0, -1.5], rel=0.05)
    assert sum(float(rows[2][f"exit_prob_{layer}"]) for layer in (5, 10, 15, 20, 25, 29)) == pytest.approx(1, abs=0.001)
