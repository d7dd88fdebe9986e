"""Each kind of drawn prompts marks right what is right, and wrong what is wrong, as small models say it."""

import tomllib
from pathlib import Path
from random import Random

import pytest

from eexit.plan.prompt_kinds.kind import PromptKind
from eexit.plan.prompt_kinds.kinds import KINDS
from eexit.plan.prompt_kinds.tables import CAPITALS, CATEGORIES, CONTINENTS, OPPOSITES, WORDS
from eexit.quality.answers import mark

TELLING = tomllib.loads(Path(__file__).with_name("telling.toml").read_text("utf-8"))


def test_every_kind_is_tested() -> None:
    assert list(TELLING) == [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_texts_of_a_kind_are_marked_right_and_wrong(kind: PromptKind) -> None:
    prompt, telling = kind.draw(Random(1)), TELLING[kind.name]
    right, wrong = telling["right"], telling["wrong"]
    assert telling["asked"] in prompt.prompt
    assert len(right) >= 3
    assert len(wrong) >= 3
    assert {text: mark(prompt, text).correct for text in (*right, *wrong)} == (
        dict.fromkeys(right, True) | dict.fromkeys(wrong, False)
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_of_many_prompts_the_answer_is_right_and_no_answer_is_wrong(kind: PromptKind) -> None:
    rng = Random(2)
    for prompt in (kind.draw(rng) for _ in range(60)):
        if prompt.answer is not None:
            assert mark(prompt, prompt.answer).correct, prompt
            assert mark(prompt, f"The answer is {prompt.answer}.").correct, prompt
        for text in ("", "I do not know.", "The text is long and it goes on and on and on."):
            assert not mark(prompt, text).correct, prompt


def test_no_table_has_two_rows_for_the_same_thing_and_answers_differ_from_what_is_asked() -> None:
    for table in (CAPITALS, CONTINENTS, OPPOSITES):
        assert len({thing for thing, _ in table}) == len(table)
        assert all(thing != answer for thing, answer in table)
    assert len({answer for _, answer in CAPITALS}) == len(CAPITALS)
    for words in (*CATEGORIES.values(), *WORDS.values()):
        assert len({*words}) == len(words)
    assert len({word for words in CATEGORIES.values() for word in words}) == sum(map(len, CATEGORIES.values()))
