"""Kinds of prompts about a text or a list that stands in the prompt: what it says of somebody, and what comes where."""

from math import perm
from random import Random
from typing import Final

from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.kind import PromptKind, asked_for_one_of, one, some, whole, with_article
from eexit.plan.prompt_kinds.tables import CATEGORIES, CITIES, DAYS, WORDS


def people(rng: Random) -> Prompt:
    """Two people with a city, a job and a pet each."""
    names, cities = some(rng, WORDS["people"], 2), some(rng, CITIES, 2)
    jobs, pets = some(rng, CATEGORIES["profession"], 2), some(rng, WORDS["pets"], 2)
    rows = list(zip(names, cities, jobs, pets, strict=True))
    told = " ".join(f"{name} is {with_article(job)} from {city} and has a {pet}." for name, city, job, pet in rows)
    name, city, job, pet = one(rng, rows)
    questions = (
        (f"Which city is {name} from?", cities, city),
        (f"What is the job of {name}?", jobs, job),
        (f"Which animal does {name} have?", pets, pet),
        (f"Who is the {job}?", names, name),
        (f"Who has the {pet}?", names, name),
    )
    question, options, answer = one(rng, questions)
    return asked_for_one_of(f"{told}\n\n{question}", options, answer)


def journey(rng: Random) -> Prompt:
    """Where from, where to, and when."""
    name, (start, end), (first, last) = one(rng, WORDS["people"]), some(rng, CITIES, 2), some(rng, DAYS, 2)
    year = whole(rng, 1950, 2020)
    told = f"In {year}, {name} travelled from {start} to {end}. The journey began on a {first} and ended on a {last}."
    questions = (
        (f"From which city did {name} travel?", (start, end), start),
        ("On which day did the journey begin?", (first, last), first),
        ("On which day did the journey end?", (first, last), last),
    )
    question, options, answer = one(rng, questions)
    return asked_for_one_of(f"{told}\n\n{question}", options, answer)


def meeting(rng: Random) -> Prompt:
    """A day and two rooms."""
    name, day = one(rng, WORDS["people"]), one(rng, DAYS)
    room, other = map(str, some(rng, range(101, 400), 2))
    thing = one(rng, WORDS["nouns"])
    told = (
        f"{name} has a meeting on {day} in room {room}. It is about {with_article(thing)}. "
        f"The next meeting is in room {other}."
    )
    questions = (
        (f"In which room is the meeting about the {thing}?", (room, other), room),
        ("In which room is the next meeting?", (room, other), other),
        (f"On which day does {name} have a meeting?", DAYS, day),
    )
    question, options, answer = one(rng, questions)
    return asked_for_one_of(f"{told}\n\n{question}", options, answer)


def prices(rng: Random) -> Prompt:
    name, things = one(rng, WORDS["people"]), some(rng, WORDS["nouns"], 3)
    costs, at = list(map(str, some(rng, range(2, 100), 3))), whole(rng, 0, 2)
    told = ", ".join(f"{with_article(thing)} {cost} dollars" for thing, cost in zip(things, costs, strict=True))
    question = f"In the shop of {name}, {told}.\nHow much is the {things[at]}? Answer with the number only."
    return asked_for_one_of(question, costs, costs[at])


_PEOPLE, _NOUNS, _CITIES = len(WORDS["people"]), len(WORDS["nouns"]), perm(len(CITIES), 2)
_PETS, _JOBS = perm(len(WORDS["pets"]), 2), perm(len(CATEGORIES["profession"]), 2)

KINDS: Final = (
    PromptKind("people", perm(_PEOPLE, 2) * _CITIES * _JOBS * _PETS * 10, people),
    PromptKind("journey", _PEOPLE * _CITIES * perm(7, 2) * 71 * 3, journey),
    PromptKind("meeting", _PEOPLE * 7 * perm(299, 2) * _NOUNS * 3, meeting),
    PromptKind("prices", _PEOPLE * perm(_NOUNS, 3) * perm(98, 3) * 3, prices),
)
