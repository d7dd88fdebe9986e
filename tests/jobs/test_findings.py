"""FINDINGS.md and README say what the study's tables say, and would say something else of other tables."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "jobs" / "bench"))

import findings  # noqa: E402
from findings import study, words  # noqa: E402

from eexit.errors import UsageError  # noqa: E402
from eexit.quality.estimates import Estimate  # noqa: E402

SAMPLE = ROOT / "reports" / "sample"
MOST_BYTES = 3_000_000  # of both questions, of what could be done instead, and of reasoning
ABOVE, AROUND, BELOW = (Estimate(mean, mean - 0.01, mean + 0.01, 100) for mean in (0.05, 0.0, -0.05))


def test_every_number_of_findings_follows_from_the_tables() -> None:
    assert (SAMPLE / "FINDINGS.md").read_text("utf-8") == findings.findings(), "run python jobs/bench findings"


def test_readme_says_what_the_tables_say() -> None:
    readme = findings.README.read_text("utf-8")
    assert findings.with_summary(readme) == readme, "run python jobs/bench findings"


def test_a_readme_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the marks"):
        findings.with_summary("# eexit\n")


def test_results_that_are_not_there_leave_the_tables_as_they_are(tmp_path: Path) -> None:
    kept = tmp_path / "study" / "kept"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(UsageError, match="has nothing of the study: give the folder"):
        study.take(tmp_path / "nothing", kept.parent)
    assert kept.exists()


def test_what_loses_fewer_is_certain_where_intervals_do_not_meet() -> None:
    assert words.beside(BELOW, ABOVE) == "certainly fewer"
    assert words.beside(ABOVE, BELOW) == "certainly more"
    assert words.beside(ABOVE, Estimate(0.07, 0.055, 0.08, 100)) == "not certainly fewer or more"


def test_the_tables_are_small() -> None:
    assert sum(file.stat().st_size for file in (SAMPLE / "study").rglob("*") if file.is_file()) <= MOST_BYTES


def test_no_number_of_findings_is_written_by_hand() -> None:
    """Names have digits (`float32`, `screen:32:256`, 95 % intervals); whatever else has one is computed."""
    named = re.compile(r"`[^`]*`|\[[^]]*\]\([^)]*\)|float32|bfloat16|95 % intervals|SmolLM2-135M-Instruct|Qwen[^ ]*")
    names = ("parts", "states", "alternatives", "student", "reasoning")
    modules = (ROOT / "jobs" / "bench" / "findings" / f"{name}.py" for name in names)
    sources = [module.read_text("utf-8") for module in modules]
    prose = [named.sub("", text) for source in sources for text in _prose(ast.parse(source))]
    assert [text for text in prose if re.search(r"\d", text)] == []


def _prose(tree: ast.Module) -> Iterator[str]:
    """The literal parts of f-strings that are longer than a format."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            yield from (text for text in texts if isinstance(text, str) and len(text) > 8)


def test_paragraphs_are_filled_and_tables_stay() -> None:
    long = "word " * 60
    assert findings.filled(f"## Head\n\n{long}\n\n| a | b |\n| --- | --- |") == "\n\n".join(
        [
            "## Head",
            "word " * 23 + "word\n" + "word " * 23 + "word\n" + "word " * 11 + "word",
            "| a | b |\n| --- | --- |",
        ]
    )


@pytest.mark.parametrize(
    ("p_value", "error", "lost", "called"),
    [
        (0.01, 0.025, Estimate(0.01, 0.005, 0.02, 900), "certified"),
        (0.03, 0.025, Estimate(0.015, 0.005, 0.03, 900), "not certified"),
        (1.0, 0.025, Estimate(0.04, 0.03, 0.06, 900), "loses more than that"),
    ],
)
def test_a_certificate_may_be_each_of_three(p_value: float, error: float, lost: Estimate, called: str) -> None:
    assert words.certificate(p_value, error, lost) == called


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("certified", "certified", "holds in both dtypes"),
        ("certified", "not certified", "holds in float32 alone"),
        ("loses more than that", "not certified", "no certificate in either"),
    ],
)
def test_certificates_of_both_dtypes_are_told_together(first: str, second: str, said: str) -> None:
    assert said in words.holds({"float32": first, "bfloat16": second})


def test_savings_growth_and_dtypes_may_come_out_either_way() -> None:
    assert [words.saving(each) for each in (ABOVE, BELOW)] == ["saves", "costs more"]
    assert "as far as is shown" in words.saving(AROUND)
    assert [words.growth(each) for each in (ABOVE, BELOW)] == ["errors build up", "errors get fewer"]
    assert "not shown" in words.growth(AROUND)
    assert [words.dtypes(p_value) for p_value in (0.01, 0.5)] == ["differ", "are not shown to differ"]


def test_a_student_may_be_each_of_three() -> None:
    assert "changes too much" in words.teaching(0.9, 0.2)
    assert "too little" in words.teaching(0.98, 0.05)
    assert "enough" in words.teaching(0.98, 0.1)


def test_chains_may_be_needed_or_not_and_by_more_than_a_control_needs_its_own() -> None:
    assert [words.necessity(each) for each in (ABOVE, BELOW)] == ["need the chain", "are better without it"]
    assert "not certainly" in words.necessity(AROUND)
    right, hardly = Estimate(0.5, 0.4, 0.6, 100), Estimate(0.05, 0.02, 0.09, 100)
    told = [words.beside_control(each, right) for each in (ABOVE, BELOW, AROUND)]
    assert told == ["certainly more necessary", "certainly less necessary", "as necessary, as far as is shown,"]
    assert words.beside_control(ABOVE, hardly).startswith("not to be compared")
    assert [words.tells(each) for each in (right, hardly)] == ["enough to tell", "too few to tell"]


def test_more_prompts_show_a_smaller_difference() -> None:
    few, many = words.enough(Estimate(0.1, -0.1, 0.3, 100)), words.enough(Estimate(0.05, -0.15, 0.25, 100))
    assert (few, many, words.enough(Estimate(0, -0.1, 0.1, 100))) == (817, 3266, 0)  # (2.8 / 0.98)² · 100


def test_the_verdict_may_be_each_of_three() -> None:
    certified, not_certified = {"float32": "certified"}, {"float32": "not certified"}
    assert words.pays(ABOVE, certified, 0.97) == "Yes"
    assert words.pays(ABOVE, certified, 1.02) == "Not in time"
    assert words.pays(ABOVE, not_certified, 0.97) == words.pays(BELOW, certified, 0.97) == "No"
