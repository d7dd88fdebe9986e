"""Kinds of prompts about a number, a unit, the alphabet, the length of a word, and a list."""

from itertools import chain
from math import perm
from random import Random
from typing import Final

from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.kind import PromptKind, asked, asked_for_one_of, one, some, whole, with_article
from eexit.plan.prompt_kinds.tables import CATEGORIES, UNITS, WORDS

_COUNTED: Final = tuple(
    dict.fromkeys((*WORDS["nouns"], *WORDS["adjectives"], *WORDS["verbs"], *chain(*CATEGORIES.values())))
)
_SHORT: Final = [word for word in _COUNTED if len(word) < 6]
_LONG: Final = [word for word in _COUNTED if len(word) > 5]


def multiplication(rng: Random) -> Prompt:
    name, what = one(rng, WORDS["people"]), one(rng, WORDS["wants"])
    a, b = whole(rng, 2, 10), whole(rng, 2, 10)
    return asked(f"{name} {what}. What is {a} * {b}?", a * b)


def unit(rng: Random) -> Prompt:
    rows = some(rng, UNITS, 3)
    quantity, answer = one(rng, rows)
    options = [option for _, option in rows]
    told = f"{one(rng, WORDS['people'])} wants to know the {quantity} of {with_article(one(rng, WORDS['nouns']))}."
    question = f"{told} Is that given in {options[0]}, {options[1]} or {options[2]}?"
    return asked_for_one_of(question, options, answer)


def alphabet(rng: Random) -> Prompt:
    words = some(rng, WORDS["nouns"], 3)
    question = f'Which word comes first in a dictionary, "{words[0]}", "{words[1]}" or "{words[2]}"?'
    return asked_for_one_of(question, words, min(words))


def letters(rng: Random) -> Prompt:
    answer = one(rng, _LONG)
    words = some(rng, (one(rng, _SHORT), answer), 2)
    question = f'Which word has more letters, "{words[0]}" or "{words[1]}"?'
    options = "|".join(words)
    alone = rf"\A(?:(?!\b(?:{options})\b).)*\b({options})\b(?:(?!\b(?:{options})\b).)*\Z"
    claimed = rf"\b({options})\b\W{{1,3}}(?:has (?:more|the most)|is (?:the )?longe)"
    return Prompt("", question, answer=answer, answer_pattern=rf"(?si){claimed}|{alone}")


def element(rng: Random) -> Prompt:
    words, at, name = some(rng, WORDS["nouns"], 2), whole(rng, 0, 1), one(rng, "abcdkmnpqxyz")
    return asked_for_one_of(
        f'In Python, {name} = ["{words[0]}", "{words[1]}"]. What is {name}[{at}]?', words, words[at]
    )


_PEOPLE, _NOUNS, _WANTS = len(WORDS["people"]), len(WORDS["nouns"]), len(WORDS["wants"])

KINDS: Final = (
    PromptKind("multiplication", _PEOPLE * _WANTS * 9 * 9, multiplication),
    PromptKind("unit", _PEOPLE * _NOUNS * perm(len(UNITS), 3) * 3, unit),
    PromptKind("alphabet", perm(_NOUNS, 3), alphabet),
    PromptKind("letters", len(_SHORT) * len(_LONG) * 2, letters),
    PromptKind("element", perm(_NOUNS, 2) * 24, element),
)
