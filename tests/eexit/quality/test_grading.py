"""Which part of a text counts as its answer, whether that is right, and the columns that follow."""

import csv
import random
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from byte_model import save_byte_model

from eexit.plan.prompt_kinds.generators import copied, list_of, object_of, question_about
from eexit.plan.runs import plan_runs
from eexit.plan.splits import is_drawn
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.quality import grading
from eexit.quality.answer_types import choices_of
from eexit.quality.grading import Grade, SlowPatternError, grade, is_same
from eexit.sweeps.generator import ModelGenerator

CHOICES = "Which is the capital of France?\nA) Rome\nB) Paris\nC) Berlin\nD) New York\nAnswer with the letter."
FRUIT = "Which of these is a fruit? (A) Carrot, (B) Apple, (C) Potato or (D) Onion?"


def marked(text: str, answer: str | None = None, pattern: str | None = None, prompt: str = "?") -> Grade:
    return grade(Prompt("0", prompt, answer=answer, answer_pattern=pattern), text)


def test_a_number_is_itself_however_it_is_written() -> None:
    draw = random.Random(0)
    for _ in range(300):
        number = draw.randrange(10 ** draw.randrange(1, 12)) - draw.choice([0, 500])
        for written in (f"{number}", f"{number:,}", f"{number:,}.00", f"{number}.", f"{number}%"):
            assert marked(f"First 3, then {written}", str(number)).correct, written
            assert is_same(written, f"{number:,}")
            assert not is_same(written, str(number + 1))
    too_large = "1e99999999999999999999"
    assert not is_same(too_large, "1")
    assert marked(too_large, too_large).correct  # as a word


def test_of_a_text_the_answer_is_found_and_of_choices_the_letter() -> None:
    assert marked("NEW YORK", "D", prompt=CHOICES) == Grade("D", True)  # further texts: `readings/forms.toml`
    assert choices_of(CHOICES) == {"A": "Rome", "B": "Paris", "C": "Berlin", "D": "New York"}
    assert choices_of("Is it (A) warm, (B) cold or (C) wet?") == {"A": "warm", "B": "cold", "C": "wet"}
    assert choices_of("A. Smith asks: what is B?") == {}
    for answer, pattern, text, expected in (
        ("5", None, "It costs $5.00, please", Grade("$5.00", True)),
        ("12", None, "1,2345", Grade("1,2345", False)),
        ("the Nile", None, "It's the river Nile.", Grade("the Nile", True)),
        ("42", r"#### (\S+)", "first 7 #### 42.0 and then 8", Grade("42.0", True)),
        ("42", r"#### (\S+)", "42", Grade(None, False)),
        ("42", r"\d+", "1 or 42", Grade("1", False)),  # the first match
        ("b", r"(?i)answer: (?:(yes)|([a-d]))", "Answer: B", Grade("B", True)),  # the group that matched
        ("Paris", r"is (.*)", "It is the Paris.", Grade("the Paris.", True)),
        ("Paris", r"is (.*)", "It is Paris, France", Grade("Paris, France", False)),  # not only among others
        (None, r"^\w+ \w+ \w+$", "one two three", Grade("one two three", True)),
        (None, r"^\w+ \w+ \w+$", "one two", Grade(None, False)),
        (None, None, "anything", Grade(None, None)),
    ):
        assert marked(text, answer, pattern) == expected


