"""A run's text, one span per token: colours, marks and blanks; and the pane that describes a token."""

import re
from pathlib import Path

import pytest
from report_fixtures import Visit, Walk, all_drawn
from synthetic_sweeps import run_rows, swept, write_runs

from eexit.output.palette import contrast
from eexit.plan.configuration import Configuration, EarlyExit, NoExit

THRESHOLD = EarlyExit("unfrozen", "confidence", 0.97)
STORED, FINAL = [0.0, 0.004, 0.334, 0.0, 0.333, 0.329], [0.0] * 5 + [1.0]  # exit probabilities
RUN = f"#/p/0/{THRESHOLD.key}"


def test_the_pane_has_scores_beside_their_threshold_probabilities_and_likely_tokens(walk: Walk, tmp_path: Path) -> None:
    settings = ("normal", None, None), ("unfrozen", 1.0, None), ("unfrozen", 1.0, THRESHOLD)
    runs = [run_rows("0", "?", mode, k, ["A", " cow", " ran", "."], of=of) for mode, k, of in settings]
    texts = [[" dog", " \u00a0" if rank == 2 else f" word{rank}", "\n"] for rank in range(6)]
    ids = [[9, 50 + rank, 60 + rank] for rank in range(6)]
    top = {"top_token_ids": ids, "top_tokens": texts, "top_prob": [[0.5, 0.25, 0.125]] * 6, "final_token_id": 9}
    for row, rows in runs:
        for token in rows:
            of_oracle = {"exit_prob": STORED, "exit_score": token["kl"]}
            token |= top | (of_oracle if row["rule"] == "kl" and token["decided"] else {})
    runs[0][1][1] |= dict.fromkeys(("top_token_ids", "top_tokens", "top_prob"))  # nothing was recorded of this one
    runs[2][1][2] |= {"exit_score": [0.5, 0.9693, 0.989, None, None], "exit_layer": 15}
    recorded = write_runs(tmp_path / "s", runs)
    page = walk(f"{RUN}/t/2", path=recorded)
    rows, heads = page.locator(".pane tbody tr"), page.locator(".pane thead th").all_inner_texts()
    [at] = (number for number, head in enumerate(heads, 1) if head.startswith("Exit score: "))
    scores = page.locator(f".pane tbody tr > :nth-child({at})").all_inner_texts()
    assert scores == ["0.5 < 0.97", "0.969 < 0.97", "0.989 ≥ 0.97: exits", "–", "–", "–"]
    said = rows.nth(1).locator("td").last
    assert said.locator(".piece").all_inner_texts() == [" dog", " word1", "↵\n"]
    assert rows.nth(2).locator("td").last.locator(".piece").all_inner_texts()[1] == "␣⟨A0⟩", "a blank one is seen"
    assert [share.strip() for share in said.locator(".soft").all_inner_texts()] == ["50%", "25%", "13%"]
    assert "“ dog”" in page.locator(".pane dl").inner_text()
    for route, expected in (("unfrozen/kl/1/t/2", STORED), ("unfrozen/kl/1/t/0", FINAL), ("normal/t/2", FINAL)):
        pane = walk(f"#/p/0/{route}", path=recorded).locator(".pane")
        assert ("wasn't recorded" in pane.inner_text()) == ("normal" not in route), "the early-exit pass's tokens"
        cells = pane.locator("tbody tr td:nth-child(3)").all_inner_texts()
        shown = [int(text.strip(" %\n")) for text in cells]
        assert sum(shown) == 100, "whole per cents, independent of the rule and the KL values"
        assert shown == pytest.approx([100 * share for share in expected], abs=1)
    caption = walk("#/p/0/unfrozen/kl/1/t/2", path=recorded).locator(".pane caption").inner_text()
    assert ("decides by the KL" in caption, "exit score" in caption) == (True, False), "scores that are the KL, once"
    assert walk("#/p/0/normal/t/1", path=recorded).locator(".pane tbody td.words").count() == 0


