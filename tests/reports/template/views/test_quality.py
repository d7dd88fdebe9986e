"""A run's answer and the judges' scores of its text, on its page."""

from pathlib import Path

from report_fixtures import Walk
from synthetic_sweeps import JUDGE


def test_a_run_says_whether_its_answer_is_right_and_what_the_judge_says(judged_report: Path, walk: Walk) -> None:
    page = walk("#/p/3/unfrozen/random/confidence/0.7", judged_report)
    page.locator(".outcome summary").click()
    said = page.locator("main").inner_text()
    assert "Answer: ✗ wrong; found: 41; expected: 42." in said
    assert f"Judge {JUDGE}: coherence 1, completeness 1, clarity 5, no repetition 4 (1 to 5)." in said
    page = walk("#/p/3/unfrozen/kl/2?run.numbers=true", judged_report)
    assert f"Judge {JUDGE} gave no usable answer: it answered with nonsense" in page.locator("main").inner_text()
    page = walk("#/p/3?prompt.numbers=true", judged_report)
    assert "Expected answer: 42" in page.locator("main").inner_text()
    assert "✗ wrong" in page.locator("tbody").inner_text()
    assert "Answer: " not in walk("#/p/0/normal", judged_report).locator("main").inner_text()
