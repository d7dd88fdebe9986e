"""Accessibility (axe, keyboard, phone, print, no JavaScript) and exports of the page."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from report_fixtures import Page, Visit, Walk, all_drawn, rows_of, saved, violations
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
DARK = (ROUTES[1], ROUTES[2], ROUTES[5], ROUTES[7])
PHONE = (("width", 360), ("height", 740))
PAPER = (("width", 688), ("height", 1017))  # A4 between the margins


@pytest.mark.parametrize(
    ("route", "scheme"),
    # In the dark scheme, one page of each kind with particular colours. The folded parts of an overview, such as
    # tables of charts, are checked on a sweep with answers.
    [*((route, "light") for route in ("#/", *ROUTES[1:])), *((route, "dark") for route in ("#/", *DARK))],
)
def test_axe_finds_nothing(walk: Walk, axe: str, route: str, scheme: str) -> None:
    page = walk(route, color_scheme=scheme)
    assert violations(page, axe, scheme) == []


def test_everything_is_reached_by_keyboard(visit: Visit) -> None:
    page = visit("#/p/0/unfrozen/kl/1/vs/normal")
    assert tabbed(page, 1) == ["Skip to content"]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    stops = tabbed(page, 24)
    assert stops[:2] == ["Overview", "Prompt 0"]
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


def test_a_token_that_is_scrolled_into_view_leaves_the_tab_key_where_it_was(visit: Visit) -> None:
    """After `scrollIntoView`, browsers continue from the element, unless something has the focus."""
    page = visit("#/p/0/unfrozen/kl/1/vs/normal/t/23", viewport=(("width", 1280), ("height", 250)))
    place = page.locator(".pinned").bounding_box()
    assert 0 < place["y"] < 250 - place["height"]
    assert tabbed(page, 1) == ["Skip to content"]


def tabbed(page: Page, n: int) -> list[str]:
    """Return what has the focus after each of n tab keys."""
    stops = []
    for _ in range(n):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText")
        )
    return stops


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_is_wider_than_a_phone(walk: Walk, route: str) -> None:
    page = walk(route, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_what_was_found_is_there_without_scripts(visit: Visit) -> None:
    page = visit("#/?open=all", java_script_enabled=False)
    assert "a rule that knew as much would skip" in page.locator("main").inner_text()
    assert page.locator("header button:visible, header select:visible, header input:visible").count() == 0


def test_paper_is_white_and_has_the_charts_where_they_come_from_and_what_was_chosen(walk: Walk, answered: Path) -> None:
    page = all_drawn(walk("#/?quality.oracles=true", path=answered, color_scheme="dark"))
    pixel = "c.getContext('2d').getImageData(0, 0, 1, 1).data"
    corner = f"() => [...document.querySelectorAll('canvas')].map(c => [...{pixel}].join())"
    assert set(page.evaluate(corner)) == {"20,23,28,255"}
    with printed(page):
        assert set(page.evaluate(corner)) == {"255,255,255,255"}
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        assert {canvas.bounding_box()["width"] for canvas in all_drawn(page).locator("canvas").all()} == {680}
        assert set(page.evaluate(corner)) == {"255,255,255,255"}
        assert page.locator(".verdict").is_visible()
        paper = page.locator(".paper").inner_text()
        assert "12 prompts × 17 configurations" in paper
        assert "quality.oracles true" in paper
        assert "#/?quality.oracles=true" in paper
        assert not page.locator("header").is_visible()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


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
    assert opened.count() == n_opened
    assert page.url == address, "nothing was chosen"
    page.emulate_media(media="null")


@pytest.mark.parametrize("way", ["button", "key"])
def test_paper_has_the_rows_that_a_table_shows_at_first_only_on_request(visit: Visit, answered: Path, way: str) -> None:
    page = visit("#/", path=answered)
    rows, said = page.locator(".runs tbody tr"), page.locator(".runs [role=status]")
    page.evaluate("""() => { window.print = () => {
        dispatchEvent(new Event("beforeprint"));
        window.printed = document.querySelector(".runs").innerText;
        window.nRows = document.querySelectorAll(".runs tbody tr").length;
        document.body.dataset.printed = "yes";
        dispatchEvent(new Event("afterprint"));
    }; }""")
    assert (rows.count(), said.inner_text()) == (4, "4 of 12 rows")
    if way == "button":
        page.get_by_role("button", name="Print").click()
    else:
        page.keyboard.press("Control+p")
    page.locator("body[data-printed]").wait_for()
    assert page.evaluate("nRows") == 12
    printed = page.evaluate("printed")
    assert "12 of 12 rows" in printed
    assert printed.count("why") == 12, "the texts are there too"
    assert (rows.count(), said.inner_text()) == (4, "4 of 12 rows")


def test_paper_has_what_is_right_or_wrong(walk: Walk, answered: Path) -> None:
    page = walk("#/p/3/unfrozen/kl/2/vs/normal", path=answered)
    mark = page.locator(".outcome summary .wrong").first
    mark.wait_for(state="attached")
    with printed(page):
        assert mark.is_visible()


def test_nothing_shows_through_the_headings_of_a_table(walk: Walk, answered: Path) -> None:
    """Headings are opaque, and above all content that scrolls beneath them."""
    page = walk("#/p/3?prompt.numbers=true", path=answered, viewport=PHONE)
    scroll = page.locator(".fold .scroll")
    scroll.locator("td").first.evaluate(
        "cell => cell.append(Object.assign(document.createElement('b'), {className: 'blank'}))"
    )
    scroll.evaluate("box => { box.style.maxHeight = '300px'; box.scrollIntoView(); box.scrollTo(90, 60); }")
    heads = scroll.locator("th:is(thead *, :first-child)")
    for theme in ("dark", "light"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
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


def test_runs_are_saved_as_csv(walk: Walk) -> None:
    page = walk("#/p/1")
    rows = rows_of(saved(page, "CSV of runs"))
    assert len(rows) == 6 * 7
    assert rows[1] | {"prompt_id": "0", "mode": "unfrozen", "kl_factor": "0.5", "n_tokens": "24"} == rows[1]
    assert rows[0]["text"].startswith("The cat sat on the mat.\nThe cat")
    assert rows[7]["prompt"] == HOSTILE
    failed = [row for row in rows if row["status"] == "error"]
    assert len(failed) == 1
    assert failed[0]["error"].startswith("CUDA out of memory")


SAVED = {  # title of what is saved → number of rows, and content of the first
    "Quality against cost": (7, {"configuration": "normal"}),
    "Where tokens exit": (7 * 6, {"configuration": "normal", "exit_layer": "5", "share": "0"}),
    "Side by side": (6, {"other": "unfrozen/kl/0.5", "base": "normal"}),
    "Runs": (6, {"prompt_id": "0", "setting": "frozen_residual/kl/0.5", "error": ""}),
}


def test_a_chart_and_its_rows_are_saved(walk: Walk) -> None:
    page = walk("#/?beside.kind=one+with+all+others")
    all_drawn(page.locator("[data-chart=mix]"))
    for kind, start in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        download = saved(page, f"Save Where tokens exit as {kind}")
        assert download.suggested_filename == f"mix.{kind.lower()}"
        content = download.path().read_bytes()
        assert content.startswith(start)
        assert len(content) > 5_000
    for title, (n, row) in SAVED.items():
        rows = rows_of(saved(page, f"Save {title} as CSV"))
        assert len(rows) == n, title
        assert rows[0] | row == rows[0]
        assert all("words" not in found and "undefined" not in found.values() for found in rows)


def test_the_tokens_of_a_run_are_saved_as_csv(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/1")
    download = saved(page, "CSV of tokens")
    assert download.suggested_filename == "tokens-0-unfrozen_kl_1.csv"
    rows = rows_of(download)
    assert [row["position"] for row in rows] == [str(i) for i in range(24)]
    assert "".join(row["token"] for row in rows[:3]) == "The cat sat"
    assert [row["exit_layer"] for row in rows[:4]] == ["29", "29", "15", "29"]
    assert [i for i, row in enumerate(rows) if row["disagrees"] == "true"] == [3, 6, 9, 12, 15, 18, 21]
    assert (rows[0]["decided"], rows[1]["decided"]) == ("false", "true")
    assert (rows[3]["full_depth_token"], rows[4]["full_depth_token"]) == ("token 7", rows[4]["token"])
    assert float(rows[2]["kl_10"]) == pytest.approx(2.0, rel=0.05)
    assert float(rows[2]["logprob"]) == pytest.approx(-1.5, rel=0.05)
    assert sum(float(rows[2][f"exit_prob_{layer}"]) for layer in (5, 10, 15, 20, 25, 29)) == pytest.approx(1, abs=0.001)
