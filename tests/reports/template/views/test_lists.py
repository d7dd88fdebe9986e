"""Search finds what it should, and the methods page says nothing twice."""

import re
from pathlib import Path

from report_fixtures import Visit, Walk, words_seen
from synthetic_sweeps import run_rows, write_runs


def test_search_finds_every_place_of_a_text_prompts_and_whole_words(walk: Walk) -> None:
    page = walk("#/s/cat")
    hits = page.locator(".hits li")
    normal = [text for text in hits.all_inner_texts() if text.startswith("normal on prompt 0,")]
    assert [re.findall(r"token (\d+)", text)[0] for text in normal] == ["2", "10", "18"]
    assert re.search(r"\d+ places in \d+ of 42 generated texts", page.locator("main").inner_text())
    page = walk("#/s/question%203")
    assert "Prompt 3 itself" in page.locator(".hits").inner_text()
    page.locator(".hits a").first.click()
    page.get_by_role("heading", name="Prompt 3").wait_for()
    page = walk("#/s/ca")
    assert hits.count() > 10
    page.get_by_label("Whole words").check()
    page.locator('body[data-ready="#/w/ca"]').wait_for()
    assert hits.count() == 0
    page.get_by_label("Search texts and prompts").fill("cat")
    page.keyboard.press("Enter")
    page.locator('body[data-ready="#/w/cat"]').wait_for()
    assert hits.count() > 10
    for query in ("mat.", "$", "(", "[a-z]", "\\", "/", "${1} {{ 7*7 }}"):  # words as they are
        page = walk(f"#/s/{'%24%7B1%7D%20%7B%7B%207*7%20%7D%7D' if '1' in query else query}")
        marked = page.locator(".hits mark").all_inner_texts()
        assert {text.lower() for text in marked} == {query.lower()} - {"(", "\\", "[a-z]"}


def test_search_shows_some_hundreds_at_a_time(visit: Visit, tmp_path: Path) -> None:
    run = run_rows("0", "?", "unfrozen", 1.0, [" the"] * 450)
    page = visit("#/s/the", path=write_runs(tmp_path / "s", [run]))
    assert "450 places in 1 of 1 generated text" in page.locator("main").inner_text()
    shown, more = page.locator(".hits li"), page.get_by_role("button", name="Show 200 more")
    assert shown.count() == 200
    more.click()
    more.click()
    assert shown.count() == 450
    assert not more.is_visible()


def test_methods_have_contents_and_say_nothing_twice(walk: Walk, visit: Visit, answered: Path) -> None:
    page = walk("#/methods", path=answered)
    contents = page.get_by_role("navigation", name="Contents")
    parts = "Modes|Rules|Means and intervals|Depth and savings|Texts|Comparisons|What each layer predicts|This file"
    links = contents.get_by_role("link").all_inner_texts()
    assert "|".join(links) == f"{parts}|Quality|A run, as recorded|A token, as recorded"
    assert words_seen(page) < 3600
    said = [words for words in page.locator("dd").all_inner_texts() if len(words.split()) > 8]
    assert len(set(said)) == len(said) > 40
    assert "shown as “Early exits”" in page.locator("main").inner_text()
    assert page.get_by_text("Model: tiny float32.").is_visible()
    contents.get_by_role("link", name="Comparisons").click()
    page.locator("#comparisons:focus").wait_for()
    assert page.evaluate("location.hash") == "#/methods/comparisons"
    again = visit("#/methods/comparisons", path=answered)
    assert again.locator("#comparisons").bounding_box()["y"] < 100
