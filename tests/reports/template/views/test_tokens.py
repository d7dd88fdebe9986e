"""Pages of texts: the settings' texts on a prompt, and a run's text with its tokens."""

from pathlib import Path
from typing import Any

import pytest
from report_fixtures import Visit, Walk, all_drawn
from synthetic_sweeps import run_rows, write_runs

from eexit.method.rules import RULES
from eexit.plan.configuration import EarlyExit
from reports.page.build import build_report
from reports.read.sweep import Sweep

PHONE = (("width", 360), ("height", 740))
THRESHOLD = EarlyExit("unfrozen", "confidence", 0.97)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one prompt: two settings write full depth's text, a third another one, which is wrong."""
    runs = []
    texts: dict[tuple[str, float | None], list[str]] = {
        ("normal", None): ["A", " cat", "  sat", " "],
        ("unfrozen", 2.0): ["A", " cat", "  sat", " "],
        ("frozen_residual", 2.0): ["A", " cat", "  sat", " "],
        ("unfrozen", 0.5): ["A", " dog", " ran", "\n"],
    }
    for (mode, k), pieces in texts.items():
        right = k != 0.5
        found = "cat" if right else "dog"
        said: dict[str, Any] = {
            "answer": "cat",
            "found_answer": found,
            "correct": right,
            "equal_share": 1.0 if right else 0.25,
        }
        runs.append(run_rows("0", "?", mode, k, pieces, **said))
    own = run_rows("0", "?", "unfrozen", 1.0, ["A", " cow", " ran", "."], of=THRESHOLD, answer="cat", correct=False)
    for i, token in enumerate(own[1]):
        evidence = [0.5, 0.9693, 0.989, None, None] if i == 2 else [0.1] * 5 if i else None
        token |= {"exit_score": evidence, "exit_layer": 15 if i == 2 else 29}
        token |= {"exit_prob": [0.0, 0.0, 1.0, 0.0, 0.0, 0.0] if i == 2 else [0.0] * 5 + [1.0]}
    folder = tmp_path_factory.mktemp("written")
    return build_report(str(write_runs(folder / "s", [*runs, own])), folder / "report.html")


def test_equal_texts_are_told_once_with_where_they_part_from_full_depth(walk: Walk, written: Path) -> None:
    page = walk("#/p/0", path=written)
    assert page.locator("#written").inner_text() == "What was written: 3 different texts"
    assert "Right: 3 of 5 runs." in page.locator("main").inner_text()
    same, *others = page.locator(".said-by").all()
    assert "3 settings wrote this: normal, U·kl 2 (oracle), F·kl 2 (oracle)" in same.inner_text()
    assert same.locator(".right").count() == 1
    same.get_by_role("link", name="F·kl 2").hover()
    assert "colours of F·kl 2" in same.inner_text()
    for other, rest in zip(others, ("dog ran", "cow ran."), strict=True):
        assert other.locator(".wrong").count() == 1
        assert "".join(other.locator(".own").all_text_contents()).strip().startswith(rest), "bold"
        assert other.locator(".differs").inner_text() == "differs from here"
    page.get_by_role("combobox", name="Show").select_option("right at full depth, wrong here")
    assert page.locator(".said-by").count() == 3, "beside full depth's own"
    assert page.locator("details.fold[open]").count() == 0, "numbers are behind a toggle"


def test_the_texts_of_a_prompt_are_coloured_and_lead_to_their_runs(walk: Walk) -> None:
    page = walk("#/p/0")
    full, part, *_ = page.locator(".said-by").all()
    assert full.locator(".t:not(.r5)").count() == 0, "at full depth"
    assert part.locator(".differs + .own").count() == 1
    colours = part.locator(".t").evaluate_all("all => all.map(t => getComputedStyle(t).backgroundColor)")
    name = part.get_by_role("link").first.get_attribute("title")
    part.locator(".t").nth(2).click()
    page.get_by_role("heading", name=f"{name} on prompt 0").wait_for()
    assert page.locator(".pinned").get_attribute("data-i") == "2"
    of_run = page.locator(".tokens .t").evaluate_all("all => all.map(t => getComputedStyle(t).backgroundColor)")
    assert colours == of_run
    assert len(set(colours)) > 3


def test_blanks_that_nobody_would_see_are_marked_and_copied_as_they_are(walk: Walk, written: Path) -> None:
    page = walk("#/p/0", path=written)
    text = page.locator(".said-by .tokens").first
    assert text.text_content() == "A cat  sat "
    assert text.locator(".blank").count() == 3
    mark = "e => getComputedStyle(e, '::before').content"
    assert text.locator(".blank").first.evaluate(mark) == '"␣"'
    page = walk("#/p/0/normal", path=written)
    assert page.locator(".tokens .t").nth(2).locator(".blank").count() == 2
    assert page.locator(".tokens .t").nth(1).locator(".blank").count() == 0, "a gap between words is seen"
    assert page.locator(".tokens .t").nth(3).locator(".blank").count() == 1


