"""Addresses restore the page's state, or state what is missing. Also the pane, search and side files."""

import shutil
from pathlib import Path

import pytest
from report_fixtures import Visit, Walk
from synthetic_sweeps import LAYERS, run_rows, write_runs

from reports import build_report

STORED = [0.0, 0.004, 0.334, 0.0, 0.333, 0.329]  # no rule's


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one prompt under `normal` and `unfrozen/kl/1`, with the most likely tokens of each layer."""
    modes = {"normal": None, "unfrozen": 1.0}
    runs = [run_rows("0", "?", mode, k, ["The", " cat", " sat", " on"]) for mode, k in modes.items()]
    for row, rows in runs:
        for token in rows:
            token["kl"] = [2.0, 1.0, 0.5, 0.25, 0.0625]
            if row["mode"] == "unfrozen" and token["decided"]:
                token["exit_prob"] = STORED
            token["final_token_id"] = 9
            token["top_token_ids"] = [[9, 50 + rank, 60 + rank] for rank in range(len(LAYERS) + 1)]
            token["top_tokens"] = [
                [" dog", " \u00a0" if rank == 2 else f" word{rank}", "\n"] for rank in range(len(LAYERS) + 1)
            ]
            token["top_prob"] = [[0.5, 0.25, 0.125]] * (len(LAYERS) + 1)
    folder = tmp_path_factory.mktemp("recorded")
    return build_report(str(write_runs(folder / "sweep", runs)), folder / "report.html")


def test_the_pane_has_what_each_layer_would_have_said_and_the_stored_exit_probabilities(
    walk: Walk, recorded: Path
) -> None:
    page = walk("#/p/0/unfrozen/kl/1/t/2", path=recorded)
    rows = page.locator(".pane tbody tr")
    assert rows.count() == len(LAYERS) + 1
    said = rows.nth(1).locator("td").last
    assert said.locator(".piece").all_inner_texts() == [" dog", " word1", "↵\n"]
    assert rows.nth(2).locator("td").last.locator(".piece").all_inner_texts()[1] == "␣⟨A0⟩", "a blank one is seen"
    assert [share.strip() for share in said.locator(".soft").all_inner_texts()] == ["50%", "25%", "13%"]
    assert "“ dog”" in page.locator(".pane dl").inner_text()
    # Exit probabilities in whole per cents that sum to 100, independent of the rule and the KL values.
    shown = [int(text.strip(" %\n")) for text in page.locator(".pane tbody tr td:nth-child(3)").all_inner_texts()]
    assert sum(shown) == 100
    assert shown == pytest.approx([100 * share for share in STORED], abs=1)
    for route in ("#/p/0/unfrozen/kl/1/t/0", "#/p/0/normal/t/2"):
        column = walk(route, path=recorded).locator(".pane tbody tr td:nth-child(3)")
        assert [text.strip() for text in column.all_inner_texts()] == ["0%"] * len(LAYERS) + ["100%"]


def test_any_two_configurations_stand_side_by_side(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/1/t/4")
    page.get_by_label("Side by side with").select_option("frozen_residual/kl/2")
    page.locator(".tokens").nth(1).wait_for()
    assert page.url.endswith("#/p/0/unfrozen/kl/1/vs/frozen_residual/kl/2/t/4")
    assert page.locator(".pinned").get_attribute("data-i") == "4"
    assert page.locator(".texts h2").all_inner_texts() == ["unfrozen/kl/1", "frozen_residual/kl/2"]
    assert "Identical to frozen_residual/kl/2 for the first 4 tokens; after that" in page.locator("main").inner_text()


def test_a_token_of_the_other_text_is_pinned_too(walk: Walk, visit: Visit) -> None:
    page = walk("#/p/0/unfrozen/kl/1/vs/normal/t/4")
    page.locator(".tokens").nth(1).locator(".t").nth(6).click()
    assert page.url.endswith("#/p/0/unfrozen/kl/1/vs/normal/o/6")
    for seen in (page, visit("#/p/0/unfrozen/kl/1/vs/normal/o/6")):
        assert seen.locator(".pinned").count() == 1
        assert seen.locator(".tokens").nth(1).locator(".pinned").get_attribute("data-i") == "6"
        assert "normal: token 7 of 24" in seen.locator(".pane").inner_text()
    page.locator(".tokens").first.press("ArrowRight")
    assert page.url.endswith("#/p/0/unfrozen/kl/1/vs/normal/t/5")


def test_a_run_opens_at_its_first_difference_and_tells_of_what_the_pointer_is_over(walk: Walk) -> None:
    page = walk("#/p/0/unfrozen/kl/1/vs/normal")
    pane, pinned = page.locator(".pane"), page.locator(".pinned")
    assert pinned.get_attribute("data-i") == "4"
    assert page.locator(".differs + .t").first.get_attribute("data-i") == "4"
    assert "unfrozen/kl/1: token 5 of 24" in pane.inner_text()
    page.locator(".tokens").nth(1).locator(".t").nth(9).hover()
    assert "normal: token 10 of 24" in pane.inner_text()
    page.locator("h1").hover()
    assert "unfrozen/kl/1: token 5 of 24" in pane.inner_text()
    assert page.evaluate("location.hash") == "#/p/0/unfrozen/kl/1/vs/normal", "nothing was chosen"
    page.get_by_label("Side by side with").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.url.endswith("#/p/0/unfrozen/kl/1/vs/normal/t/5"), "the text is the next stop"
    page.get_by_role("link", name="next prompt").click()
    page.get_by_role("heading", name="unfrozen/kl/1 on prompt 1").wait_for()
    assert page.locator(".tokens").count() == 2, "beside the same setting"
    assert walk("#/p/0/normal").locator(".pinned").get_attribute("data-i") == "1", "the first that was decided"


def test_neighbours_are_the_nearest_prompts_with_the_same_setting(visit: Visit, tmp_path: Path) -> None:
    has = {0: ["normal", "unfrozen"], 1: ["normal"], 2: ["normal", "unfrozen"]}
    factors = {"normal": None, "unfrozen": 1.0}
    runs = [run_rows(str(i), "?", mode, factors[mode], ["a", "b"]) for i, modes in has.items() for mode in modes]
    page = visit("#/p/0/unfrozen/kl/1", path=build_report(str(write_runs(tmp_path / "s", runs)), tmp_path / "r.html"))
    assert page.get_by_role("link", name="previous prompt").count() == 0
    page.get_by_role("link", name="next prompt").click()
    page.get_by_role("heading", name="unfrozen/kl/1 on prompt 2").wait_for()


@pytest.mark.parametrize(
    ("route", "sentence"),
    [
        ("#/p/99", "There is no prompt 99."),
        ("#/p/0/unfrozen/kl/9", "There is no run unfrozen/kl/9 on prompt 0."),
        ("#/p/0/unfrozen/kl/1/s/7", "There is no run unfrozen/kl/1, seed 7, on prompt 0."),
        ("#/c/other", "There is no configuration other."),
        ("#/nowhere", "No page has this address."),
        ("#/p/0/unfrozen/kl/1/vs/unfrozen/kl/9", "There is no unfrozen/kl/9 to compare with on this prompt."),
        ("#/p/0/unfrozen/kl/1/t/900", "There is no token 901: the text has 24."),
        ("#/p/0/unfrozen/kl/1/vs/normal/o/900", "There is no token 901: the text has 24."),
    ],
)
def test_an_address_that_leads_nowhere_says_so(walk: Walk, route: str, sentence: str) -> None:
    assert sentence in walk(route).locator("main").inner_text()


def test_a_prompt_that_is_not_held_is_said_to_be_elsewhere(walk: Walk, some: Path) -> None:
    page = walk("#/p/0", path=some)
    assert "holds the texts and tokens of 2 of 6 prompts" in page.locator("main").inner_text()
    assert "holds the texts and tokens of 2 of 6 prompts" in walk("#/", path=some).locator("main").text_content()


def test_side_files_are_read_from_beside_the_page(walk: Walk, beside: Path) -> None:
    page = walk("#/p/0/unfrozen/kl/1/vs/normal/t/2", path=beside)
    assert page.locator(".t").count() == 48
    assert f"read after layer {LAYERS[2]}" in page.locator(".pane").inner_text()
    assert "At each layer" in page.locator(".pane").inner_text()
    assert walk("#/s/cat", path=beside).locator(".hits li").count() > 6


def test_a_missing_side_file_is_named(visit: Visit, beside: Path, tmp_path: Path) -> None:
    shutil.copytree(beside.parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / beside.name
    (tmp_path / "r.data" / "prompt-0.js").unlink()
    page = visit("#/p/0/normal", path=path)
    assert "r.data/prompt-0.js, which isn't next to this file" in page.locator("main").inner_text()
    assert all("ERR_FILE_NOT_FOUND" in line for line in visit.wrong)
    visit.wrong.clear()


FOLLOWED, CONTROL = "unfrozen/kl/1", "unfrozen/random/kl/1"


def test_every_rule_and_control_has_its_address(walk: Walk, several_report: Path) -> None:
    page = walk(f"#/c/{CONTROL}", path=several_report)
    page.get_by_role("heading", name=f"{CONTROL} on every prompt").wait_for()
    page.goto(several_report.as_uri() + f"#/p/0/{FOLLOWED}/vs/{CONTROL}/t/3")
    page.get_by_role("heading", name=f"{FOLLOWED} on prompt 0").wait_for()
    assert page.locator(".texts h2").all_inner_texts() == [FOLLOWED, CONTROL]
    page.goto(several_report.as_uri() + "#/p/0/unfrozen%2Fkl%2F1/t/3")
    page.get_by_role("heading", name=f"{FOLLOWED} on prompt 0").wait_for()
