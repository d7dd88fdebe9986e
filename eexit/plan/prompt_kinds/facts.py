"""Kinds of prompts about facts that stand in tables. They are few, so that these kinds are drawn seldom."""

from random import Random
from typing import Final

from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.kind import PromptKind, asked, one, some, whole
from eexit.plan.prompt_kinds.tables import CAPITALS, CATEGORIES, CONTINENTS, OPPOSITES, WORDS

_LISTED: Final = (WORDS["nouns"], WORDS["adjectives"], WORDS["verbs"], *CATEGORIES.values())
# Words whose first letter is no word of its own, as "a" and "I" are.
_SPELLED: Final = tuple(dict.fromkeys(word for words in _LISTED for word in words if word[0] not in "ai"))
_CONTINENTS: Final = sorted({name for _, name in CONTINENTS})
_FACTORS: Final = range(2, 11)


def capital(rng: Random) -> Prompt:
    country, answer = one(rng, CAPITALS)
    return asked(f"What is the capital of {country}?", answer)


def continent(rng: Random) -> Prompt:
    country, answer = one(rng, CONTINENTS)
    others = some(rng, [name for name in _CONTINENTS if name != answer], 2)
    a, b, c = some(rng, [answer, *others], 3)
    question = f"Which continent is {country} in: {a}, {b} or {c}? Answer with its name only."
    return asked(question, answer, f"the continent of {country}")


def opposite(rng: Random) -> Prompt:
    word, answer = one(rng, OPPOSITES)
    return asked(f'What is the opposite of the word "{word}"? Answer with one word.', answer)


def multiplication(rng: Random) -> Prompt:
    a, b = whole(rng, _FACTORS[0], _FACTORS[-1]), whole(rng, _FACTORS[0], _FACTORS[-1])
    return asked(f"What is {a} * {b}?", a * b, f"{min(a, b)} * {max(a, b)}")


def letter(rng: Random) -> Prompt:
    word = one(rng, _SPELLED)
    return asked(f'What is the first letter of the word "{word}"? Answer with the letter only.', word[0])


KINDS: Final = (
    PromptKind("capital", len(CAPITALS), capital, turns=1),
    PromptKind("continent", len(CONTINENTS), continent, turns=1),
    PromptKind("opposite", len(OPPOSITES), opposite, turns=1),
    PromptKind("multiplication", len(_FACTORS) ** 2 // 2, multiplication, turns=1),
    PromptKind("letter", len(_SPELLED), letter, turns=1),
)
