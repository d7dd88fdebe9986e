"""Kinds of prompts that ask for a text of a given form: copies, a question, a Python list, a JSON object."""

from math import perm
from random import Random
from re import escape
from typing import Final

from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.kind import PromptKind, asked_to_write, one, some, whole
from eexit.plan.prompt_kinds.tables import CITIES, WORDS


def copied_codes(rng: Random) -> Prompt:
    codes = [f"{one(rng, 'ABCDEFGHJKLMNPQRSTUVWXYZ')}{whole(rng, 1, 99)}" for _ in range(8)]
    return copied(" ".join(codes))


def copied_sentence(rng: Random) -> Prompt:
    return copied(f"{_clause(rng)} when {_clause(rng)}.")


def question(rng: Random) -> Prompt:
    return question_about(one(rng, WORDS["people"]), one(rng, WORDS["adjectives"]), one(rng, WORDS["nouns"]))


def python_list(rng: Random) -> Prompt:
    return list_of(*some(rng, range(1, 100), 3))


def json_object(rng: Random) -> Prompt:
    return object_of(one(rng, WORDS["people"]), whole(rng, 18, 90), one(rng, CITIES))


def copied(text: str) -> Prompt:
    """To be copied on a line of its own, perhaps in quotation marks, with or without its full stop."""
    copy = escape(text.removesuffix("."))
    pattern = rf"(?m)^(?:\W*|[^\n]{{1,40}}:\W*){copy}\W*$"
    return Prompt("", f"Repeat the following text exactly:\n{text}", answer_pattern=pattern)


def question_about(name: str, adjective: str, thing: str) -> Prompt:
    asks = f"Write a question that {name} asks about a {adjective} {thing}."
    return asked_to_write(asks, rf"(?i:{thing})s?\b[^\n.!?]*\?")


def list_of(a: int, b: int, c: int) -> Prompt:
    asks = f"Write a Python list with the numbers {a}, {b} and {c}."
    return asked_to_write(asks, rf"\[\s*{a},\s*{b},\s*{c},?\s*\]")


def object_of(name: str, age: int, city: str) -> Prompt:
    asks = f'Write a JSON object with the keys "name", "age" and "city" for {name}, who is {age} and lives in {city}.'
    return Prompt("", asks, answer_pattern=rf'\{{\s*"name":\s*"{name}",\s*"age":\s*"?{age}"?,\s*"city":\s*"{city}"')


def _clause(rng: Random) -> str:
    name, verb, adjective, noun = (one(rng, WORDS[table]) for table in ("people", "verbs", "adjectives", "nouns"))
    return f"{name} {verb} the {adjective} {noun}"


_PEOPLE, _NOUNS, _ADJECTIVES = len(WORDS["people"]), len(WORDS["nouns"]), len(WORDS["adjectives"])
_CLAUSES = _PEOPLE * len(WORDS["verbs"]) * _ADJECTIVES * _NOUNS

KINDS: Final = (
    PromptKind("copied_codes", (23 * 99) ** 8, copied_codes),
    PromptKind("copied_sentence", _CLAUSES**2, copied_sentence),
    PromptKind("question", _PEOPLE * _ADJECTIVES * _NOUNS, question),
    PromptKind("python_list", perm(99, 3), python_list),
    PromptKind("json_object", _PEOPLE * 73 * len(CITIES), json_object),
)
