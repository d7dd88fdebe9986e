"""Accessibility (axe, keyboard, phone, print, no JavaScript) and exports of the page."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import DRAWN, Visit, Walk, violations
from synthetic_sweeps import HOSTILE

ROUTES = (
    "#/?open=all",
    "#/p/1?prompt.numbers=true",
    "#/p/1/unfrozen/kl/1/vs/normal/t/4",
    "#/p/2/unfrozen/kl/2",
    "#/c/unfrozen/kl/1",
    "#/s/cat",
    "#/w/cat",
    "#/fail",
    "#/methods",
    "#/nowhere",
)
PHONE = (("width", 360), ("height", 740))
PAPER = (("width", 688), ("height", 1017))  # A4 between the margins


@pytest.mark.parametrize(
    ("route", "scheme"),
    # In the dark, one of each kind of page that has colours of its own.
    [*((route, "light") for route in ROUTES), *((ROUTES[at], "dark") for at in (0, 1, 2, 5, 7))],
)
def test_axe_finds_nothing(walk: Walk, axe: str, route: str, scheme: str) -> None:
    page = walk(route, color_scheme=scheme)
    summaries = page.locator("figure summary").all()
    for table in summaries:
        table.click()
    if summaries:
        page.locator("figure table").nth(len(summaries) - 1).wait_for()
    assert violations(page, axe, scheme) == []


def test_everything_is_reached_by_keyboard(visit: Visit) -> None:
    page = visit("#/p/0/unfrozen/kl/1/vs/normal")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skip to content
    stops = []
    for _ in range(24):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText")
        )
    assert "Prompt 0" in stops
    assert "Fill final layer" in stops
    assert stops.count("Tokens of unfrozen/kl/1") == 1  # one stop, whatever the length
    tokens = page.get_by_role("group", name="Tokens of unfrozen/kl/1")
    places = []
    for key in ("Home", "n", "ArrowRight", "ArrowLeft", "End"):
        tokens.press(key)
        places.append(int(page.locator(".pinned").get_attribute("data-i")))
    assert places == [0, 2, 3, 2, 23]
    assert page.url.endswith("/t/23")
    tokens.press("Escape")
    assert page.locator(".pinned").count() == 0
    assert not page.url.endswith("/t/23")


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_is_wider_than_a_phone(walk: Walk, route: str) -> None:
    page = walk(route, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_what_was_found_is_there_without_scripts(visit: Visit) -> None:
    page = visit("#/?open=all", java_script_enabled=False)
    assert "unfrozen/kl/1 would skip" in page.locator("main").inner_text()
    assert page.locator("header button:visible, header select:visible, header input:visible").count() == 0


def test_paper_is_white_and_has_the_charts(visit: Visit) -> None:
    page = visit("#/?open=all", color_scheme="dark")
    for chart in page.locator(".chart").all():
        chart.and_(page.locator(DRAWN)).wait_for()
    pixel = "c.getContext('2d').getImageData(0, 0, 1, 1).data"
    corner = f"() => [...document.querySelectorAll('canvas')].map(c => [...{pixel}].join())"
    assert set(page.evaluate(corner)) == {"20,23,28,255"}
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert set(page.evaluate(corner)) == {"255,255,255,255"}
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert {canvas.bounding_box()["width"] for canvas in page.locator("canvas").all()} == {680}
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.emulate_media(media="print")
    assert not page.locator("header").is_visible()


def test_paper_has_what_is_folded_and_what_is_right_or_wrong(visit: Visit, answered: Path) -> None:
    for route, mark in (("#/p/3/unfrozen/kl/2/vs/normal", ".outcome summary .wrong"), ("#/", ".verdict")):
        page = visit(route, path=answered)
        page.locator(mark).first.wait_for(state="attached")
        folded, opened = (page.locator(f"main details{those}") for those in (":not([open], .screen)", "[open]"))
        n_folded, n_opened = folded.count(), opened.count()
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert folded.count() == 0 < n_folded
        assert page.locator(mark).first.is_visible()
        for chart in page.locator(".chart").all():
            chart.and_(page.locator(DRAWN)).wait_for()
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        page.wait_for_timeout(100)
        assert opened.count() == n_opened
        assert page.evaluate("location.hash") == route, "nothing was chosen"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_shows_through_the_headings_of_a_table(visit: Visit, answered: Path, scheme: str) -> None:
    """They are opaque, and lie above all that has moved beneath them."""
    page = visit("#/p/3?prompt.numbers=true", path=answered, color_scheme=scheme, viewport=PHONE)
    scroll = page.locator(".fold .scroll")
    scroll.locator("td").first.evaluate(
        "cell => cell.append(Object.assign(document.createElement('b'), {className: 'blank'}))"
    )
    scroll.evaluate("box => { box.style.maxHeight = '300px'; box.scrollIntoView(); box.scrollTo(90, 60); }")
    heads = scroll.locator("th:is(thead *, :first-child)")
    grounds = heads.evaluate_all("all => all.map(th => getComputedStyle(th).backgroundColor)")
    assert all(ground.startswith("rgb(") for ground in grounds), grounds
    at = scroll.bounding_box()
    seen = """([x, y]) => [...Array(10).keys()].flatMap(i => [[x + 20, y + 25 * i + 9], [x + 20 * i + 9, y + 20]])
        .map(([x, y]) => document.elementFromPoint(x, y).closest("th, td")?.tagName)"""
    assert set(page.evaluate(seen, [at["x"], at["y"]])) == {"TH"}


def test_tables_fit_on_paper_with_their_headings_and_nothing_is_broken_over_pages(walk: Walk) -> None:
    for route, parts in (
        ("#/p/1?prompt.numbers=true", "main tr"),
        ("#/c/unfrozen/kl/1", "main tr"),
        ("#/", "main .chart"),
    ):
        page = walk(route, viewport=PAPER)
        page.emulate_media(media="print")
        assert page.locator(parts).first.evaluate("element => getComputedStyle(element).breakInside") == "avoid"
        if parts == "main tr":
            assert page.locator("main thead").first.get_by_role("button", name="Perplexity").is_visible()
            assert page.evaluate("document.documentElement.scrollWidth") == 688


def test_a_chart_is_saved(walk: Walk) -> None:
    page = walk("#/")
    page.locator("[data-chart=mix] .chart:has(canvas[aria-label])").wait_for()
    for kind, start in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save Where tokens exit as {kind}").click()
        assert download.value.suggested_filename == f"mix.{kind.lower()}"
        content = download.value.path().read_bytes()
        assert content.startswith(start)
        assert len(content) > 5_000


def test_runs_are_saved_as_csv(walk: Walk) -> None:
    page = walk("#/p/1")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of runs").click()
    rows = rows_of(download.value)
    assert len(rows) == 6 * 7
    assert rows[1] | {"prompt_id": "0", "mode": "unfrozen", "kl_factor": "0.5", "n_tokens": "24"} == rows[1]
    assert rows[0]["text"].startswith("The cat sat on the mat.\nThe cat")
    assert rows[7]["prompt"] == HOSTILE
    failed = [row for row in rows if row["status"] == "error"]
    assert len(failed) == 1
    assert failed[0]["error"].startswith("CUDA out of memory")


def rows_of(download: Any) -> list[dict[str, str]]:
    text = download.path().read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


SAVED = {  # by the title of what is saved: how many rows there are, and what is in the first
    "Quality against cost": (7, {"configuration": "normal"}),
    "Where tokens exit": (7 * 6, {"configuration": "normal", "layer": "5", "share": "0"}),
    "Side by side": (6, {"other": "unfrozen/kl/0.5", "base": "normal"}),
    "Runs": (6, {"prompt_id": "0", "setting": "frozen_residual/kl/0.5", "error": ""}),
}


def test_the_rows_of_a_chart_are_saved_as_csv(visit: Visit) -> None:
    page = visit("#/?beside.kind=one+with+all+others")
    for title, (n, row) in SAVED.items():
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save {title} as CSV").click()
        rows = rows_of(download.value)
        assert len(rows) == n, title
        assert rows[0] | row == rows[0]
        assert all("words" not in found and "undefined" not in found.values() for found in rows)


def test_the_tokens_of_a_run_are_saved_as_csv(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/1")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of tokens").click()
    assert download.value.suggested_filename == "tokens-0-unfrozen_kl_1.csv"
    rows = rows_of(download.value)
    assert [row["position"] for row in rows] == [str(i) for i in range(24)]
    assert "".join(row["token"] for row in rows[:3]) == "The cat sat"
    assert [row["exit_layer"] for row in rows[:4]] == ["29", "29", "15", "29"]
    assert [i for i, row in enumerate(rows) if row["disagrees"] == "true"] == [3, 6, 9, 12, 15, 18, 21]
    assert (rows[0]["decided"], rows[1]["decided"]) == ("false", "true")
    assert (rows[3]["full_depth_token"], rows[4]["full_depth_token"]) == ("token 7", rows[4]["token"])
    assert float(rows[2]["kl_10"]) == pytest.approx(2.0, rel=0.05)
    assert float(rows[2]["logprob"]) == pytest.approx(-1.5, rel=0.05)
    assert sum(float(rows[2][f"exit_prob_{layer}"]) for layer in (5, 10, 15, 20, 25, 29)) == pytest.approx(1, abs=0.001)
