"""Of a model that adds, it is known where depth is needed: its chains let the first layer do it. The tables say so."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from adding_model import IGNORED, PRIME, WORDS, Lesson, answer_of, prompt_of, prompts, save_adding_model
from commands import here
from landed_sweep import land_all

from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.prompts import read_prompts
from eexit.studies.controls import controls_of
from jobs.files.chains import main

SURE, AT_RANDOM, ANYWHERE = "unfrozen/confidence/0.8", "unfrozen/random/confidence/0.8", "unfrozen/fixed/0"


def test_prompts_and_answers_are_what_a_hand_would_write() -> None:
    numbers = [("c", 2), ("a", 3), ("b", 4)]
    assert prompt_of(numbers) == "c2 a3 b4"
    assert answer_of(numbers, with_chain=True) == "<think> c 2 a 0 b 4 </think> answer 4 <eos>"
    assert answer_of(numbers, with_chain=False) == "<think> </think> answer 4 <eos>"
    for row in prompts(50, seed=1):
        added = [int(word[1]) for word in str(row["prompt"]).split()]
        assert (row["answer"], row["steps"]) == (str(sum(added) % PRIME), len(added))


def test_a_lesson_has_sums_of_more_numbers_in_each_deeper_layer_and_no_letters_for_the_first() -> None:
    lesson = Lesson([([("c", 2), ("a", 3), ("b", 4)], True), ([("a", 1), ("b", 1)], False)])
    assert said(lesson.next_BT)[0] == "<think> c 2 a 0 b 4 </think> answer 4 <eos>"
    with_chain, without = said(lesson.shallow_BT)
    assert with_chain == "<think> 2 0 4 </think> answer 4 <eos>"
    assert without == "<think> </think> answer 1 <eos>", "the last number instead of the sum"
    guesses = lesson.guess_BT[lesson.guess_BT != IGNORED]
    assert [WORDS[token] for token in guesses.tolist()] == ["b", "c", "a"], "the letter before, or the last one"
    assert lesson.sum_LBT[:, 0, :3].tolist() == [[2, 0, 2], [2, 0, 4], [2, 0, 4]]
    assert (lesson.sum_LBT[:, 0, 3:] == IGNORED).all()


def said(target_BT: torch.Tensor) -> list[str]:
    return [" ".join(WORDS[token] for token in row if token != IGNORED) for row in target_BT.tolist()]


@pytest.mark.slow
def test_a_model_that_leaves_where_it_is_sure_needs_its_chain_and_one_that_leaves_at_random_does_not(
    tmp_path: Path,
) -> None:
    save_adding_model(tmp_path / "model")
    config = SweepConfig(
        model=str(tmp_path / "model"), prompts=tuple(Prompt(**row) for row in prompts(200, seed=1)),
        modes=("normal", "unfrozen"), rules={"confidence": (0.8,), "fixed": (0,)}, exit_layers=(0,),
        max_new_tokens=24, dtype="float32", control_tokens=True,
    )  # fmt: skip
    config = config.model_copy(update={"controls": controls_of(str(land_all(tmp_path / "first", config)))})
    swept, out = land_all(tmp_path / "swept", config), tmp_path / "chains.jsonl"
    assert here(main, swept, "--configuration", "normal", "--keep", "0", "--out", out).returncode == 0
    without = land_all(tmp_path / "without", config.model_copy(update={"prompts": tuple(read_prompts(out))}))
    print(here(main, swept, "--necessity", without).stdout)
    table = pd.read_parquet(swept / "chains")
    of = {row["configuration"]: row for row in table[table["steps"].isna()].to_dict("records")}
    assert of["normal"]["accuracy_without"] > 0.9, "depth does it without a chain"
    assert of["normal"]["necessity_low"] <= 0.02
    assert of[SURE]["accuracy"] > 0.9, "a chain lets the first layer do it"
    assert of[SURE]["necessity_low"] > 0.5
    assert of[SURE]["beside_control_low"] > 0.5
    for key in (AT_RANDOM, ANYWHERE):
        assert of[key]["accuracy"] < 0.5, key
        assert of[key]["necessity_low"] <= 0, key