@pytest.mark.parametrize(
    "unit",
    [
        *("1,", "1,000", "1 000 ", "1 + ", "1/", "1.000", "1e", "a1", "9", "6 × 7 ", "6 × 7 =", "minus ", "not "),
        *("\n1. ", "A ", "A) ", "A: ", "A\n", "B or ", "answer is ", "it is ", "'A'", "option A "),
        "(A) Carrot, (B) Apple, ",
        *(" ", "\n", "*", "* ", "_a", "\\frac{", "\\boxed{", "####", "$", "Rome is ", "not Rome ", "Jane ", "’", "…"),
    ],
)  # fmt: skip
def test_a_text_of_100_000_characters_is_marked_in_less_than_a_second(unit: str) -> None:
    text = unit * (100_000 // len(unit)) + "x"  # every way to match the repetition fails at the end
    asked = (("Calculate 6 × 7.", "42"), (FRUIT, "B"), ("Who wrote it?", "Jane Austen"), ("Which vitamin?", "A"))
    for prompt, answer in asked:
        started = time.process_time()  # of this process alone, whatever else the machine does
        marked(text, answer, prompt=prompt)
        assert time.process_time() - started < 1


def test_runs_are_marked_in_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_byte_model(tmp_path / "model")
    monkeypatch.setattr(grading, "PATTERN_SECONDS", 0.05)
    prompts = (
        Prompt("right", "one", answer_pattern="(?s).+"),
        Prompt("wrong", "two", answer="no such words"),
        Prompt("open", "three"),
        Prompt("slow", "four", answer_pattern=r"(?s)(?:.|..)+$(?!)"),
    )
    config = SweepConfig(model=str(tmp_path / "model"), prompts=prompts, modes=("normal",), max_new_tokens=40)
    results = ModelGenerator(config, "cpu").generate(list(plan_runs(config)))
    before = time.process_time()
    with pytest.raises(SlowPatternError):
        grade(prompts[-1], "a" * 60)
    assert 0.05 <= time.process_time() - before < 5, "a limit of CPU time, which other processes do not shorten"
    rows = {row["prompt_id"]: row for row in results.generations.to_pylist()}
    assert (rows["right"]["found_answer"], rows["right"]["correct"]) == (rows["right"]["text"].strip(), True)
    assert (rows["wrong"]["answer"], rows["wrong"]["correct"]) == ("no such words", False)
    assert [rows["open"][column] for column in ("answer", "found_answer", "correct")] == [None] * 3
    assert (rows["slow"]["status"], rows["slow"]["correct"]) == ("error", None)
    assert "takes more than 0.05 s of CPU time" in rows["slow"]["error"]


LATER = ("fresh.toml", "last.toml")  # of texts written after the held-out half of earlier ones had changed the grader
WRITTEN: dict[str, Callable[..., Prompt]] = {
    "python_list": list_of,
    "json_object": object_of,
    "question": question_about,
}


def read(file: str) -> list[dict[str, Any]]:
    readings: Any = tomllib.loads((Path(__file__).with_name("readings") / file).read_text("utf-8"))
    return list(readings["asked"])


def readings(file: str, half: bool | None = None) -> Iterator[tuple[str, bool, bool]]:
    """Yield kind, mark and a careful reader's mark of the texts, or of one half, drawn by a hash of prompt and text."""
    for asked in read(file):
        sort, of = asked["sort"], asked.get("of")
        prompt = Prompt("", asked["prompt"], answer=asked["answer"]) if of is None else WRITTEN.get(sort, copied)(*of)
        for right in (True, False):
            for text in asked["right" if right else "wrong"]:
                if half in (None, is_drawn(f"{of or asked['prompt']}\n{text}", "held out", 2)):
                    yield sort, bool(grade(prompt, text).correct), right


@pytest.mark.parametrize(
    ("file", "half"), [*product(("free.toml", "drawn.toml"), (False, True)), *product(LATER, [None])]
)
def test_at_least_97_of_100_texts_are_marked_as_a_careful_reader_does(file: str, half: bool | None) -> None:
    marks = [*readings(file, half)]
    unlike = Counter(sort for sort, mark, right in marks if mark != right)
    assert len(marks) >= 100
    assert unlike.total() <= 0.03 * len(marks), unlike


@pytest.mark.parametrize(("file", "is_alike"), [("forms.toml", True), ("blunt.toml", False)])
def test_what_the_rules_mark_as_a_careful_reader_does_and_what_not_is_known(file: str, is_alike: bool) -> None:
    for asked in read(file):
        prompt = Prompt("", asked["prompt"], answer=asked["answer"])
        expected = {**dict.fromkeys(asked["right"], is_alike), **dict.fromkeys(asked["wrong"], not is_alike)}
        assert {text: grade(prompt, text).correct for text in expected} == expected, asked


def test_findings_has_how_many_later_texts_are_marked_alike() -> None:
    """`grading.csv`, which FINDINGS.md prints, has texts that didn't shape the grader, by kind."""
    rows: dict[str, Counter[str]] = {}
    for sort, mark, right in (each for file in LATER for each in readings(file)):
        of_sort = rows.setdefault(sort, Counter())
        of_sort.update(["texts", "alike" if mark == right else "wrongly_right" if mark else "wrongly_wrong"])
    names = ("texts", "alike", "wrongly_right", "wrongly_wrong")
    counted = [{"sort": sort, **{name: str(rows[sort][name]) for name in names}} for sort in sorted(rows)]
    with (Path(__file__).parents[3] / "reports" / "sample" / "grading.csv").open() as file:
        assert list(csv.DictReader(file)) == counted
