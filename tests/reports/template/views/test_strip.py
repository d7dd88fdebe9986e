"""The overview's strip of two texts: it begins with a loss, tells of tokens, turns, and leads to its run."""

from pathlib import Path

from report_fixtures import Visit, Walk
from synthetic_sweeps import graded

from eexit.plan.configuration import EarlyExit, NoExit
from reports import build_report

GAINS, LOSES = (EarlyExit("unfrozen", "confidence", parameter) for parameter in (0.7, 0.8))


def test_the_strip_begins_with_a_loss_tells_tokens_turns_and_leads_to_its_run(
    visit: Visit, walk: Walk, tmp_path: Path
) -> None:
    marks = {NoExit(): "✓✓✓✗✗", GAINS: "✓✓✓✗✓", LOSES: "✗✓✓✗✗"}
    path = build_report(str(graded(tmp_path / "s", marks)), tmp_path / "report.html")
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
    again = page.locator(".strip")
    assert again.get_by_role("combobox", name="Setting").input_value() == GAINS.key
    assert again.get_by_role("status").inner_text() == "5 of 5"
    again.get_by_role("combobox", name="Setting").select_option(LOSES.key)
    again.locator(f'a[title="{LOSES.key}"]').wait_for()
    again.get_by_role("button", name="Next prompt").click()
    again.get_by_text("1 of 5").wait_for()
    text = again.locator(".tokens").last
    text.press("End")
    again.get_by_text("full depth predicts “token 7”").wait_for()
    assert again.locator(".pinned").inner_text().strip() == "41"
    text.press("Enter")
    page.get_by_role("heading", name=f"{LOSES.key} on prompt 0").wait_for()
    assert page.url.endswith(f"#/p/0/{LOSES.key}/vs/normal/t/3")
