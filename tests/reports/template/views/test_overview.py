"""The overview answers first: its order and length, its explanations, and every choice in the address."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import MOST_PROSE, PHONE, Visit, Walk, all_drawn, ink_of, is_redrawn, prose_seen, saved, words_seen
from synthetic_sweeps import add_timings, graded, run_rows, swept, with_answers, write_runs

from eexit.method.rules import CONTROL, ExitHistogram
from eexit.plan.configuration import Configuration, EarlyExit, HFGenerate, NoExit
from reports import PageOptions, build_report

LAPTOP = (("width", 1280), ("height", 720))
TOGGLES = "#/?quality.modes=unfrozen,frozen_residual&quality.oracles=true&quality.controls=true&quality.replayed=true"
PARAMETERS: dict[str, tuple[float | None, ...]] = {
    "kl": (1.0,), "agree": (None,), "confidence": (0.6, 0.8), "margin": (0.4, 0.7), "entropy": (0.3, 1.0),
    "similarity": (0.95, 0.97), "patience": (2.0, 3.0), "predicted_kl": (1.0, 2.0), "fixed": (10.0, 20.0),
}  # fmt: skip
GAINS, LOSES, SURE = (EarlyExit("unfrozen", "confidence", parameter) for parameter in (0.7, 0.8, 0.9))


@pytest.mark.parametrize(("viewport", "screens"), [(LAPTOP, 5), (PHONE, 8)])
def test_it_is_short_and_its_contents_stay_in_sight(walk: Walk, answered: Path, viewport: Any, screens: int) -> None:
    page = all_drawn(walk("#/", path=answered, viewport=viewport))
    page.locator(".runs tbody tr").first.wait_for()
    assert words_seen(page) <= 1200
    assert 100 < prose_seen(page) <= MOST_PROSE
    assert page.evaluate("document.documentElement.scrollHeight") <= screens * dict(viewport)["height"]
    headings = "Does early exit pay here?|Quality against cost|Which setting may I use?|Time|Side by side|Runs"
    assert "|".join(page.locator("h1, h2").all_inner_texts()) == f"{headings}|Where tokens exit|Everything else"
    verdict, strip = (page.locator(each).bounding_box() for each in (".verdict", ".strip"))
    assert verdict["y"] + verdict["height"] <= strip["y"], "an answer first, then a coloured text"
    contents = page.get_by_role("navigation", name="Contents")
    contents.get_by_role("link", name="Side by side").click()
    page.locator("#beside:focus").wait_for(state="attached")
    assert page.evaluate("location.hash") == "#/at/beside"
    assert page.evaluate("scrollY") > 300
    box, heading = contents.bounding_box(), page.locator("#beside").bounding_box()
    assert -1 <= box["y"] < 100, "still in sight"
    assert (box["y"] + box["height"] if viewport == PHONE else 0) <= heading["y"] < 200, "not beneath the contents"


def test_every_choice_is_in_the_address_and_shows_what_it_says(walk: Walk, visit: Visit, answered: Path) -> None:
    page = walk("#/", path=answered)
    assert "?" not in page.url, "where nothing is chosen, nothing is said"
    quality, beside = page.locator("[data-chart=quality]"), page.locator("[data-chart=beside]")
    said = "Certainly higher: 0, lower: 0 of 4 (n = 10 prompts). Mean of 4: 0.0 pp [−23.1 pp, +23.1 pp]."
    assert beside.locator("output").inner_text() == said
    all_drawn(quality).locator("summary").click()
    names = quality.locator("tbody").first.locator("th")
    names.first.wait_for()

    def toggle() -> None:
        for name in ("frozen_residual", "oracles", "controls"):
            quality.get_by_role("button", name=name).click()

    assert {*names.all_inner_texts()} == {"normal", "unfrozen/confidence/0.7", "unfrozen/confidence/0.9"}
    assert is_redrawn(quality, toggle)
    assert names.count() == 1 + 2 * 2 * 2 * 2
    quality.get_by_label("Saved").select_option("multiply-adds, run")
    beside.get_by_role("combobox", name="Compare").select_option("rules and exit sets")
    beside.get_by_role("combobox", name="Other").select_option("frozen_residual/confidence")
    page.locator("[data-fold=depth] summary").click()
    page.locator("[data-chart=depth]").wait_for()
    assert page.url.count("#/?") == 1
    again = visit("#/" + page.url.partition("#/")[2], path=answered)
    chosen = again.locator("[data-chart=quality] option:checked, [data-chart=beside] option:checked").all_inner_texts()
    assert chosen[:5] == ["Accuracy", "multiply-adds, run", "rules and exit sets", "U·conf", "F·conf"]
    assert again.get_by_role("combobox", name="Other").get_attribute("title") == "frozen_residual/confidence"
    assert again.locator("[data-fold][open]").count() == again.locator("[data-fold=depth][open]").count() == 1
    pressed = again.locator("[data-chart=quality]").get_by_role("button", pressed=True).all_inner_texts()
    assert pressed == ["unfrozen", "frozen_residual", "oracles", "controls"]


def test_each_series_has_at_most_one_label_which_covers_no_other(walk: Walk, answered: Path) -> None:
    page = walk(TOGGLES, path=answered, viewport=PHONE)
    all_drawn(page.locator("[data-chart=quality]"))
    svg = saved(page, "Save Quality against cost as SVG").path().read_text()
    bold = r'<text [^>]*translate\(([-\d.]+),([-\d.]+)\)"[^>]*font-weight="600"[^>]*opacity="1"[^>]*>([^<]+)</text>'
    found = {*re.findall(bold, svg)}  # a label's halo has its place
    places = {label: (float(x), float(y)) for x, y, label in found}
    assert places.keys() <= {f"{mode}·{rule}" for mode in "UF" for rule in ("conf", "kl")}
    assert 1 < len(places) == len(found)
    assert not any(abs(x - a) < 12 and abs(y - b) < 8 for (x, y), (a, b) in combinations(places.values(), 2))


def test_terms_are_explained_where_they_stand(walk: Walk, answered: Path) -> None:
    page = walk("#/", path=answered)
    term, tip = page.locator(".verdict .term", has_text="layers skipped"), page.get_by_role("tooltip")
    for ask in (term.hover, term.focus, term.click):
        ask()
        assert "1 − mean depth" in tip.inner_text()
        assert term.get_attribute("aria-describedby") == "tip"
        assert tip.bounding_box()["x"] >= 0
        page.keyboard.press("Escape")
        assert tip.count() == 0
        term.blur()
        page.mouse.move(0, 0)


def test_what_it_saves_is_a_table_too_and_fits_a_phone(visit: Visit, tmp_path: Path) -> None:
    folder = with_answers(tmp_path / "s", 6, modes=("unfrozen",))
    add_timings(folder, {NoExit(): [10.0], GAINS: [8.0], HFGenerate(): [12.0]}, batches=(8,))
    page = visit("#/?open=numbers&quality.y=Disagreement", path=folder, viewport=PHONE)
    section = page.locator("[data-chart=quality]")
    assert ink_of(all_drawn(section).locator(".chart")) > 100
    section.get_by_role("combobox", name="Saved").select_option("time, realised at batch 8")
    section = page.locator("[data-fold=numbers]")
    rows = section.locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == 1 + 2 * 2 * 2 + 1
    assert rows.filter(has_text="unfrozen/kl/2").first.inner_text().startswith("unfrozen/kl/2 (oracle)")
    section.get_by_role("button", name="Saving, realised, batch 8", exact=True).press("Enter")
    assert rows.first.locator("th").inner_text() == "generate", "it loses"
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("measure", ["Perplexity", "Fidelity", "Disagreement"])
def test_the_column_that_the_trade_off_is_about_is_seen_in_its_table(walk: Walk, measure: str) -> None:
    figure = walk(f"#/?quality.y={measure}").locator("[data-chart=quality]")
    figure.locator("summary").click()
    title = "Same as normal until" if measure == "Fidelity" else measure
    column = figure.locator("thead th", has_text=title).bounding_box()
    shown = figure.locator(".scroll").bounding_box()
    assert column["x"] + column["width"] <= shown["x"] + shown["width"]


def test_no_legend_is_cut_off_in_a_report_of_every_rule(visit: Visit, tmp_path: Path) -> None:
    followed = EarlyExit("frozen_residual", "confidence", 0.8)
    grid: list[Configuration] = [NoExit(), EarlyExit("frozen_residual", CONTROL, ExitHistogram(followed.key, ()))]
    for rule, several in PARAMETERS.items():
        grid += [EarlyExit("frozen_residual", rule, parameter) for parameter in several]
        grid.append(EarlyExit("unfrozen", rule, several[0]))
    page = visit("#/", path=swept(tmp_path / "every", grid, 2))
    chart = all_drawn(page.locator("[data-chart=quality]")).locator(".chart")
    assert chart.locator("canvas").bounding_box()["width"] <= chart.bounding_box()["width"]


def test_the_strip_begins_with_a_loss_turns_and_leads_to_its_run(visit: Visit, walk: Walk, tmp_path: Path) -> None:
    path = graded(tmp_path / "s", {NoExit(): "✓✓✓✗✗", GAINS: "✓✓✓✗✓", LOSES: "✗✓✓✗✗"})
    page = walk(f"#/?strip.setting={LOSES.key}", path=path)
    strip = page.locator(".strip")

    def seen() -> tuple[str, str]:
        place = strip.get_by_role("status").inner_text()
        return place, "".join(mark[0] for mark in strip.locator(".right, .wrong").all_inner_texts())

    assert seen() == ("1 of 5", "✓✗")
    assert strip.locator(".differs + .t").all_inner_texts() == [" 42", " 41"]
    strip.locator(".tokens").last.locator(".t").nth(2).hover()
    strip.get_by_text("“ is” layer 15").wait_for()
    assert "full depth predicts the same" in strip.inner_text()
    page.keyboard.press("ArrowLeft")
    for button, place in (("Previous", "4 of 5"), ("Next", "5 of 5")):
        strip.get_by_role("button", name=f"{button} prompt").click()
        strip.get_by_text(place).wait_for()
    assert seen() == ("5 of 5", "✗✗")
    strip.get_by_role("combobox", name="Setting").select_option(GAINS.key)
    strip.locator(f'a[title="{GAINS.key}"]').wait_for()
    assert seen() == ("5 of 5", "✗✓"), "the same prompt"
    page = visit("#/" + page.url.partition("#/")[2], path=path)
    strip = page.locator(".strip")
    assert strip.get_by_role("combobox", name="Setting").input_value() == GAINS.key
    assert seen() == ("5 of 5", "✗✓")
    strip.get_by_role("combobox", name="Setting").select_option(LOSES.key)
    strip.locator(f'a[title="{LOSES.key}"]').wait_for()
    strip.get_by_role("button", name="Next prompt").click()
    strip.get_by_text("1 of 5").wait_for()
    text = strip.locator(".tokens").last
    text.press("End")
    strip.get_by_text("full depth predicts “token 7”").wait_for()
    assert strip.locator(".pinned").inner_text().strip() == "41"
    text.press("Enter")
    page.get_by_role("heading", name=f"{LOSES.key} on prompt 0").wait_for()
    assert page.url.endswith(f"#/p/0/{LOSES.key}/vs/normal/t/3")


@pytest.mark.parametrize("max_bytes", [1, 1_000_000])
def test_the_surest_wrong_exits_are_shown_beside_full_depth(visit: Visit, tmp_path: Path, max_bytes: int) -> None:
    """Side files that are read at once give each prompt its own tokens."""
    names = "first", "second", "third"
    runs = [run_rows(name, "?", "unfrozen", 1.0, ["The", name], of=SURE) for name in names]
    for _, tokens in runs:
        tokens[1].update(exit_layer=5, final_token_id=7, exit_logprob=-0.05, logprob=-6.0)
    path = build_report(str(write_runs(tmp_path / "s", runs)), tmp_path / "r.html", PageOptions(max_bytes=max_bytes))
    page = visit("#/", path=path)
    section = page.locator("section", has=page.locator("#confident"))
    links = section.locator("tbody tr th a")
    links.nth(2).wait_for()
    assert sorted(links.all_inner_texts()) == [f"“{name}”" for name in names]
    first = section.locator("tbody tr").first
    first.get_by_text("token 7").wait_for()
    assert "95%" in first.inner_text()
    assert "3 of 3 rows" in section.inner_text()
    links.first.click()
    page.locator(".pinned").wait_for()
