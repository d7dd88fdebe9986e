"""Which part of a text counts as its answer, whether that is right, and the columns that follow."""

import csv
import random
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
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

PRODUCT = "Calculate 6 × 7."
APPLES = "Anna has 3 apples and buys 4 more. How many apples does she have?"
SWEETS = "Four friends share 12 sweets equally. How many sweets does each of them get?"
POPULATION = "How many people live in the city?"
CAPITAL = "What is the capital of Italy?"
NOVEL = "Who wrote the novel Pride and Prejudice?"
PHONE = "Call 555-0142 before noon.\n\nWhat is the telephone number?"
FRUIT = "Which of these is a fruit? (A) Carrot, (B) Apple, (C) Potato or (D) Onion?"
COLOUR = "Which of these is a colour? (A) Blue, (B) Chair, (C) River or (D) Bread?"
WATER = "At what temperature does water freeze? (A) 0 °C, (B) 50 °C, (C) 100 °C or (D) -40 °C?"
VITAMIN = "Which vitamin do carrots have much of?"

# The grader's errors: question, answer, text, a careful reader's mark, and the grader's mark.
BLUNT: list[tuple[str, str, str, bool, bool]] = [
    # Wrongly wrong.
    (APPLES, "7", "3 + 4 = 7\n\n3", True, False),  # cut off at the start of a repetition
    (POPULATION, "1000", "1.000", True, False),  # a decimal point, even if thousands may be meant
    (POPULATION, "100000", "1,00,000", True, False),  # groups of two digits
    (APPLES, "7", "She has 7:\n- 3 from before\n- 4 new ones", True, False),
    (FRUIT, "B", "b", True, False),  # letters are capital letters
    (WATER, "A", "At 0 degrees Celsius", True, False),
    (CAPITAL, "Rome", "Roma", True, False),
    (POPULATION, "860", "Felda has 860 inhabitants.\n\nA village can have up to 1020 inhabitants.", True, False),
    # Wrongly right.
    (COLOUR, "A", "A chair is blue", False, True),  # the last choice that is named
    (PHONE, "555-0142", "The telephone number at 555-0142 is 123-456-7890.", False, True),
    (POPULATION, "5", "5k", False, True),  # units are not read
    (SWEETS, "3", "3D", False, True),
]  # fmt: skip


def marked(text: str, answer: str | None = None, pattern: str | None = None, prompt: str = "?") -> Grade:
    return grade(Prompt("0", prompt, answer=answer, answer_pattern=pattern), text)


@pytest.mark.parametrize(
    ("answer", "text", "found", "correct"),
    [
        ("8", "5 + 3 = 8.", "8", True),
        ("8", "5 + 3 is eight", None, False),
        ("8", "I do not know", None, False),
        ("1000", "That is 1,000.", "1,000", True),
        ("1,000.0", "That is 1000", "1000", True),
        ("5", "It costs $5.00, please", "$5.00", True),
        ("$5", "5 dollars", "5", True),
        ("50%", "It is **50%**.", "50%", True),
        ("-7", "10 - 17 = -7", "-7", True),
        ("7", "from 3-7", None, False),
        ("-7", "the answer is −$7", "−$7", True),
        ("0.5", "so .5", ".5", True),
        ("0.5", "so 1.5", "1.5", False),
        ("2.3", "1, 2,3", "2,3", True),
        ("2", "H2O and x2", None, False),
        ("2000", "about 2e3", "2e3", True),
        ("1e3", "1000", "1000", True),
        ("12", "1,2345", "1,2345", False),
    ],
)
def test_of_a_number_the_last_number_counts(answer: str, text: str, found: str | None, correct: bool) -> None:
    assert marked(text, answer) == Grade(found, correct)


def test_a_number_is_itself_however_it_is_written() -> None:
    draw = random.Random(0)
    for _ in range(300):
        number = draw.randrange(10 ** draw.randrange(1, 12)) - draw.choice([0, 500])
        for written in (f"{number}", f"{number:,}", f"{number:,}.00", f"{number}.", f"{number}%"):
            assert marked(f"First 3, then {written}", str(number)).correct, written
            assert is_same(written, f"{number:,}")
            assert not is_same(written, str(number + 1))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("B", "B"),
        ("(B) Paris", "B"),
        ("B) Paris, not A", "B"),
        ("The answer is B.", "B"),
        ("A is wrong, C is wrong: the correct answer is (D).", "D"),
        ("Answer: **C**", "C"),
        ("The right answer is option B because", "B"),
        ("It is Paris.", "B"),
        ("A good answer is the city of paris", "B"),
        ("A is correct", "A"),
        ("Is it Rome or Paris?", None),
        ("NEW YORK", "D"),
        ("E", None),
        ("Because", None),
        ("At 20 °C", None),
        ("", None),
    ],
)
def test_of_choices_the_letter_counts_or_the_only_choice_named(text: str, found: str | None) -> None:
    for answer in "ABCD":
        assert marked(text, answer, prompt=CHOICES) == Grade(found, found == answer)
    assert marked(text, "(b)", prompt=CHOICES).correct == (found == "B")


