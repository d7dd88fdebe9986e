"""The grader against a careful reader: how many texts both mark alike, among texts that shaped it and others."""

import csv
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.generators import copied, list_of, object_of, question_about
from eexit.plan.splits import is_drawn
from eexit.quality.grading import grade

LATER = ("fresh.toml", "last.toml")
FOLDER = Path(__file__).with_name("readings")
WRITTEN: dict[str, Callable[..., Prompt]] = {
    "copied_codes": copied,
    "copied_sentence": copied,
    "python_list": list_of,
    "json_object": object_of,
    "question": question_about,
}
FORMS = tomllib.loads((FOLDER / "forms.toml").read_text("utf-8"))["asked"]


def readings(file: str, held_out: bool) -> Iterator[tuple[str, Prompt, str, bool]]:
    """Return kind, prompt, text and mark of one half, drawn by a hash of prompt and text.

    Later texts, written after the grader was changed by the first held-out ones, are all held out.
    """
    for asked in tomllib.loads((FOLDER / file).read_text("utf-8"))["asked"]:
        sort, of = asked["sort"], asked.get("of")
        prompt = Prompt("", asked["prompt"], answer=asked["answer"]) if of is None else WRITTEN[sort](*of)
        for right in (True, False):
            for text in asked["right" if right else "wrong"]:
                drawn = is_drawn(f"{of or asked['prompt']}\n{text}", "held out", 2)
                if (drawn or file in LATER) == held_out:
                    yield sort, prompt, text, right


def agreement(file: str, held_out: bool) -> tuple[Counter[str], Counter[str]]:
    """Return the number of texts of each kind, and how many are marked like the reader's."""
    n: Counter[str] = Counter()
    alike: Counter[str] = Counter()
    for sort, prompt, text, right in readings(file, held_out):
        n[sort] += 1
        alike[sort] += grade(prompt, text).correct == right
    return n, alike


@pytest.mark.parametrize(
    ("file", "held_out"),
    [
        *((file, half) for file in ("free.toml", "drawn.toml") for half in (False, True)),
        *((file, True) for file in LATER),
    ],
)
def test_at_least_97_of_100_texts_are_marked_as_a_careful_reader_does(file: str, held_out: bool) -> None:
    n, alike = agreement(file, held_out)
    assert n.total() >= 100
    assert alike.total() / n.total() >= 0.97, {sort: (alike[sort], n[sort]) for sort in n}


@pytest.mark.parametrize("file", ["free.toml", "drawn.toml"])
def test_both_marks_are_as_frequent_in_each_half_and_no_text_is_there_twice(file: str) -> None:
    for held_out in (False, True):
        marks = [right for *_, right in readings(file, held_out)]
        assert 0.4 < sum(marks) / len(marks) < 0.6
    texts = [(prompt.prompt, text) for half in (False, True) for _, prompt, text, _ in readings(file, half)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("asked", FORMS, ids=lambda asked: f"{asked['prompt']} {asked['answer']}")
def test_texts_of_known_forms_are_all_marked_as_a_careful_reader_does(asked: dict[str, Any]) -> None:
    prompt = Prompt("", asked["prompt"], answer=asked["answer"])
    read = {**dict.fromkeys(asked["right"], True), **dict.fromkeys(asked["wrong"], False)}
    assert {text: grade(prompt, text).correct for text in read} == read


def test_of_known_forms_as_many_are_right_as_are_wrong() -> None:
    n_right, n_wrong = (sum(len(asked[read]) for asked in FORMS) for read in ("right", "wrong"))
    assert 0.4 < n_right / (n_right + n_wrong) < 0.6


def test_findings_has_how_many_later_texts_are_marked_alike() -> None:
    """`grading.csv`, which FINDINGS.md prints, has texts that didn't shape the grader, by kind."""
    rows: dict[str, Counter[str]] = {}
    for sort, prompt, text, right in (each for file in LATER for each in readings(file, held_out=True)):
        marked = grade(prompt, text).correct
        of_sort = rows.setdefault(sort, Counter())
        of_sort["texts"] += 1
        of_sort["alike" if marked == right else "wrongly_right" if marked else "wrongly_wrong"] += 1
    names = ("texts", "alike", "wrongly_right", "wrongly_wrong")
    counted = [{"sort": sort, **{name: str(rows[sort][name]) for name in names}} for sort in sorted(rows)]
    with (Path(__file__).parents[3] / "reports" / "sample" / "grading.csv").open() as file:
        assert list(csv.DictReader(file)) == counted
