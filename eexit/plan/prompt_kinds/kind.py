"""What a kind of prompt is, and the draws that its prompts are made of.

Draws use `Random.random` alone, the only method whose results Python's documentation promises for all versions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from eexit.plan.config import Prompt

T = TypeVar("T")


@dataclass(frozen=True)
class PromptKind:
    """Prompts with answers of which one is drawn like any other of its kind."""

    name: str
    space: int  # none of its prompts is likelier than one in so many
    draw: Callable[[Random], Prompt]  # without an id


def whole(rng: Random, least: int, most: int) -> int:
    """A whole number from `least` to `most`, each with the same probability."""
    return least + int(rng.random() * (most - least + 1))


def one(rng: Random, items: Sequence[T]) -> T:
    """One of the items, each with the same probability."""
    return items[whole(rng, 0, len(items) - 1)]


def some(rng: Random, items: Sequence[T], n: int) -> list[T]:
    """n different items in random order: the start of a Fisher–Yates shuffle."""
    pool = list(items)
    for at in range(n):
        other = whole(rng, at, len(pool) - 1)
        pool[at], pool[other] = pool[other], pool[at]
    return pool[:n]


def with_article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def asked(prompt: str, answer: str | int) -> Prompt:
    """A prompt whose answer is marked as the answers of other prompts are."""
    return Prompt("", prompt, answer=str(answer))


def asked_for_one_of(prompt: str, options: Sequence[str], answer: str) -> Prompt:
    """A prompt whose answer is the first option that a text names, also in the plural, but not in a list of options."""
    longest_first = "|".join(sorted(options, key=lambda option: (-len(option), option)))
    beside = r"[\"'”]?(?:,|,? (?:or|and)) (?:the |an? )?[\"'“]?"
    return Prompt(
        "", prompt, answer=answer,
        answer_pattern=rf"(?i)(?<!\w)(?<!\b(?:{longest_first}){beside})"
        rf"({longest_first})(?:e?s)?(?!\w)(?!{beside}(?:{longest_first})\b)",
    )  # fmt: skip


def asked_to_write(prompt: str, pattern: str) -> Prompt:
    """A prompt whose text is right if the pattern is found in it, not as a part of a longer word or number."""
    return Prompt("", prompt, answer_pattern=rf"(?<![\w-]|\w['’]|\d[.,])(?:{pattern})(?![\w-]|['’]\w|[.,]\d)")