def test_choices_are_found_in_lines_and_in_one_line() -> None:
    assert choices_of(CHOICES) == {"A": "Rome", "B": "Paris", "C": "Berlin", "D": "New York"}
    assert choices_of("Is it (A) warm, (B) cold or (C) wet?") == {"A": "warm", "B": "cold", "C": "wet"}
    assert choices_of("A. Smith asks: what is B?") == {}


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("Paris", "The capital is **Paris**!", "Paris"),
        ("the Nile", "It's the river Nile.", "the Nile"),
        ("Nile", "Senile", None),
        ("New York", "in new-york city", "New York"),
        ("well-known", "a “well known” man", "well-known"),
        ("New York", "York is new", None),
        ("C++", "C", None),
        ("C++", "I like C++.", "C++"),
        ("don't", "They don’t.", "don't"),
        ("3 apples", "There are 3 Apples.", "3 apples"),
        ("A", "B", "B"),
    ],
)
def test_of_other_answers_the_words_have_to_be_in_the_text(answer: str, text: str, found: str | None) -> None:
    assert marked(text, answer) == Grade(found, found == answer)


@pytest.mark.parametrize(
    ("answer", "pattern", "text", "expected"),
    [
        ("42", r"#### (\S+)", "first 7 #### 42.0 and then 8", Grade("42.0", True)),
        ("42", r"#### (\S+)", "42", Grade(None, False)),
        ("42", r"\d+", "1 or 42", Grade("1", False)),  # the first match
        ("b", r"(?i)answer: (?:(yes)|([a-d]))", "Answer: B", Grade("B", True)),  # the group that matched
        ("Paris", r"is (.*)", "It is the Paris.", Grade("the Paris.", True)),
        ("Paris", r"is (.*)", "It is Paris, France", Grade("Paris, France", False)),  # not only among others
        (None, r"^\w+ \w+ \w+$", "one two three", Grade("one two three", True)),
        (None, r"^\w+ \w+ \w+$", "one two", Grade(None, False)),
        (None, None, "anything", Grade(None, None)),
    ],
)
def test_a_pattern_says_what_the_answer_is(answer: str | None, pattern: str | None, text: str, expected: Grade) -> None:
    assert marked(text, answer, pattern) == expected


@pytest.mark.parametrize(("prompt", "answer", "text", "right", "marked_right"), BLUNT)
def test_what_the_rules_get_wrong_is_known(
    prompt: str, answer: str, text: str, right: bool, marked_right: bool
) -> None:
    assert right != marked_right
    assert marked(text, answer, prompt=prompt).correct == marked_right


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
    for prompt, answer in ((PRODUCT, "42"), (FRUIT, "B"), (NOVEL, "Jane Austen"), (VITAMIN, "A")):
        started = time.process_time()  # of this process alone, whatever else the machine does
        marked(text, answer, prompt=prompt)
        assert time.process_time() - started < 1


def test_a_number_too_large_for_any_exponent_is_no_number() -> None:
    assert not is_same("1e99999999999999999999", "1")
    assert marked("1e99999999999999999999", "1e99999999999999999999").correct  # as a word


def test_runs_are_marked_in_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_byte_model(tmp_path / "model")
    monkeypatch.setattr(grading, "PATTERN_SECONDS", 0.05)
    prompts = (
        Prompt("right", "one", answer_pattern="(?s).+"),
        Prompt("wrong", "two", answer="no such words"),
        Prompt("open", "three"),
        Prompt("slow", "four", answer_pattern=r"(?s)(?:.|..)+$(?!)"),
    )
    config = SweepConfig(
        model=str(tmp_path / "model"), prompts=prompts, rules={"kl": (1,)}, exit_every=2, max_new_tokens=40
    )
    results = ModelGenerator(config, "cpu").generate(list(plan_runs(config)))
    before = time.process_time()
    with pytest.raises(SlowPatternError):
        grade(prompts[-1], "a" * 60)
    assert 0.05 <= time.process_time() - before < 5, "a limit of CPU time, which other processes do not shorten"
    rows = {row["prompt_id"]: row for row in results.generations.to_pylist()}
    assert (rows["right"]["found_answer"], rows["right"]["correct"]) == (rows["right"]["text"].strip(), True)
    assert (rows["wrong"]["answer"], rows["wrong"]["correct"]) == ("no such words", False)
    assert [rows["open"][name] for name in ("answer", "found_answer", "correct")] == [None] * 3
    assert (rows["slow"]["status"], rows["slow"]["correct"]) == ("error", None)
    assert rows["slow"]["error"].endswith("takes more than 0.05 s of CPU time on this run's text: make it simpler")


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


@pytest.mark.parametrize("asked", FORMS, ids=lambda asked: f"{asked['prompt']} {asked['answer']}")
def test_texts_of_known_forms_are_all_marked_as_a_careful_reader_does(asked: dict[str, Any]) -> None:
    prompt = Prompt("", asked["prompt"], answer=asked["answer"])
    read = {**dict.fromkeys(asked["right"], True), **dict.fromkeys(asked["wrong"], False)}
    assert {text: grade(prompt, text).correct for text in read} == read


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
