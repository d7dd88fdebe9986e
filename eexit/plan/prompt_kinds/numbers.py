"""Kinds of prompts about a product, a unit, and the order of words."""

from math import perm
from random import Random
from typing import Final

from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.kind import PromptKind, asked, asked_for_one_of, one, some, whole, with_article
from eexit.plan.prompt_kinds.tables import CATEGORIES, UNITS, WORDS

_LISTED: Final = (WORDS["nouns"], WORDS["adjectives"], WORDS["verbs"], *CATEGORIES.values())
_COMMON: Final = tuple(dict.fromkeys(word for words in _LISTED for word in words if word.islower()))


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
    words = some(rng, _COMMON, 2)
    question = f'Which word comes first in a dictionary, "{words[0]}" or "{words[1]}"?'
    return asked_for_one_of(question, words, min(words))


_PEOPLE, _NOUNS, _WANTS = len(WORDS["people"]), len(WORDS["nouns"]), len(WORDS["wants"])

KINDS: Final = (
    PromptKind("multiplication", _PEOPLE * _WANTS * 9 * 9, multiplication),
    PromptKind("unit", _PEOPLE * _NOUNS * perm(len(UNITS), 3) * 3, unit),
    PromptKind("alphabet", perm(len(_COMMON), 2), alphabet),
)