def test_blanks_that_nobody_would_see_are_marked_and_copied_as_they_are(visit: Visit, tmp_path: Path) -> None:
    run = run_rows("0", "?", "unfrozen", 0.5, ["one", "\n", "two", " three\n\n", "  four", " "])
    page = visit("#/p/0/unfrozen/kl/0.5", path=write_runs(tmp_path / "s", [run]))
    text, top = page.locator(".tokens"), "e => e.getClientRects()[e.getClientRects().length - 1].top"
    assert [token.locator(".blank").count() for token in text.locator(".t").all()] == [0, 0, 0, 0, 2, 1]
    mark = "e => getComputedStyle(e, '::before').content"
    assert text.locator(".blank").first.evaluate(mark) == '"␣"'
    without = [token.evaluate(top) for token in page.locator(".t").all()]
    page.get_by_role("button", name="Layer numbers").click()
    lines = [token.evaluate(top) for token in page.locator(".t").all()]
    assert lines[0] == lines[1] < lines[2], "a newline's layer number stays on its line"
    assert len(set(lines)) == len(set(without))
    assert text.inner_text().split("\n")[0].startswith("one↵")
    assert "".join(text.evaluate("e => e.textContent").split("↵")) == "one\ntwo three\n\n  four "


def test_layers_have_colours_and_another_channel_and_what_the_legend_dims_can_still_be_read(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/0.5")
    look = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor, getComputedStyle(e).opacity]"
    token, final = (page.locator(f".t.r{rank}").first for rank in (0, 5))
    assert [each.evaluate(look)[1] for each in (token, final)] == ["rgb(44, 79, 163)", "rgba(0, 0, 0, 0)"]
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


def test_each_token_that_disagrees_with_full_depth_is_marked_and_a_key_goes_to_the_next(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/1/vs/normal")
    one = page.locator(".tokens").first
    marked = one.locator(".disagrees")
    assert [int(token.get_attribute("data-i")) for token in marked.all()] == [3, 6, 9, 12, 15, 18, 21]
    assert marked.first.evaluate("e => getComputedStyle(e).borderTopStyle") == "double"
    assert "7 of the 23 decided tokens (30.4%)" in page.locator(".texts section").first.inner_text()
    one.press("Escape")
    page.get_by_role("button", name="Next (d)").first.click()
    assert page.locator(".pinned").get_attribute("data-i") == "3"
    for key, place in (("d", "6"), ("ArrowLeft", "5"), ("d", "6"), ("End", "23"), ("d", "23")):  # none is left
        one.press(key)
        assert page.locator(".pinned").get_attribute("data-i") == place


def test_what_was_not_observed_is_left_out_and_all_else_is_shown(visit: Visit, tmp_path: Path) -> None:
    """Texts, exits and answers are shown, without full depth's tokens."""
    answers = [{"disagreement": None, "perplexity": None, "answer": "cat", "correct": n > 0} for n in range(6)]
    of_token = dict.fromkeys(("kl", "logprob", "final_token_id", "entropy"))
    grid: list[Configuration] = [NoExit(), EarlyExit("unfrozen", "confidence", 0.5), THRESHOLD]
    path = swept(tmp_path / "s", grid, columns=lambda _, n, __: answers[n], of_token=lambda *_: of_token)
    page = all_drawn(visit("#/?open=all", path=path))
    page.locator(".runs tbody tr").first.wait_for()
    said = page.locator("main").inner_text()
    assert ("Right answers" in said, "NaN" in said) == (True, False)
    assert page.locator("#confident").count() == 0
    measures = page.locator("[data-chart=quality]").get_by_label("Quality").locator("option").all_inner_texts()
    assert not {"Disagreement", "Perplexity"} & {*measures}
    visit(f"{RUN}/t/1", path=path).locator(".pane").get_by_text("Token 2 of 4").wait_for()
