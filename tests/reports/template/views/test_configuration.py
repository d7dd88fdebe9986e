"""The page of a run, alone or side by side with another: its outcome, and the token that is pinned."""

from pathlib import Path

from report_fixtures import PHONE, Visit, Walk
from synthetic_sweeps import JUDGE, run_rows, write_runs

FAR = {
    "Identical to normal for the first token; after that 0 match it again": ["a", "c"],
    "Identical to normal for the first 2 tokens; after that 0 match it again": ["a", "b", "d"],
    "Differs from normal from the first token on; after that 1 match it": ["b"],
    "Identical to normal.": ["a", "b"],
}
PAIR = "#/p/0/unfrozen/kl/1/vs/normal"


def test_how_far_a_text_is_normals_is_said_in_words(walk: Walk, tmp_path: Path) -> None:
    """There is a prompt for each case. Neighbours are the nearest prompts with the same setting."""
    runs = [
        run_rows(str(prompt), "?", mode, k, pieces)
        for prompt, other in enumerate(FAR.values())
        for mode, k, pieces in (("normal", None, ["a", "b"]), ("unfrozen", 1.0, other))
    ]
    runs += [run_rows("8", "?", "normal", None, ["a"]), run_rows("9", "?", "unfrozen", 1.0, ["a"])]
    folder = write_runs(tmp_path / "s", runs)
    for prompt, sentence in enumerate(FAR):
        page = walk(f"#/p/{prompt}/unfrozen/kl/1", path=folder)
        assert sentence in page.locator("main").inner_text()
        assert page.get_by_role("link", name="previous prompt").count() == (prompt > 0)
    page.get_by_role("link", name="next prompt").click()
    page.get_by_role("heading", name="unfrozen/kl/1 on prompt 9").wait_for()


def test_a_run_stands_beside_any_other_and_a_token_of_either_text_is_pinned(walk: Walk, visit: Visit) -> None:
    page = walk("#/p/0/unfrozen/kl/1/t/4")
    page.get_by_label("Side by side with").select_option("frozen_residual/kl/2")
    page.locator(".tokens").nth(1).wait_for()
    assert page.url.endswith("#/p/0/unfrozen/kl/1/vs/frozen_residual/kl/2/t/4")
    assert page.locator(".pinned").get_attribute("data-i") == "4"
    assert "Identical to frozen_residual/kl/2 for the first 4 tokens" in page.locator("main").inner_text()
    page = walk(f"{PAIR}/t/4")
    page.locator(".tokens").nth(1).locator(".t").nth(6).click()
    assert page.url.endswith(f"{PAIR}/o/6")
    for seen in (page, visit(f"{PAIR}/o/6")):
        assert [token.get_attribute("data-i") for token in seen.locator(".tokens >> nth=1 >> .pinned").all()] == ["6"]
        assert "normal: token 7 of 24" in seen.locator(".pane").inner_text()
    page.locator(".tokens").first.press("ArrowRight")
    assert page.url.endswith(f"{PAIR}/t/5")


def test_a_run_opens_at_its_first_difference_and_tells_of_what_the_pointer_is_over(walk: Walk) -> None:
    page = walk(PAIR)
    pane, pinned = page.locator(".pane"), page.locator(".pinned")
    assert pinned.get_attribute("data-i") == "4"
    assert page.locator(".differs + .t").first.get_attribute("data-i") == "4"
    assert "unfrozen/kl/1: token 5 of 24" in pane.inner_text()
    page.locator(".tokens").nth(1).locator(".t").nth(9).hover()
    assert "normal: token 10 of 24" in pane.inner_text()
    page.locator("h1").hover()
    assert "unfrozen/kl/1: token 5 of 24" in pane.inner_text()
    assert page.evaluate("location.hash") == PAIR, "nothing was chosen"
    page.get_by_label("Side by side with").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.url.endswith(f"{PAIR}/t/5"), "the text is the next stop"
    page.get_by_role("link", name="next prompt").click()
    page.get_by_role("heading", name="unfrozen/kl/1 on prompt 1").wait_for()
    assert page.locator(".tokens").count() == 2, "beside the same setting"
    page = walk("#/p/0/normal")
    assert page.locator(".pinned").get_attribute("data-i") == "1", "the first that was decided"
    line, numbers = page.locator(".outcome summary"), page.locator(".outcome .named")
    assert "tokens 24 · early exits" in line.inner_text()
    assert line.bounding_box()["height"] < 60
    assert page.locator(".tokens").bounding_box()["y"] < 450, "a run begins with its text, and its numbers are a line"
    assert not numbers.is_visible()
    line.click()
    assert "Perplexity" in numbers.inner_text()


def test_a_run_says_whether_its_answer_is_right_and_what_the_judge_says(answered: Path, walk: Walk) -> None:
    scores = "coherence 1, completeness 1, clarity 5, no repetition 4 (1 to 5)."
    for route, words in (
        ("/unfrozen/random/confidence/0.7?run.numbers=true", "Answer: ✗ wrong; found: 41; expected: 42."),
        ("/unfrozen/random/confidence/0.7?run.numbers=true", f"Judge {JUDGE}: {scores}"),
        ("/unfrozen/kl/2?run.numbers=true", f"Judge {JUDGE} gave no usable answer: it answered with nonsense"),
        ("?prompt.numbers=true", "Expected answer: 42"),
        ("?prompt.numbers=true", "✗ wrong"),
    ):
        assert words in walk(f"#/p/3{route}", answered).locator("main").inner_text()
    assert "Answer: " not in walk("#/p/0/normal", answered).locator("main").inner_text()


def test_on_a_phone_the_panel_is_small_and_closes(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/0.5", viewport=PHONE)
    pane, token = page.locator(".pane"), page.locator(".t").nth(1)
    assert not pane.is_visible(), "before anything is pinned"
    for close in (
        pane.get_by_role("button", name="Close").click,
        lambda: page.keyboard.press("Escape"),
        page.locator("h1").click,
        token.click,  # again
    ):
        token.click()
        pane.wait_for()
        assert pane.bounding_box()["height"] <= 0.4 * 740 + 1
        close()
        pane.wait_for(state="hidden")
        assert page.locator(".pinned").count() == 0
        assert page.evaluate("location.hash") == "#/p/0/unfrozen/kl/0.5"