def test_evidence_stands_beside_its_threshold(walk: Walk, written: Path) -> None:
    pane = walk("#/p/0/unfrozen/confidence/0.97/t/2", path=written).locator(".pane")
    column = pane.locator("tbody tr td:nth-of-type(2)").all_inner_texts()
    assert column == ["0.5 < 0.97", "0.969 < 0.97", "0.989 ≥ 0.97: exits", "–", "–", "–"]


def test_a_run_begins_with_its_text_and_its_numbers_are_a_line(walk: Walk, written: Path) -> None:
    page = walk("#/p/0/unfrozen/kl/0.5", path=written)
    tokens, line = page.locator(".tokens").bounding_box(), page.locator(".outcome summary")
    assert line.bounding_box()["height"] < 60
    assert "tokens 4 · early exits" in line.inner_text()
    assert tokens["y"] < 450
    assert page.locator(".grid").count() == 0 or page.locator(".grid").bounding_box()["y"] > tokens["y"]
    assert not page.locator(".outcome .named").is_visible()
    line.click()
    assert "Answer" in page.locator(".outcome .named").inner_text()


def test_on_a_phone_the_panel_is_small_and_closes(walk: Walk, written: Path) -> None:
    page = walk("#/p/0/unfrozen/kl/0.5", path=written, viewport=PHONE)
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


def test_what_was_not_observed_is_left_out_and_all_else_is_shown(visit: Visit, tmp_path: Path) -> None:
    """Texts, exits and answers are shown, without full depth's tokens."""
    runs = []
    unseen = dict.fromkeys(("kl", "logprob", "final_token_id", "entropy"))
    for prompt in range(6):
        for setting in (None, EarlyExit("unfrozen", "confidence", 0.5), THRESHOLD):
            mode, k = ("unfrozen", 1.0) if setting else ("normal", None)
            row, rows = run_rows(
                str(prompt), "?", mode, k, ["A", " cat", " sat"], of=setting, disagreement=None, perplexity=None,
                answer="cat", correct=prompt > 0,
            )  # fmt: skip
            runs.append((row, [token | unseen for token in rows]))
    sweep = write_runs(tmp_path / "s", runs)
    page = all_drawn(visit("#/?open=all", path=build_report(str(sweep), tmp_path / "r.html")))
    page.locator(".runs tbody tr").first.wait_for()
    said = page.locator("main").inner_text()
    assert "Right answers" in said
    assert "NaN" not in said
    assert page.locator("#confident").count() == 0
    measures = page.locator("[data-chart=quality]").get_by_label("Quality").locator("option").all_inner_texts()
    assert not {"Disagreement", "Perplexity"} & {*measures}
    page.goto(page.url.split("#")[0] + "#/p/0/unfrozen/confidence/0.97/t/1")
    page.locator(".pane").get_by_text("Token 2 of 3").wait_for()


def test_a_long_name_fits_a_phone_and_what_a_gate_passed_over_leaves_no_column(walk: Walk, tmp_path: Path) -> None:
    gated = EarlyExit("frozen_residual", "confidence", 0.97, (15, 20), "0.1")
    row, rows = run_rows("0", "?", gated.mode, 1.0, ["A", " cat"], of=gated)
    runs = [run_rows("0", "?", "normal", None, ["A", " cat"]), (row, [it | {"exit_score": [None] * 5} for it in rows])]
    path = build_report(str(write_runs(tmp_path / "s", runs)), tmp_path / "r.html")
    for route in (f"#/p/0/{gated.key}/vs/normal/t/1", "#/p/0", f"#/c/{gated.key}", "#/"):
        page = walk(route, path=path, viewport=PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, route
        assert "false" not in page.locator("main").inner_text()


def test_the_token_pane_shows_what_the_rule_saw(walk: Walk, several_report: Path, several: Sweep) -> None:
    key = "unfrozen/agree"
    page = walk(f"#/p/0/{key}/t/3", path=several_report)
    table = page.locator(".pane table")
    heads = table.locator("thead th").all_inner_texts()
    column = heads.index(f"Exit score: {RULES['agree'].score_name}")
    stored = several.tokens.to_table(columns=["run_id", "position", "exit_score"]).to_pandas()
    (saw,) = stored.loc[(stored["run_id"] == f"0-{key}-0") & (stored["position"] == 3), "exit_score"]
    cells = table.locator(f"tbody tr:not(:has(.who)) > :nth-child({column + 1})").all_inner_texts()
    assert cells == [*(f"{value:g}" for value in saw), "–"]
    assert "The exit score is the full-depth pass's" in table.locator("caption").inner_text()
    page.goto(several_report.as_uri() + "#/p/0/unfrozen/kl/1/t/3")
    page.get_by_text("The rule decides by the KL.").wait_for()
    assert "Exit score:" not in page.locator(".pane").inner_text()
    page.goto(several_report.as_uri() + "#/p/0/unfrozen/fixed/10/t/3")
    page.get_by_role("heading", name="unfrozen/fixed/10 on prompt 0").wait_for()
    assert "Exit score:" not in page.locator(".pane").inner_text()
