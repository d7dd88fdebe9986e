"""Kinds of prompts about a text or a list that stands in the prompt: what it says of somebody, and what comes where."""

from collections.abc import Sequence
from math import perm
from random import Random
from typing import Final

from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.kind import PromptKind, asked, one, some, whole, with_article
from eexit.plan.prompt_kinds.tables import CITIES, DAYS, MONTHS, WORDS


def _about(rng: Random, told: str, questions: Sequence[tuple[str, str]]) -> Prompt:
    """One of the questions about what is told."""
    question, answer = one(rng, questions)
    return asked(f"{told}\n\n{question}", answer)


def birthday(rng: Random) -> Prompt:
    name, day, month, year = one(rng, WORDS["people"]), whole(rng, 1, 28), one(rng, MONTHS), whole(rng, 1950, 2020)
    questions = ((f"In which month was {name} born?", month), (f"In which year was {name} born?", str(year)))
    return _about(rng, f"{name} was born on {day} {month} {year}.", questions)


def loss(rng: Random) -> Prompt:
    name, city, thing = one(rng, WORDS["people"]), one(rng, CITIES), one(rng, WORDS["nouns"])
    thing = with_article(thing)
    return asked(f"{name} from {city} lost {thing}. Who lost {thing}?", name)


def journey(rng: Random) -> Prompt:
    """When, and on which days."""
    name, (start, end), (first, last) = one(rng, WORDS["people"]), some(rng, CITIES, 2), some(rng, DAYS, 2)
    year = str(whole(rng, 1950, 2020))
    told = f"In {year}, {name} travelled from {start} to {end}. The journey began on a {first} and ended on a {last}."
    questions = (
        (f"In which year did {name} travel? Answer with the number only.", year),
        ("On which day did the journey begin? Answer with one word.", first),
        ("On which day did the journey end? Answer with one word.", last),
    )
    return _about(rng, told, questions)


def meeting(rng: Random) -> Prompt:
    """A day and two rooms."""
    name, day, thing = one(rng, WORDS["people"]), one(rng, DAYS), one(rng, WORDS["nouns"])
    room, other = some(rng, range(101, 400), 2)
    told = (
        f"{name} has a meeting on {day} in room {room}. It is about {with_article(thing)}. "
        f"The next meeting is in room {other}."
    )
    questions = (
        ("In which room is the next meeting?", str(other)),
        (f"On which day does {name} have a meeting?", day),
    )
    return _about(rng, told, questions)


def prices(rng: Random) -> Prompt:
    name, things, costs = one(rng, WORDS["people"]), some(rng, WORDS["nouns"], 3), some(rng, range(2, 100), 3)
    told = ", ".join(f"{with_article(thing)} costs {cost} dollars" for thing, cost in zip(things, costs, strict=True))
    asks = [
        (f"How much does the {thing} cost? Answer with the number only.", str(cost))
        for thing, cost in zip(things, costs, strict=True)
    ]
    return _about(rng, f"In the shop of {name}, {told}.", asks)


_PEOPLE, _NOUNS, _CITIES = len(WORDS["people"]), len(WORDS["nouns"]), perm(len(CITIES), 2)

KINDS: Final = (
    PromptKind("birthday", _PEOPLE * 28 * len(MONTHS) * 71 * 2, birthday),
    PromptKind("loss", _PEOPLE * len(CITIES) * _NOUNS, loss),
    PromptKind("journey", _PEOPLE * _CITIES * perm(7, 2) * 71 * 3, journey),
    PromptKind("meeting", _PEOPLE * 7 * perm(299, 2) * _NOUNS * 2, meeting),
    PromptKind("prices", _PEOPLE * perm(_NOUNS, 3) * perm(98, 3) * 3, prices),
)
