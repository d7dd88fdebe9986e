"""The prompts that ship: their ids, their split, and whether they mark right what is right."""

import json
import re
import tomllib
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest

from cluster.console.flags_from_config import load_job
from eexit.plan.prompts import read_prompts
from eexit.plan.runs import configurations
from eexit.plan.splits import in_test_split
from eexit.quality.answer_types import choices_of
from eexit.quality.grading import grade
from eexit.quality.numerals import number_of

PROMPTS = Path(__file__).parents[4] / "jobs" / "sweeps" / "prompts"
STUDY = read_prompts(PROMPTS / "study.jsonl")
EXAMPLES = {
    row["id"]: row["example"]
    for row in map(json.loads, (PROMPTS / "study.jsonl").read_text().splitlines())
    if "example" in row
}
KINDS = ("fact", "arithmetic", "choice", "open", "extraction", "copying", "format", "code")
NO_ANSWERS = ("", "I do not know.", "The text is long and it goes on and on and on and on and on.")


def test_ids_say_the_kind_and_are_numbered() -> None:
    named = [prompt.id.rsplit("-", 1) for prompt in STUDY]
    n = Counter(kind for kind, _ in named)
    assert set(n) == set(KINDS)
    assert [number for _, number in named] == [str(at) for kind in KINDS for at in range(1, n[kind] + 1)]


def test_150_choose_and_50_are_reported_on_with_every_kind_on_both_sides() -> None:
    reported = [prompt for prompt in STUDY if in_test_split(prompt.prompt)]
    assert (len(STUDY), len(reported)) == (200, 50)
    assert {prompt.id.split("-")[0] for prompt in reported} == set(KINDS)
    assert {prompt.id.split("-")[0] for prompt in STUDY if not in_test_split(prompt.prompt)} == set(KINDS)


def test_the_named_study_sweeps_them_with_three_exit_sets() -> None:
    config = PROMPTS.parent / "study.toml"
    job, _ = load_job(["--config", str(config), "--controls-of", ""], config)
    assert job.config.prompts == STUDY
    keys = [each.key for each in configurations(job.config)]
    assert len(keys) == 1 + 2 * (3 * (3 + 1 + 1) + 2)
    assert {"frozen_residual/confidence/0.97@25", "unfrozen/agree@20,25", "frozen_residual/similarity/0.985"} < {*keys}


def test_no_prompt_is_there_twice_or_among_the_questions() -> None:
    texts = [prompt.prompt.casefold() for prompt in STUDY]
    questions = {prompt.prompt.casefold() for prompt in read_prompts(PROMPTS / "questions.jsonl")}
    assert len({*texts}) == len(texts)
    assert not {*texts} & questions


def test_open_questions_alone_have_no_answer() -> None:
    assert all(
        (prompt.answer is None and prompt.answer_pattern is None) == prompt.id.startswith("open-") for prompt in STUDY
    )


def test_answers_are_marked_right_and_others_wrong() -> None:
    for prompt in STUDY:
        if prompt.id.startswith("open-"):
            continue
        for right in (prompt.answer, f"The answer is {prompt.answer}.") if prompt.answer else (EXAMPLES[prompt.id],):
            assert grade(prompt, right or "").correct, (prompt.id, right)
        for wrong in NO_ANSWERS:
            assert not grade(prompt, wrong).correct, (prompt.id, wrong)


def test_a_text_that_repeats_the_question_is_wrong_and_the_prompt_too_unless_a_pattern_takes_a_quotation() -> None:
    for prompt in STUDY:
        if prompt.id.split("-")[0] not in ("open", "copying"):
            question = prompt.prompt.split("\n")[-1]
            echoes = [question, question.removeprefix("Calculate ")]
            for echo in echoes if prompt.answer_pattern else [*echoes, prompt.prompt]:
                assert not grade(prompt, echo).correct, (prompt.id, echo)


TELLING = tomllib.loads(Path(__file__).with_name("telling.toml").read_text("utf-8"))


@pytest.mark.parametrize("prompt_id", TELLING)
def test_right_and_wrong_texts_are_told_apart(prompt_id: str) -> None:
    (prompt,) = (prompt for prompt in STUDY if prompt.id == prompt_id)
    right, wrong = TELLING[prompt_id]["right"], TELLING[prompt_id]["wrong"]
    assert {text: grade(prompt, text).correct for text in right} == dict.fromkeys(right, True)
    assert {text: grade(prompt, text).correct for text in wrong} == dict.fromkeys(wrong, False)


def test_sums_products_and_the_like_are_worked_out_right() -> None:
    signs = {"+": "+", "-": "-", "×": "*", "divided by": "/"}
    n = 0
    for prompt in STUDY:
        if found := re.fullmatch(r"Calculate (\d+) (\+|-|×|divided by) (\d+)\.", prompt.prompt):
            assert number_of(prompt.answer or "") == eval(f"{found[1]} {signs[found[2]]} {found[3]}")
            n += 1
    assert n > 20


def test_choices_have_four_letters_and_each_letter_is_right_sometimes() -> None:
    choices = [prompt for prompt in STUDY if prompt.id.startswith("choice-")]
    for prompt in choices:
        offered = choices_of(prompt.prompt)
        assert list(offered) == list("ABCD")
        assert len(set(offered.values())) == 4
        assert grade(prompt, f"It is {offered[prompt.answer or '']}!").correct
    assert set(Counter(prompt.answer for prompt in choices)) == set("ABCD")


def test_what_is_extracted_is_in_the_passage() -> None:
    for prompt in STUDY:
        if prompt.id.startswith("extraction-") and prompt.answer:
            assert prompt.answer.casefold() in prompt.prompt.rsplit("\n\n", 1)[0].casefold(), prompt.id


def test_the_questions_are_what_they_were() -> None:
    assert (
        sha256((PROMPTS / "questions.jsonl").read_bytes()).hexdigest()
        == "7db0259b1c51731f16820c3290d23a9a945041c05e48d000ce369ee276e1897d"
    )
