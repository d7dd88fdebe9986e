"""What of a text counts as its answer and whether it is right, and the columns that follow."""

import random
import time
from pathlib import Path

import pytest
from byte_model import save_byte_model
from rich.console import Console

from cluster.figures import figures
from cluster.landing import land
from cluster.store import open_store
from cluster.table import closing_table
from eexit import answers
from eexit.answers import Mark, SlowPatternError, choices_of, is_same, mark
from eexit.config import Prompt, SweepConfig
from eexit.configuration import Configuration
from eexit.model_generator import ModelGenerator
from eexit.plan import configurations, plan_runs
from eexit.rules import Control

CHOICES = "Which is the capital of France?\nA) Rome\nB) Paris\nC) Berlin\nD) New York\nAnswer with the letter."


def marked(text: str, answer: str | None = None, pattern: str | None = None, prompt: str = "?") -> Mark:
    return mark(Prompt("0", prompt, answer=answer, answer_pattern=pattern), text)


@pytest.mark.parametrize(
    ("answer", "text", "found", "correct"),
    [
        ("8", "5 + 3 = 8.", "8", True),
        ("8", "5 + 3 is eight", "3", False),
        ("8", "I do not know", None, False),
        ("1000", "That is 1,000.", "1,000", True),
        ("1,000.0", "That is 1000", "1000", True),
        ("5", "It costs $5.00, please", "$5.00", True),
        ("$5", "5 dollars", "5", True),
        ("50%", "It is **50%**.", "50", True),
        ("-7", "10 - 17 = -7", "-7", True),
        ("7", "from 3-7", "7", True),
        ("-7", "the answer is −$7", "−$7", True),
        ("0.5", "so .5", ".5", True),
        ("0.5", "so 1.5", "1.5", False),
        ("3", "1, 2,3", "3", True),
        ("2", "H2O and x2", None, False),
        ("2000", "about 2e3", "2e3", True),
        ("1e3", "1000", "1000", True),
        ("12", "1,2345", "2345", False),
    ],
)
def test_of_a_number_the_last_number_counts(answer: str, text: str, found: str | None, correct: bool) -> None:
    assert marked(text, answer) == Mark(found, correct)


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
        assert marked(text, answer, prompt=CHOICES) == Mark(found, found == answer)
    assert marked(text, "(b)", prompt=CHOICES).correct == (found == "B")


def test_choices_are_found_in_lines_and_in_one_line() -> None:
    assert choices_of(CHOICES) == {"A": "Rome", "B": "Paris", "C": "Berlin", "D": "New York"}
    assert choices_of("Is it (A) warm, (B) cold or (C) wet?") == {"A": "warm", "B": "cold", "C": "wet"}
    assert choices_of("A. Smith asks: what is B?") == {}


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("Paris", "The capital is **Paris**!", "Paris"),
        ("the Nile", "It's the river Nile.", "Nile"),
        ("Nile", "Senile", None),
        ("New York", "in new-york city", "new york"),
        ("well-known", "a “well known” man", "well known"),
        ("New York", "York is new", None),
        ("C++", "C", None),
        ("C++", "I like C++.", "C++"),
        ("don't", "They don’t.", "don't"),
        ("3 apples", "There are 3 Apples.", "3 Apples"),
        ("A", "B", None),  # without choices, a letter is a word
    ],
)
def test_of_other_answers_the_words_have_to_be_in_the_text(answer: str, text: str, found: str | None) -> None:
    assert marked(text, answer) == Mark(found, found is not None)


@pytest.mark.parametrize(
    ("answer", "pattern", "text", "expected"),
    [
        ("42", r"#### (\S+)", "first 7 #### 42.0 and then 8", Mark("42.0", True)),
        ("42", r"#### (\S+)", "42", Mark(None, False)),
        ("42", r"\d+", "1 or 42", Mark("1", False)),  # the first match
        ("b", r"(?i)answer: (?:(yes)|([a-d]))", "Answer: B", Mark("B", True)),  # the group that matched
        ("Paris", r"is (.*)", "It is the Paris.", Mark("the Paris.", True)),
        ("Paris", r"is (.*)", "It is Paris, France", Mark("Paris, France", False)),  # not only among others
        (None, r"^\w+ \w+ \w+$", "one two three", Mark("one two three", True)),
        (None, r"^\w+ \w+ \w+$", "one two", Mark(None, False)),
        (None, None, "anything", Mark(None, None)),
    ],
)
def test_a_pattern_says_what_the_answer_is(answer: str | None, pattern: str | None, text: str, expected: Mark) -> None:
    assert marked(text, answer, pattern) == expected


def test_runs_are_marked_in_columns_figures_and_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_byte_model(tmp_path / "model")
    monkeypatch.setattr(answers, "PATTERN_SECONDS", 0.05)
    prompts = (
        Prompt("right", "one", answer_pattern="(?s).+"),
        Prompt("wrong", "two", answer="no such words"),
        Prompt("open", "three"),
        Prompt("slow", "four", answer_pattern=r"(?s)(?:.|..)+$(?!)"),
    )
    config = SweepConfig(
        model=str(tmp_path / "model"), prompts=prompts, kl_factors=(1,), exit_every=2, max_new_tokens=40
    )
    store, runs = open_store(tmp_path / "out"), list(plan_runs(config))
    results = ModelGenerator(config, "cpu").generate(runs)
    before = time.process_time()
    with pytest.raises(SlowPatternError):
        mark(prompts[-1], "a" * 60)
    assert 0.05 <= time.process_time() - before < 5, "a limit of CPU time, which other processes do not shorten"
    rows = {row["prompt_id"]: row for row in results.generations.to_pylist()}
    assert (rows["right"]["found_answer"], rows["right"]["correct"]) == (rows["right"]["text"].strip(), True)
    assert (rows["wrong"]["answer"], rows["wrong"]["correct"]) == ("no such words", False)
    assert [rows["open"][name] for name in ("answer", "found_answer", "correct")] == [None] * 3
    assert (rows["slow"]["status"], rows["slow"]["correct"]) == ("error", None)
    assert rows["slow"]["error"].endswith("takes more than 0.05 s of CPU time on this run's text: make it simpler")
    land(store, runs, results)
    assert [row["means"]["correct"] for row in figures(store, configurations(config))] == [0.5] * 3
    console = Console(width=80, record=True)
    long = Configuration("frozen_residual", "random", Control("frozen_residual/similarity/0.985", ()))
    console.print(closing_table(store, [*configurations(config), long]))  # keys may be broken, but no number
    lines = console.export_text().splitlines()
    assert [line.split()[-1] for line in lines if line.startswith((" normal", " unfrozen"))] == ["50.0%"] * 2
    assert max(map(len, lines)) <= 80
