"""The page in a browser: no error, no request, ink in every chart, and text that stays text."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic_sweeps import HOSTILE, run_rows, write_sweep

from reports import build_report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(full) -> Path:
    return build_report(str(full), full / "report.html")


@pytest.fixture
def visit(browser, report) -> Iterator:
    """visit(route) → the page; what went wrong on any page of the test fails it."""
    wrong: list[str] = []
    contexts = []

    def visit(route: str, path: Path = report, **context):
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(path.as_uri()) else wrong.append(request.url))
        page.goto(path.as_uri() + route)
        if context.get("java_script_enabled", True):
            page.locator("body[data-ready]").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_draws_ink(visit, scheme):
    page = visit("#/", color_scheme=scheme)
    charts = page.locator(".chart")
    page.locator(".chart[data-ink]").nth(5).wait_for()
    assert charts.count() == 6
    assert min(int(chart.get_attribute("data-ink")) for chart in charts.all()) > 5_000
    page.locator("figure summary").first.click()
    assert "7 [7, 7]" in page.locator("figure table").first.inner_text()


def test_from_the_overview_to_a_token(visit):
    page = visit("#/")
    page.get_by_role("link", name="0 Question 0?").click()
    page.get_by_role("heading", name="Prompt 0").wait_for()
    page.locator("main table").get_by_role("link", name="unfrozen@1", exact=True).click()
    page.get_by_role("heading", name="unfrozen@1 on prompt 0").wait_for()
    page.locator(".t").nth(2).click()
    assert "Position 2 of 24, read after layer 15." in page.locator(".pane").inner_text()
    assert page.url.endswith("#/p/0/unfrozen%401/t/2")
    page.locator(".tokens").press("n")
    assert "Position 4 of 24" in page.locator(".pane").inner_text()
    page.locator(".tokens").press("Escape")
    assert page.locator(".pinned").count() == 0


def test_an_address_leads_to_one_token_side_by_side(visit):
    page = visit("#/p/0/unfrozen@1/vs/t/4")
    assert page.locator(".tokens").count() == 2
    assert page.locator(".pinned").get_attribute("data-i") == "4"
    pane = page.locator(".pane").inner_text()
    assert "At each layer" in pane
    assert "−1.5 nats" in pane
    texts = page.locator(".tokens").all_inner_texts()
    before = [text.split("differs from here")[0] for text in texts]
    assert before == ["The cat sat on"] * 2
    assert page.locator(".tokens").first.locator(".again").count() > 0


def test_what_full_depth_would_have_said_is_shown(visit):
    pane = visit("#/p/0/unfrozen@1/t/3").locator(".pane").inner_text()
    assert "“token 7”" in pane


@pytest.mark.parametrize(
    "route", ["#/", "#/p/1", "#/p/1/unfrozen%401/vs/t/1", "#/fail", "#/p/2/unfrozen@2", "#/s/script"]
)
def test_hostile_text_is_shown_and_does_nothing(visit, route):
    page = visit(route)
    assert page.evaluate("window.owned") is None
    assert page.locator("main img, main script").count() == 0
    assert "<script>" in page.locator("main").inner_text()


def test_long_and_odd_text_survives(visit):
    page = visit("#/p/1/normal")
    assert page.locator(".t").nth(2).inner_text() == "x" * 10_000
    shown = page.locator(".t").nth(1).inner_text()
    for part in ("👩‍👩‍👧 é 漢字", "⟨202E⟩right to left⟨2069⟩", "⟨00⟩⟨07⟩⟨1B⟩[31m", "⟨2028⟩", "{{ 7*7 }}", "↵", "⇥end"):
        assert part in shown
    assert HOSTILE.split("\n")[0][:40] in shown


def test_failures_are_counted_and_linked(visit):
    page = visit("#/")
    page.locator("main").get_by_role("link", name="failed").click()
    page.get_by_role("heading", name="Failed runs").wait_for()
    page.locator("main table").get_by_role("link").click()
    assert "CUDA out of memory" in page.locator(".error").inner_text()


def test_layers_have_colours_and_another_channel(visit):
    page = visit("#/p/0/unfrozen@0.5")
    token = page.locator(".t.r0").first
    assert token.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(44, 79, 163)"
    final = page.locator(".t.r5").first
    assert final.evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"
    page.get_by_role("button", name="Fill final layer").click()
    assert final.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(179, 18, 43)"
    page.get_by_role("button", name="Layer numbers").click()
    assert token.evaluate("e => getComputedStyle(e, '::after').content") == '"5"'


def test_a_table_sorts(visit):
    page = visit("#/p/0")
    column = page.get_by_role("button", name="Perplexity")
    column.click()
    column.click()
    assert page.locator("main tbody th").first.inner_text() == "unfrozen@0.5"


def test_search_finds_a_token_to_read_from(visit):
    page = visit("#/")
    page.get_by_label("Search generated text").fill("CAT sat")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Runs with").wait_for()
    page.locator(".hits a").first.click()
    page.locator(".pinned").wait_for()
    assert page.locator(".pinned").inner_text().strip() == "cat"


def test_nothing_is_wider_than_a_phone(visit):
    for route in ("#/", "#/p/1", "#/p/1/unfrozen@1/vs"):
        page = visit(route, viewport={"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_trade_off_is_there_without_scripts(visit):
    page = visit("#/", java_script_enabled=False)
    assert page.locator("noscript svg").nth(1).bounding_box()["width"] > 200
    assert "unfrozen@1 exits early" in page.locator("main").inner_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_prompts": 0, "configurations": [], "n_runs": 21}, "No run has landed yet."),
        ({"n_prompts": 1, "n_runs": 21}, "14 runs haven't landed yet"),
        ({"n_prompts": 2, "fail": lambda *run: True}, "Every run failed"),
        ({"n_prompts": 2, "configurations": [("unfrozen", 1.0)]}, "no normal runs"),
    ],
)
def test_sweeps_that_are_not_whole_say_so(visit, make_sweep, arguments, sentence):
    folder = make_sweep(**arguments)
    page = visit("#/", path=build_report(str(folder), folder / "report.html"))
    assert sentence in page.locator("main").inner_text()


def test_seeds_and_odd_ids_have_addresses(visit, tmp_path):
    generations, tokens = [], []
    for seed in (3, 4):
        for mode, k in (("normal", None), ("unfrozen", 1.0)):
            row, rows = run_rows("a/b c%?#", "?", mode, k, ["one", " two", f" seed{seed}{mode}"], seed)
            generations.append(row)
            tokens += rows
    page = visit("#/", path=build_report(str(write_sweep(tmp_path / "s", generations, tokens)), tmp_path / "r.html"))
    page.get_by_role("link", name="a/b c%?# ?").click()
    page.locator("main table").get_by_role("link", name="unfrozen@1, seed 4").click()
    page.get_by_role("heading", name="unfrozen@1, seed 4 on prompt a/b c%?#").wait_for()
    page.get_by_label("Side by side with").select_option("normal")
    page.locator(".tokens").nth(1).wait_for()
    assert "seed4unfrozen" in page.locator(".tokens").first.inner_text()
    assert "seed4normal" in page.locator(".tokens").nth(1).inner_text()


def test_an_original_file_copes_without_a_recording(visit, tmp_path):
    from reports import generate_multi_prompt_html_visualization

    evaluation = {
        "tokens": ["one", " two"],
        "chosen_exit_layers": [5, 29],
        "exitable_layers": [5, 10],
        "scores": {"a": 1},
    }
    result = {"mode": "unfrozen", "kl_factor": 1.0, "response": "one two", "evaluation": evaluation}
    path = generate_multi_prompt_html_visualization([{"prompt": "?", "results": [result]}], tmp_path / "o.html")
    page = visit("#/p/0/unfrozen@1/t/1", path=path)
    assert "read after layer 29 (final)." in page.locator(".pane").inner_text()
    assert "Scores: a 1" in page.locator("main").inner_text()
