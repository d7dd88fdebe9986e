"""Each kind of drawn prompts marks right what is right, and wrong what is wrong, as small models say it."""

from random import Random

import pytest

from eexit.plan.prompt_kinds.drawing import KINDS
from eexit.plan.prompt_kinds.kind import PromptKind
from eexit.plan.prompt_kinds.tables import CAPITALS, CATEGORIES, CONTINENTS, OPPOSITES, WORDS
from eexit.quality.answers import mark

# By kind: words of the first prompt of seed 1, and texts that are right and wrong for it.
TELLING: dict[str, tuple[str, list[str], list[str]]] = {
    "capital": (
        "What is the capital of Croatia?",
        ["The capital of Croatia is Zagreb.", "Zagreb", "**Zagreb**, a city in the north"],
        ["Samuel works in Croatia.", "The capital of Croatia is Split.", "It is not Zagreb."],
    ),
    "continent": (
        "is Canada in: North America, South America or Africa?",
        ["Canada is in North America.", "north america", "It lies on the continent of North America."],
        ["Canada is in North America, South America or Africa.", "South America", "North of the United States"],
    ),
    "opposite": (
        'What is the opposite of the word "dry"?',
        ['The opposite of "dry" is "wet".', "Wet", "**wet**"],
        ['The opposite of "dry" is "dry".', "A towel", "sweat"],
    ),
    "multiplication": (
        "What is 3 * 9?",
        ["3 * 9 = 27", "3 × 9 is 27.", "27"],
        ["3 * 9 = 12", "To calculate 3 * 9, you simply multiply 3 by 9.", "2.7"],
    ),
    "letter": (
        'What is the first letter of the word "house"?',
        ['The first letter of the word "house" is "H".', "h", "It is 'H'."],
        ['The first letter of the word "house" is "A".', "house", "A B C D E F G H"],
    ),
    "birthday": (
        "In which month was Carlos born?",
        ["Carlos was born in October 1968.", "October", "He was born on 24 October 1968."],
        ["Carlos was born in November 1968.", "In 1968", "Not in October"],
    ),
    "loss": (
        "Who lost a road?",
        ["Carlos from Bangkok lost a road.", "Carlos", "The road was lost by Carlos."],
        ["Elle from Bangkok lost a road.", "It was not Carlos.", "A road in Bangkok"],
    ),
    "journey": (
        "On which day did the journey begin?",
        ["The journey began on a Tuesday.", "tuesday", "It began on Tuesday and ended on Thursday."],
        ["The journey ended on a Thursday.", "In 1981", "It began on a Thursday and ended on a Tuesday."],
    ),
    "meeting": (
        "In which room is the next meeting?",
        ["The next meeting is in room 249.", "249", "Room 249, not room 177"],
        ["The next meeting is in room 177.", "Room 2490", "The next meeting is on Saturday."],
    ),
    "prices": (
        "an engine costs 66 dollars.",
        ["66", "The engine is 66 dollars.", "The answer is $66."],
        ["The engine is 46 dollars.", "50 + 46 + 66", "To find the price, we need the total cost."],
    ),
    "copied_codes": (
        "D84 U26 M45 R79 C3 W43 U1 L72",
        ["D84 U26 M45 R79 C3 W43 U1 L72", "D84 U26 M45 R79 C3 W43 U1 L72.", "`D84 U26 M45 R79 C3 W43 U1 L72`"],
        ["D84 U26 M45 R79 C3 W43 U1", "D84 U26 M45 R79 C3 W43 U1 L727", "D84, U26, M45, R79, C3, W43, U1, L72"],
    ),
    "copied_sentence": (
        "Carlos took the small desk when Julia lost the old school.",
        [
            "Carlos took the small desk when Julia lost the old school.",
            "“Carlos took the small desk when Julia lost the old school”",
            "The text is:\n\nCarlos took the small desk when Julia lost the old school.",
        ],
        [
            "Carlos took the small desk when Julia lost the old schools.",
            "Carlos took the desk when Julia lost the old school.",
            "Carlos took the small desk.",
        ],
    ),
    "question": (
        "Write a question that Carlos asks about a soft road.",
        ["Carlos: What is a soft road?", '"Is the road soft?"', "Why is the soft road so soft?"],
        ["Carlos asks about a soft road.", "The road is soft. Is it?", "What is soft?"],
    ),
    "python_list": (
        "the numbers 14, 85 and 77.",
        ["numbers = [14, 85, 77]", "```python\n[14,85,77]\n```", "The list is [14, 85, 77]."],
        ["[14, 85]", "14, 85, 77", "[14, 85, 77, 1]"],
    ),
    "json_object": (
        "for Carlos, who is 79 and lives in Ljubljana.",
        [
            '{"name": "Carlos", "age": 79, "city": "Ljubljana"}',
            '```json\n{\n  "name": "Carlos",\n  "age": 79,\n  "city": "Ljubljana"\n}',
            'The object is {"name": "Carlos", "age": "79", "city": "Ljubljana"}.',
        ],
        [
            '{"name": "Carlos", "age": 97, "city": "Ljubljana"}',
            "Carlos, 79, Ljubljana",
            '{"name": "Carlos", "age": 79}',
        ],
    ),
}


def test_every_kind_is_tested() -> None:
    assert list(TELLING) == [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_texts_of_a_kind_are_marked_right_and_wrong(kind: PromptKind) -> None:
    prompt, (asked, right, wrong) = kind.draw(Random(1)), TELLING[kind.name]
    assert asked in prompt.prompt
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
