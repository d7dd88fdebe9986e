"""The page in a browser: no errors, no requests, no empty chart, and generated text that never becomes HTML."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from report_fixtures import (
    Visit,
    Walk,
    all_drawn,
    ink_of,
    open_tables,
    picture_of,
    shows_another,
)
from synthetic_sweeps import HOSTILE, run_rows, write_runs

from eexit.output.palette import contrast
from reports import build_report


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_draws_ink_and_brings_out_the_same_configuration(visit: Visit, scheme: str) -> None:
    page = all_drawn(visit("#/?open=all", color_scheme=scheme))
    assert page.locator(".chart").count() == 6
    assert min(ink_of(chart) for chart in page.locator(".chart").all()) > 50
    open_tables(page)
    assert page.locator("figure canvas[aria-label]").count() == 6
    mix = page.locator("[data-chart=mix]")
    before = picture_of(mix)
    page.get_by_label("Highlight").select_option("unfrozen/kl/1")
    assert shows_another(mix, before)


def test_from_the_overview_to_a_token_and_to_failures(walk: Walk) -> None:
    page = walk("#/")
    page.get_by_role("link", name="0 Question 0?").first.click()
    page.get_by_role("heading", name="Prompt 0").wait_for()
    page.locator(".said-by").get_by_role("link", name="U·kl 1", exact=True).click()
    page.get_by_role("heading", name="unfrozen/kl/1 on prompt 0").wait_for()
    page.locator(".t").nth(2).click()
    assert "Token 3 of 24 (position 2), read after layer 15." in page.locator(".pane").inner_text()
    assert page.url.endswith("#/p/0/unfrozen/kl/1/t/2")
    page.get_by_role("link", name="Overview").first.click()
    page.locator("main").get_by_role("link", name="1 failed: CUDA out of memory").click()
    page.get_by_role("heading", name="Failed runs").wait_for()
    page.locator("main table").get_by_role("link").click()
    assert "CUDA out of memory" in page.locator(".error").inner_text()


def test_differences_are_against_whichever_is_chosen_and_cells_of_runs_show_another_number(walk: Walk) -> None:
    page = walk("#/")
    beside = page.locator("[data-chart=beside]")
    beside.get_by_role("combobox", name="Compare").select_option("one with all others")
    beside.get_by_role("combobox", name="Measure").select_option("Perplexity")
    beside.locator("summary").click()
    rows = beside.locator("tbody tr")
    rows.first.wait_for()
    assert rows.all_inner_texts()[0].startswith("unfrozen/kl/0.5\t2.333 [2.333, 2.333]")
    beside.get_by_role("combobox", name="Base").select_option("unfrozen/kl/0.5")
    assert rows.all_inner_texts()[0].startswith("normal\t0.4286 [0.4286, 0.4286]"), "the other way round"
    assert beside.locator("caption").inner_text() == "Side by side · all others beside unfrozen/kl/0.5"
    runs = page.locator(".runs")
    page.get_by_role("combobox", name="Cells").select_option("Early exits")
    runs.get_by_role("button", name="Show more").click()
    runs.get_by_role("button", name="U·kl 2").click()
    last = runs.locator("tbody tr").last
    assert last.inner_text().startswith("2")  # failed there: no value
    assert last.locator("td:not(.words) .bad").inner_text().startswith("✕")
    assert "Early exits" in runs.locator("caption").inner_text()
    shades = (
        runs.locator("tbody tr")
        .first.locator("td:not(.words) a")
        .evaluate_all("all => all.map(a => getComputedStyle(a).backgroundColor)")
    )
    assert len(set(shades)) > 1
    last.locator("td:not(.words) .bad").click()
    page.get_by_role("heading", name="unfrozen/kl/2 on prompt 2").wait_for()


FAR = {
    "Identical to normal for the first token; after that 0 match it again": ["a", "c"],
    "Identical to normal for the first 2 tokens; after that 0 match it again": ["a", "b", "d"],
    "Differs from normal from the first token on; after that 1 match it": ["b"],
    "Identical to normal.": ["a", "b"],
}


def test_how_far_a_text_is_normals_is_said_in_words(walk: Walk, tmp_path: Path) -> None:
    """One prompt for each case."""
    runs = [
        run_rows(str(prompt), "?", mode, k, pieces)
        for prompt, other in enumerate(FAR.values())
        for mode, k, pieces in (("normal", None, ["a", "b"]), ("unfrozen", 1.0, other))
    ]
    path = build_report(str(write_runs(tmp_path / "s", runs)), tmp_path / "r.html")
    for prompt, sentence in enumerate(FAR):
        assert sentence in walk(f"#/p/{prompt}/unfrozen/kl/1", path=path).locator("main").inner_text()


def test_each_token_that_disagrees_with_full_depth_is_marked_and_a_key_goes_to_the_next(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/1/vs/normal")
    one = page.locator(".tokens").first
    marked = one.locator(".disagrees")
    assert [int(token.get_attribute("data-i")) for token in marked.all()] == [3, 6, 9, 12, 15, 18, 21]
    assert marked.first.evaluate("e => getComputedStyle(e).borderTopStyle") == "double"
    assert "Overlined: 7 of the 23 decided tokens (30.4%)" in page.locator(".texts section").first.inner_text()
    places = []
    one.press("Escape")
    for key in ("d", "d", "ArrowLeft", "d"):
        one.press(key)
        places.append(int(page.locator(".pinned").get_attribute("data-i")))
    assert places == [3, 6, 5, 6]
    page.get_by_role("button", name="Next (d)").first.click()
    assert page.locator(".pinned").get_attribute("data-i") == "9"
    one.press("End")
    one.press("d")
    assert page.locator(".pinned").get_attribute("data-i") == "23", "none is left"


@pytest.mark.parametrize(
    "route",
    [
        "#/?strip.prompt=1",
        "#/c/normal",
        "#/p/1",
        "#/p/1/unfrozen/kl/1/vs/t/1",
        "#/fail",
        "#/p/2/unfrozen/kl/2",
        "#/s/script",
    ],
)
def test_hostile_text_is_shown_and_does_nothing(walk: Walk, route: str) -> None:
    page = walk(route)
    assert page.evaluate("window.owned") is None
    assert page.locator("main img, main script").count() == 0
    assert "<script>" in page.locator("main").inner_text()


def test_long_and_odd_text_survives(walk: Walk) -> None:
    page = walk("#/p/1/normal")
    assert page.locator(".t").nth(2).inner_text() == "x" * 10_000
    shown = page.locator(".t").nth(1).inner_text()
    for part in ("👩‍👩‍👧 é 漢字", "⟨202E⟩right to left⟨2069⟩", "⟨00⟩⟨07⟩⟨1B⟩[31m", "⟨2028⟩", "{{ 7*7 }}", "↵", "⇥end"):
        assert part in shown
    assert HOSTILE.split("\n")[0][:40] in shown


def test_layers_have_colours_and_another_channel_and_what_the_legend_dims_can_still_be_read(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/0.5")
    look = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor, getComputedStyle(e).opacity]"
    token, final = (page.locator(f".t.r{rank}").first for rank in (0, 5))
    assert token.evaluate(look)[1] == "rgb(44, 79, 163)"
    assert final.evaluate(look)[1] == "rgba(0, 0, 0, 0)"
    page.get_by_role("button", name="Fill final layer").click()
    assert final.evaluate(look)[1] == "rgb(179, 18, 43)"
    page.get_by_role("button", name="Layer numbers").click()
    assert token.evaluate("e => getComputedStyle(e, '::after').content") == '"5"'
    assert page.evaluate("getComputedStyle(document.body).display") == "block", "the page keeps its layout"
    page.locator(".legend button").first.click()
    for rank in (1, 5):
        colour, fill, opacity = page.locator(f".t.r{rank}").first.evaluate(look)
        assert (fill, opacity) == ("rgba(0, 0, 0, 0)", "1")
        assert contrast("#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour)), "#ffffff") >= 4.5
    assert token.evaluate(look)[1] == "rgb(44, 79, 163)"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("empty", "No run is committed yet."),
        ("partial", "14 runs aren't committed yet"),
        ("all failed", "Every run failed"),
        ("one prompt", "too few for intervals"),
        ("one configuration", "no normal runs"),
        ("only normal", "nothing exits early"),
        ("no normal", "no normal runs"),
    ],
)
def test_sweeps_that_are_not_whole_say_so(
    visit: Visit, unusual: Callable[[str], Path], name: str, sentence: str
) -> None:
    page = all_drawn(visit("#/?open=all", path=unusual(name)))
    assert sentence in page.locator("main").inner_text()
    assert "nan" not in page.locator("main").inner_text().lower()


def test_seeds_and_odd_ids_have_addresses(visit: Visit, tmp_path: Path) -> None:
    runs = [
        run_rows("a/b c%?#", "?", mode, k, ["one", " two", f" seed{seed}{mode}"], seed)
        for seed in (3, 4)
        for mode, k in (("normal", None), ("unfrozen", 1.0))
    ]
    sweep = write_runs(tmp_path / "s", runs, temperature=1.0)
    page = visit("#/?open=all", path=build_report(str(sweep), tmp_path / "r.html"))
    page.get_by_role("link", name="a/b c%?# ?").first.click()
    page.locator(".said-by").get_by_role("link", name="U·kl 1, seed 4", exact=True).click()
    page.get_by_role("heading", name="unfrozen/kl/1, seed 4 on prompt a/b c%?#").wait_for()
    page.get_by_label("Side by side with").select_option(label="normal, seed 4")
    page.locator(".tokens").nth(1).wait_for()
    assert "seed4unfrozen" in page.locator(".tokens").first.inner_text()
    assert "seed4normal" in page.locator(".tokens").nth(1).inner_text()


def test_a_run_that_is_the_same_for_every_seed_is_shown_once(visit: Visit, walk: Walk, tmp_path: Path) -> None:
    runs = [
        run_rows("0", "?", mode, k, ["one", " two", f" {mode} {seed if k else ''}"], seed)
        for seed in (3, 4)
        for mode, k in (("normal", None), ("unfrozen", 1.0))
    ]
    path = build_report(str(write_runs(tmp_path / "s", runs)), tmp_path / "r.html")
    page = visit("#/p/0?prompt.numbers=true", path=path)
    links = page.locator("main table").first.get_by_role("link").all_inner_texts()
    assert links == ["normal, every seed", "unfrozen/kl/1, seed 3", "unfrozen/kl/1, seed 4"]
    page.get_by_role("link", name="unfrozen/kl/1, seed 4").first.click()
    page.get_by_text("Identical to normal, every seed for the first 2 tokens").wait_for()
    page.get_by_label("Side by side with").select_option(label="normal, every seed")
    page.locator(".tokens").nth(1).wait_for()
    assert page.evaluate("location.hash") == "#/p/0/unfrozen/kl/1/s/4/vs/normal"
    page = visit("#/p/0/normal/s/4/vs/unfrozen/kl/1~4", path=path)  # an address from before seeds were shown as one
    page.get_by_role("heading", name="normal, every seed on prompt 0").wait_for()
    assert "unfrozen 4" in page.locator(".tokens").nth(1).inner_text()
    page = walk("#/?open=all", path=path)
    assert "4 runs (3 different), none failed" in page.locator(".provenance").inner_text()
    page = walk("#/s/normal", path=path)
    assert "1 place in 1 of 3 generated texts" in page.locator("main").inner_text()
