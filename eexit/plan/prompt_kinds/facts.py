"""Kinds of prompts about facts that stand in tables, and about the sense of a word."""

from collections.abc import Callable, Sequence
from math import perm
from random import Random
from typing import Final

from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.kind import PromptKind, asked, asked_for_one_of, one, some
from eexit.plan.prompt_kinds.tables import (
    CAPITALS,
    CONTINENTS,
    OPPOSITES,
    REVIEWS,
    WORDS,
)


def about(rows: Sequence[tuple[str, str]], context: str, question: str) -> Callable[[Random], Prompt]:
    """Questions about one row of a table, after a sentence about somebody that has nothing to do with the answer."""

    def draw(rng: Random) -> Prompt:
        thing, answer = one(rng, rows)
        person, what = one(rng, WORDS["people"]), one(rng, WORDS[context])
        return asked(question.format(person=person, what=what, thing=thing), answer)

    return draw


def capital_choice(rng: Random) -> Prompt:
    rows = some(rng, CAPITALS, 3)
    country, answer = one(rng, rows)
    cities = [city for _, city in rows]
    question = f"Which city is the capital of {country}: {cities[0]}, {cities[1]} or {cities[2]}?"
    return asked_for_one_of(question, cities, answer)


def continent(rng: Random) -> Prompt:
    country, answer = one(rng, CONTINENTS)
    others = some(rng, [name for name in _CONTINENTS if name != answer], 2)
    a, b, c = some(rng, [answer, *others], 3)
    question = f"Is {country} in {a}, {b} or {c}? {one(rng, WORDS['people'])} would like to know."
    return asked_for_one_of(question, (a, b, c), answer)


def review(rng: Random) -> Prompt:
    good = one(rng, (True, False))
    word = one(rng, REVIEWS["good" if good else "bad"])
    said = f"The {one(rng, WORDS['things'])} that {one(rng, WORDS['people'])} chose was {word}."
    question = f'Is this review positive or negative? "{said}"'
    return asked_for_one_of(question, ("positive", "negative"), "positive" if good else "negative")


_CONTINENTS: Final = sorted({name for _, name in CONTINENTS})
_PEOPLE, _PLANS, _WANTS = len(WORDS["people"]), len(WORDS["plans"]), len(WORDS["wants"])

capital = about(CAPITALS, "plans", "{person} {what} {thing}. What is the capital of {thing}?")
opposite = about(OPPOSITES, "wants", '{person} {what}. What is the opposite of the word "{thing}"?')

KINDS: Final = (
    PromptKind("capital", len(CAPITALS) * _PEOPLE * _PLANS, capital),
    PromptKind("continent", len(CONTINENTS) * perm(len(_CONTINENTS) - 1, 2) * 3 * _PEOPLE, continent),
    PromptKind("opposite", len(OPPOSITES) * _PEOPLE * _WANTS, opposite),
    PromptKind("capital_choice", perm(len(CAPITALS), 3) * 3, capital_choice),
    PromptKind("review", 2 * min(map(len, REVIEWS.values())) * len(WORDS["things"]) * _PEOPLE, review),
)
