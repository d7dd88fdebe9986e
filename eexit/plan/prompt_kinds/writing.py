"""Kinds of prompts that ask for a text of a given form: copies, a question, a Python list, a letter of a word."""

from math import perm
from random import Random
from typing import Final

from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.kind import PromptKind, asked_to_write, one, some, whole
from eexit.plan.prompt_kinds.tables import WORDS

# Words whose first and last letters are no words of their own, as "a" and "I" are.
_SPELLED: Final = tuple(noun for noun in WORDS["nouns"] if not {noun[0], noun[-1]} & {"a", "i"})


def copied_codes(rng: Random) -> Prompt:
    codes = [f"{one(rng, 'ABCDEFGHJKLMNPQRSTUVWXYZ')}{whole(rng, 1, 99)}" for _ in range(8)]
    return _copied(" ".join(codes))


def copied_sentence(rng: Random) -> Prompt:
    return _copied(f"{_clause(rng)} when {_clause(rng)}", ".")


def question(rng: Random) -> Prompt:
    name, word, thing = (one(rng, WORDS[table]) for table in ("people", "adjectives", "nouns"))
    return asked_to_write(f"Write a question that {name} asks about a {word} {thing}.", rf"(?i:{thing})[^\n.!?]*\?")


def python_list(rng: Random) -> Prompt:
    a, b, c = some(rng, range(1, 100), 3)
    return asked_to_write(f"Write a Python list with the numbers {a}, {b} and {c}.", rf"\[\s*{a},\s*{b},\s*{c}\s*\]")


def letter(rng: Random) -> Prompt:
    word, name, what = one(rng, _SPELLED), one(rng, WORDS["people"]), one(rng, WORDS["wants"])
    place, at = one(rng, (("first", 0), ("last", -1)))
    asks = f'{name} {what}. What is the {place} letter of the word "{word}"?'
    return asked_to_write(asks, rf"(?i:[\"'“]?{word[at]}[\"'”]?)")


def _copied(text: str, end: str = "") -> Prompt:
    """A copy stands on a line of its own, perhaps in quotation marks."""
    pattern = rf"(?m)^\W*{text}\W*$"
    return Prompt("", f"Repeat the following text exactly:\n{text}{end}", answer_pattern=pattern)


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
    PromptKind("letter", len(_SPELLED) * _PEOPLE * len(WORDS["wants"]) * 2, letter),
)
