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
    """Prompts with answers of which one is drawn like any other of its kind.

    What a prompt is about, its fact, is its `group` or, if it names none, its text.
    """

    name: str
    space: int  # none of its facts is likelier than one in so many
    draw: Callable[[Random], Prompt]  # without an id
    turns: int = 30  # a kind is drawn in proportion to these: a kind with few facts has few, so that they suffice


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


def asked(prompt: str, answer: str | int, fact: str | None = None) -> Prompt:
    """A prompt whose answer is marked as those of other prompts are, about a fact that others may share."""
    return Prompt("", prompt, answer=str(answer), group=fact)


def asked_to_write(prompt: str, pattern: str) -> Prompt:
    """A prompt whose text is right if the pattern is found in it, not as a part of a longer word or number."""
    return Prompt("", prompt, answer_pattern=rf"(?<![\w-]|\w['’]|\d[.,])(?:{pattern})(?![\w-]|['’]\w|[.,]\d)")
