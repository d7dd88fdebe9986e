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
from eexit.plan.sweep_config import Prompt
from eexit.quality.answer_types import choices_of
from eexit.quality.grading import grade
from eexit.quality.numerals import number_of

PROMPTS = Path(__file__).parents[4] / "jobs" / "sweeps" / "prompts"
STUDY = read_prompts(PROMPTS / "study.jsonl")
ROWS = map(json.loads, (PROMPTS / "study.jsonl").read_text().splitlines())
EXAMPLES = {row["id"]: row["example"] for row in ROWS if "example" in row}
KINDS = ("fact", "arithmetic", "choice", "open", "extraction", "copying", "format", "code")
NO_ANSWERS = ("", "I do not know.", "The text is long and it goes on and on and on and on and on.")
TELLING = tomllib.loads(Path(__file__).with_name("telling.toml").read_text("utf-8"))  # right and wrong texts by id
SIGNS = {"+": "+", "-": "-", "×": "*", "divided by": "/"}


def kind_of(prompt: Prompt) -> str:
    return prompt.id.rsplit("-", 1)[0]


def test_ids_have_the_kind_and_every_kind_is_on_both_sides() -> None:
    n = Counter(map(kind_of, STUDY))
    assert [prompt.id for prompt in STUDY] == [f"{kind}-{at}" for kind in KINDS for at in range(1, n[kind] + 1)]
    reported = [prompt for prompt in STUDY if in_test_split(prompt.prompt)]
    assert (len(STUDY), len(reported)) == (200, 50)
    assert TELLING.keys() < {prompt.id for prompt in STUDY}
    assert {*map(kind_of, reported)} == {kind_of(prompt) for prompt in STUDY if prompt not in reported} == {*KINDS}
    questions = PROMPTS / "questions.jsonl"
    texts = [prompt.prompt.casefold() for prompt in (*STUDY, *read_prompts(questions))]
    assert len({*texts}) == len(texts)
    checksum = "7db0259b1c51731f16820c3290d23a9a945041c05e48d000ce369ee276e1897d"
    assert sha256(questions.read_bytes()).hexdigest() == checksum


def test_the_named_study_sweeps_them_with_three_exit_sets() -> None:
    config = PROMPTS.parent / "study.toml"
    job, _ = load_job(["--config", str(config), "--controls-of", ""], config)
    assert job.config.prompts == STUDY
    keys = [each.key for each in configurations(job.config)]
    assert len(keys) == 1 + 2 * (3 * (3 + 1 + 1) + 2)
    assert {"frozen_residual/confidence/0.97@25", "unfrozen/agree@20,25", "frozen_residual/similarity/0.985"} < {*keys}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_marked_right_and_others_wrong_even_if_they_repeat_the_question(kind: str) -> None:
    """A pattern may take a quotation of the whole prompt, and open questions alone have no answer."""
    for prompt in (each for each in STUDY if kind_of(each) == kind):
        answer, question = prompt.answer, prompt.prompt.split("\n")[-1]
        if kind == "open":
            assert answer is prompt.answer_pattern is None
            continue
        told = TELLING.get(prompt.id, {"right": [], "wrong": []})
        right = [*([answer, f"The answer is {answer}."] if answer else [EXAMPLES[prompt.id]]), *told["right"]]
        echoes = [question, question.removeprefix("Calculate "), *[prompt.prompt] * (not prompt.answer_pattern)]
        wrong = [*NO_ANSWERS, *(echoes if kind != "copying" else ()), *told["wrong"]]
        marked = {text: grade(prompt, text).correct for text in (*right, *wrong)}
        assert marked == dict.fromkeys(right, True) | dict.fromkeys(wrong, False), prompt.id


def test_answers_follow_from_their_prompts() -> None:
    n_calculated = 0
    for prompt in STUDY:
        answer = prompt.answer or ""
        if found := re.fullmatch(r"Calculate (\d+) (\+|-|×|divided by) (\d+)\.", prompt.prompt):
            assert number_of(answer) == eval(f"{found[1]} {SIGNS[found[2]]} {found[3]}")
            n_calculated += 1
        elif kind_of(prompt) == "choice":
            offered = choices_of(prompt.prompt)
            assert (list(offered), len(set(offered.values()))) == (list("ABCD"), 4)
            assert grade(prompt, f"It is {offered[answer]}!").correct
        elif kind_of(prompt) == "extraction":
            assert answer.casefold() in prompt.prompt.rsplit("\n\n", 1)[0].casefold(), prompt.id
    assert n_calculated > 20
    assert {prompt.answer for prompt in STUDY if kind_of(prompt) == "choice"} == set("ABCD")
