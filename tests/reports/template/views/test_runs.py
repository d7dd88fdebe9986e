"""The overview's strip; its table of runs, with its filters and their effects; and the overconfident exits."""

import json
from pathlib import Path

import pytest
from report_fixtures import Page, Visit, Walk, rows_of, saved
from synthetic_sweeps import graded, run_rows, write_manifest, write_runs

from eexit.plan.configuration import EarlyExit, NoExit
from reports.page.build import PageOptions, build_report

GAINS, LOSES, SAME = (EarlyExit("unfrozen", "confidence", parameter) for parameter in (0.7, 0.8, 0.9))
LOST, GAINED, DIFFER = (
    "right at full depth, wrong here", "wrong at full depth, right here", "differs from full depth",
)  # fmt: skip


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return ten prompts of two kinds; one setting only gains, one loses more than it gains, and one does neither."""
    folder = graded(
        tmp_path_factory.mktemp("texts") / "s",
        {NoExit(): "✓✓✓✓✓✓✗✗✗✗", GAINS: "✓✓✓✓✓✓✓✓✗✗", LOSES: "✗✗✗✓✓✓✓✗✗✗", SAME: "✓✓✓✓✓✓✗✗✗✗"},
    )
    about = json.loads((folder / "sweep.json").read_text())
    for prompt in about["config"]["prompts"]:
        prompt["kind"] = "even" if int(prompt["id"]) % 2 == 0 else "odd"
    write_manifest(folder, about)
    return build_report(str(folder), folder / "report.html")


# Visible red elements, except tokens and colours of layers.
RED = """() => [...document.querySelectorAll("body *")].filter((element) => {
  if (element.closest(".t, .swatch, .bar") || !element.checkVisibility()) return false;
  const style = getComputedStyle(element);
  const sides = ["Top", "Right", "Bottom", "Left"].filter((side) => style[`border${side}Width`] !== "0px");
  const colours = [style.color, style.backgroundColor, ...sides.map((side) => style[`border${side}Color`])];
  return colours.some((colour) => {
    const [r, g, b, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
    return alpha && r - Math.max(g, b) > 60 && g - b < 60;
  });
}).map((element) => element.outerHTML.slice(0, 200))"""


def section(page: Page) -> Page:
    return page.locator("section", has=page.locator("#runs"))


def shown(page: Page) -> list[str]:
    """Return the marks of full depth and of the setting in each row, once they are drawn."""
    section(page).locator("tbody tr").first.wait_for()
    rows = section(page).locator("tbody tr").all()
    marks = [row.locator("td.written .right, td.written .wrong").all_inner_texts() for row in rows]
    return ["".join(mark[0] for mark in pair) for pair in marks]


def pick(page: Page, menu: str, option: str) -> None:
    section(page).get_by_role("combobox", name=menu).select_option(option)


def test_the_strip_begins_with_a_loss_tells_tokens_turns_and_leads_to_its_run(
    visit: Visit, walk: Walk, marked: Path
) -> None:
    page = walk(f"#/?strip.setting={LOSES.key}", path=marked)
    strip = page.locator(".strip")

    def seen() -> tuple[str, str]:
        place = strip.get_by_role("status").inner_text()
        return place, "".join(mark[0] for mark in strip.locator(".right, .wrong").all_inner_texts())

    assert seen() == ("1 of 10", "✓✗")
    assert strip.locator(".differs + .t").all_inner_texts() == [" 42", " 41"]
    strip.locator(".tokens").last.locator(".t").nth(2).hover()
    strip.get_by_text("“ is” layer 15").wait_for()
    assert "full depth predicts the same" in strip.inner_text()
    page.keyboard.press("ArrowLeft")
    strip.get_by_text("10 of 10").wait_for()
    page.keyboard.press("ArrowLeft")
    strip.get_by_role("button", name="Previous prompt").click()
    strip.get_by_text("8 of 10").wait_for()
    assert seen() == ("8 of 10", "✗✗")
    strip.get_by_role("combobox", name="Setting").select_option(GAINS.key)
    strip.locator(f'a[title="{GAINS.key}"]').wait_for()
    assert seen() == ("8 of 10", "✗✓"), "the same prompt"
    page = visit("#/" + page.url.partition("#/")[2], path=marked)
    again = page.locator(".strip")
    assert again.get_by_role("combobox", name="Setting").input_value() == GAINS.key
    assert again.get_by_role("status").inner_text() == "8 of 10"
    again.get_by_role("combobox", name="Setting").select_option(LOSES.key)
    again.locator(f'a[title="{LOSES.key}"]').wait_for()
    for turn in ("9 of 10", "10 of 10", "1 of 10"):
        again.get_by_role("button", name="Next prompt").click()
        again.get_by_text(turn).wait_for()
    text = again.locator(".tokens").last
    text.press("End")
    again.get_by_text("full depth predicts “token 7”").wait_for()
    assert again.locator(".pinned").inner_text().strip() == "41"
    text.press("Enter")
    page.get_by_role("heading", name=f"{LOSES.key} on prompt 0").wait_for()
    assert page.url.endswith(f"#/p/0/{LOSES.key}/vs/normal/t/3")


def test_runs_show_what_was_written_and_lead_to_why(walk: Walk, answered: Path) -> None:
    page = walk("#/?runs.setting=unfrozen/kl/2", path=answered)
    rows = section(page).locator("tbody tr")
    rows.nth(3).get_by_text("abcd").last.wait_for()
    assert rows.count() == 4
    section(page).get_by_role("button", name="Show more").click()
    rows.nth(11).wait_for()
    assert "12 of 12 rows" in section(page).inner_text()
    section(page).get_by_role("link", name="Why: unfrozen/kl/2 on prompt 3").click()
    page.get_by_role("heading", name="unfrozen/kl/2 on prompt 3").wait_for()
    assert page.locator(".tokens").count() == 2


def test_the_surest_wrong_exits_are_shown_with_what_full_depth_would_have_said(visit: Visit, tmp_path: Path) -> None:
    words = ["The", " cat", " sat", " on"]
    online = run_rows("0", "?", "unfrozen", 1.0, words, of=EarlyExit("unfrozen", "confidence", 0.9))
    for token in online[1]:
        token.update(exit_layer=5, final_token_id=7, exit_logprob=-0.001, logprob=-6.0)
    sweep = write_runs(tmp_path / "s", [run_rows("0", "?", "normal", None, words), online])
    page = visit("#/", path=build_report(str(sweep), tmp_path / "r.html"))
    section = page.locator("section", has=page.locator("#confident"))
    first = section.locator("tbody tr").first
    first.get_by_text("token 7").wait_for()
    assert "> 99.8%" in first.inner_text() or "100%" in first.inner_text() or "99.9%" in first.inner_text()
    assert "3 of 3 rows" in section.inner_text()
    first.get_by_role("link").first.click()
    page.locator(".pinned").wait_for()


def test_side_files_that_are_read_at_once_give_each_prompt_its_own_tokens(visit: Visit, tmp_path: Path) -> None:
    runs = []
    for prompt in ("first", "second", "third"):
        run = run_rows(prompt, "?", "unfrozen", 1.0, ["The", prompt], of=EarlyExit("unfrozen", "confidence", 0.9))
        run[1][1].update(exit_layer=5, final_token_id=7, exit_logprob=-0.001, logprob=-6.0)
        runs.append(run)
    sweep = write_runs(tmp_path / "s", runs)
    page = visit("#/", path=build_report(str(sweep), tmp_path / "r.html", PageOptions(max_bytes=1)))
    links = page.locator("section", has=page.locator("#confident")).locator("tbody tr th a")
    links.nth(2).wait_for()
    assert sorted(links.all_inner_texts()) == ["“first”", "“second”", "“third”"]


def test_rows_are_filtered_which_drives_the_charts_and_what_is_saved_and_those_that_tell_most_come_first(
    visit: Visit, walk: Walk, marked: Path
) -> None:
    page = walk(f"#/?runs.setting={GAINS.key}", path=marked)
    assert shown(page) == ["✗✓", "✗✓", "✓✓", "✓✓"], "of ten, the first four"
    pick(page, "Setting", LOSES.key)
    assert shown(page) == ["✓✗", "✓✗", "✓✗", "✗✓"]
    assert "10 of 10 prompts that this file holds with this setting. 3 lost, 1 gained." in section(page).inner_text()
    menu = section(page).get_by_role("combobox", name="Show")
    assert menu.locator("option").all_inner_texts() == [
        "all (10)", f"{LOST} (3)", f"{GAINED} (1)", "right at full depth, wrong under every rule (0)",
        "right here (4)", "wrong here (6)", f"{DIFFER} (10)",
    ]  # fmt: skip
    of_all = rows_of(saved(page, "Save Quality against cost as JSON"))
    pick(page, "Show", DIFFER)
    caption = page.locator("[data-chart=quality] figcaption")
    caption.get_by_text("Of the 10 selected of 10 prompts, without intervals.").wait_for()
    of_same = rows_of(saved(page, "Save Quality against cost as JSON"))
    means = ("correct", "disagreement", "layers_skipped", "perplexity", "correct_n")
    for one, two in zip(of_all, of_same, strict=True):
        assert one["configuration"] == two["configuration"]
        assert [one[name] for name in means] == pytest.approx([two[name] for name in means], rel=1e-5)
    assert of_same[1]["correct_low"] is None
    pick(page, "Show", LOST)
    caption.get_by_text("Of the 3 selected of 10 prompts").wait_for()
    rows = rows_of(saved(page, "Save Quality against cost as JSON"))
    right = {row["configuration"]: row["correct"] for row in rows}
    assert right == {"normal": 1, GAINS.key: 1, LOSES.key: 0, SAME.key: 1}
    assert "not of those 3 selected" in page.locator("[data-chart=beside] figcaption").inner_text()
    download = saved(page, "Save Runs as CSV")
    rows = rows_of(download)
    assert (download.suggested_filename, len(rows)) == ("Runs-3-of-10.csv", 3)
    assert page.locator("#saved").inner_text() == "Saved 3 of 10 rows as Runs-3-of-10.csv; 7 are missing"
    assert [rows[0][key] for key in ("kind", "expected", "full_depth_right", "right", "text")] == [
        "even", "42", "1", "0", "So it is 41",
    ]  # fmt: skip
    pick(page, "Kind", "even")
    assert shown(page) == ["✓✗", "✓✗"]
    cells = section(page).locator("tbody tr").first.locator("td:not(.words) a").all_inner_texts()
    assert [cell[0] for cell in cells] == ["✓", "✓", "✗", "✓"], "every setting has a cell"
    pick(page, "Cells", "perplexity")
    assert section(page).locator("tbody tr").first.locator("td:not(.words) a").first.inner_text() == "3"
    pick(page, "Kind", "all")
    pick(page, "Show", GAINED)
    assert shown(page) == ["✗✓"]
    assert shown(visit("#/" + page.url.partition("#/")[2], path=marked)) == ["✗✓"]


def test_every_seed_stands_beside_its_own_run_of_full_depth(visit: Visit, tmp_path: Path) -> None:
    folder = graded(tmp_path / "s", {NoExit(): "✓✗", LOSES: "✗✗"}, seeds=(0, 1, 2))
    page = visit(f"#/?runs.filter={LOST.replace(' ', '+')}", path=build_report(str(folder), tmp_path / "r.html"))
    assert shown(page) == ["✓✗"] * 3
    assert "3 of 6 runs that this file holds with this setting. 3 lost, 0 gained." in section(page).inner_text()
    heads = section(page).locator("tbody th").all_inner_texts()
    assert [head.splitlines()[0] for head in heads] == [f"0, seed {seed}" for seed in (0, 1, 2)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_red_is_late_and_nothing_else(walk: Walk, marked: Path, scheme: str) -> None:
    for route in ("#/?open=all", "#/p/2", "#/p/2/unfrozen/kl/2", "#/p/0/unfrozen/kl/1/vs/normal", "#/fail"):
        assert walk(route, color_scheme=scheme).evaluate(RED) == [], route
    page = walk("#/p/0?prompt.numbers=true", path=marked, color_scheme=scheme)
    assert page.evaluate(RED) == []
    seen = page.locator(".said-by .wrong, .said-by .right, td .wrong, td .right")
    assert seen.count() > 4
    colours = {(each.inner_text()[0], each.evaluate("e => getComputedStyle(e).color")) for each in seen.all()}
    assert [mark for mark, _ in sorted(colours)] == ["✓", "✗"], "each has one colour, its own"
    page.evaluate("document.querySelector('h1').style.color = 'var(--final)'")
    assert len(page.evaluate(RED)) == 1, "and would be found"


def test_bold_is_what_the_other_text_does_not_have(walk: Walk, tmp_path: Path) -> None:
    """This holds in the overview's table, which compares words, and on the pages of prompt and run."""
    told = {("normal", None): "the cat sat on it", ("unfrozen", 1.0): "the dog sat on us"}
    runs = [run_rows("0", "?", *of, [f" {word}" for word in words.split()]) for of, words in told.items()]
    path = build_report(str(write_runs(tmp_path / "s", runs)), tmp_path / "r.html")
    page = walk("#/", path=path)
    cells = page.locator(".runs td.written")
    cells.last.get_by_text("us").wait_for()
    bold = [[words.strip() for words in cell.locator("strong").all_text_contents()] for cell in cells.all()]
    assert bold == [["cat", "it"], ["dog", "us"]]
    for route in ("#/p/0", "#/p/0/unfrozen/kl/1/vs/normal"):
        page = walk(route, path=path)
        assert [words.strip() for words in page.locator(".own").all_text_contents()][-4:] == (
            ["dog", "us"] if route == "#/p/0" else ["dog", "us", "cat", "it"]
        )
        weights = "all => all.map(e => getComputedStyle(e).fontWeight)"
        assert set(page.locator(".tokens .own").evaluate_all(weights)) == {"700"}
        assert set(page.locator(".tokens .t:not(.own)").evaluate_all(weights)) == {"400"}
        assert page.locator("main strong").count() == 0
