"""Prompts with answers, in any number, drawn independently from one distribution over kinds.

Each draw takes a kind, in proportion to its turns, and then a prompt of that kind. Tables of facts are small, so that
their kinds are drawn seldom. Passages are texts or lists in the prompt, with a question on a fact or a position.
Writing prompts request a text of a given form: a copy, a question, a Python list, a JSON object.

| kind | what is asked for | space | guessing | right |
| --- | --- | --- | --- | --- |
| `capital` | the capital of a country | 6.9e+01 | 0 | 21 of 32 |
| `continent` | in which of three continents a country is | 6.3e+01 | 33 % | 21 of 32 |
| `opposite` | the opposite of a word | 4.2e+01 | 0 | 24 of 32 |
| `multiplication` | a product such as 8 * 4 | 4.0e+01 | 0 | 6 of 32 |
| `letter` | the first letter of a word | 1.5e+02 | 4 % | 25 of 30 |
| `birthday` | the month or year of a birthday | 1.9e+06 | 42 % | 50 of 69 |
| `loss` | who lost something | 1.4e+05 | 50 % | 53 of 85 |
| `journey` | the year or a day of a passage about a journey | 1.7e+09 | 40 % | 81 of 87 |
| `meeting` | the next room or the day of a passage about meetings | 2.5e+09 | 38 % | 80 of 86 |
| `prices` | one of three prices | 1.3e+13 | 33 % | 33 of 68 |
| `copied_codes` | a copy of eight codes such as D84 | 7.2e+26 | 0 | 46 of 54 |
| `copied_sentence` | a copy of a sentence | 1.0e+11 | 0 | 30 of 52 |
| `question` | a question about a thing | 3.2e+04 | 0 | 49 of 63 |
| `python_list` | a Python list of three numbers | 9.4e+05 | 0 | 63 of 70 |
| `json_object` | a JSON object of a name, an age and a city | 2.0e+05 | 0 | 54 of 65 |

No fact of a kind is likelier than one in its *space*. *Guessing* is the accuracy of picking one of the prompt's
options. From a passage, it picks a name, day or number of the requested type, or any of them if only one has this type.
*Right* was counted for the default model at full depth (float32, 32 tokens at most). For the first five kinds, one
prompt in sixty, the counted prompts also helped to choose these kinds.

A prompt whose fact was drawn before is discarded, so that no two sides of a split by groups share a fact. Without
discarding, the prompts would be an independent sample, as the guarantees of `eexit.quality.learn_then_test` require. Up
to `MOST` prompts, less than one draw in a hundred is discarded.

Draws use only `Random.random`, the only method whose results Python's documentation promises for all versions.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import perm
from pathlib import Path
from random import Random
from re import escape
from typing import Any, Final, TypeVar

from eexit.errors import UsageError
from eexit.plan.sweep_config import Prompt

T = TypeVar("T")
MOST: Final = 15_000

_TABLES: Final[Mapping[str, Mapping[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("tables.toml").read_text("utf-8")
)
CATEGORIES: Final[Mapping[str, Sequence[str]]] = _TABLES["categories"]
WORDS: Final[Mapping[str, Sequence[str]]] = _TABLES["words"]
CAPITALS: Final[Sequence[tuple[str, str]]] = tuple(_TABLES["capitals"].items())
CONTINENTS: Final[Sequence[tuple[str, str]]] = tuple(_TABLES["continents"].items())
OPPOSITES: Final[Sequence[tuple[str, str]]] = tuple(_TABLES["opposites"].items())
CITIES: Final = tuple(city for _, city in CAPITALS)
MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_LISTED: Final = (WORDS["nouns"], WORDS["adjectives"], WORDS["verbs"], *CATEGORIES.values())
# Words whose first letter is not itself a word, such as "a" and "I".
_SPELLED: Final = tuple(dict.fromkeys(word for words in _LISTED for word in words if word[0] not in "ai"))
_CONTINENTS: Final = sorted({name for _, name in CONTINENTS})
_FACTORS: Final = range(2, 11)
_PEOPLE, _NOUNS, _ADJECTIVES = len(WORDS["people"]), len(WORDS["nouns"]), len(WORDS["adjectives"])
_CLAUSES: Final = _PEOPLE * len(WORDS["verbs"]) * _ADJECTIVES * _NOUNS


@dataclass(frozen=True)
class PromptKind:
    """Kind of generated prompts with answers; all prompts of a kind are equally likely.

    Prompts about the same fact share a `group`; without a group, the text is the fact.
    """

    name: str
    space: int  # no fact is likelier than one in this number
    draw: Callable[[Random], Prompt]  # without an id
    turns: int = 30  # weight of the kind in draws; low if it has few facts


def whole(rng: Random, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`, uniformly distributed."""
    return least + int(rng.random() * (most - least + 1))


def one(rng: Random, items: Sequence[T]) -> T:
    """Return one of the items, uniformly distributed."""
    return items[whole(rng, 0, len(items) - 1)]


def some(rng: Random, items: Sequence[T], n: int) -> list[T]:
    """Return n different items in random order, by the start of a Fisher–Yates shuffle."""
    pool = list(items)
    for at in range(n):
        other = whole(rng, at, len(pool) - 1)
        pool[at], pool[other] = pool[other], pool[at]
    return pool[:n]


def with_article(noun: str) -> str:
    """Return the noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def graded_prompt(prompt: str, answer: str | int, fact: str | None = None) -> Prompt:
    """Return a prompt with its answer; prompts about the same `fact` share a group."""
    return Prompt("", prompt, answer=str(answer), group=fact)


def asked_to_write(prompt: str, pattern: str) -> Prompt:
    """Return a prompt whose text is right if it contains the pattern, not as a part of a longer word or number."""
    return Prompt("", prompt, answer_pattern=rf"(?<![\w-]|\w['’]|\d[.,])(?:{pattern})(?![\w-]|['’]\w|[.,]\d)")


def capital(rng: Random) -> Prompt:
    country, answer = one(rng, CAPITALS)
    return graded_prompt(f"What is the capital of {country}?", answer)


def continent(rng: Random) -> Prompt:
    country, answer = one(rng, CONTINENTS)
    others = some(rng, [name for name in _CONTINENTS if name != answer], 2)
    a, b, c = some(rng, [answer, *others], 3)
    question = f"Which continent is {country} in: {a}, {b} or {c}? Answer with its name only."
    return graded_prompt(question, answer, f"the continent of {country}")


def opposite(rng: Random) -> Prompt:
    word, answer = one(rng, OPPOSITES)
    return graded_prompt(f'What is the opposite of the word "{word}"? Answer with one word.', answer)


def multiplication(rng: Random) -> Prompt:
    a, b = whole(rng, _FACTORS[0], _FACTORS[-1]), whole(rng, _FACTORS[0], _FACTORS[-1])
    return graded_prompt(f"What is {a} * {b}?", a * b, f"{min(a, b)} * {max(a, b)}")


def letter(rng: Random) -> Prompt:
    word = one(rng, _SPELLED)
    return graded_prompt(f'What is the first letter of the word "{word}"? Answer with the letter only.', word[0])


def _about(rng: Random, told: str, questions: Sequence[tuple[str, str]]) -> Prompt:
    question, answer = one(rng, questions)
    return graded_prompt(f"{told}\n\n{question}", answer)


def birthday(rng: Random) -> Prompt:
    name, day, month, year = one(rng, WORDS["people"]), whole(rng, 1, 28), one(rng, MONTHS), whole(rng, 1950, 2020)
    questions = ((f"In which month was {name} born?", month), (f"In which year was {name} born?", str(year)))
    return _about(rng, f"{name} was born on {day} {month} {year}.", questions)


def loss(rng: Random) -> Prompt:
    name, city, thing = one(rng, WORDS["people"]), one(rng, CITIES), one(rng, WORDS["nouns"])
    thing = with_article(thing)
    return graded_prompt(f"{name} from {city} lost {thing}. Who lost {thing}?", name)


def journey(rng: Random) -> Prompt:
    """Return a question about the year or a day of a journey."""
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
    """Return a question about the day or the next room of a meeting."""
    name, day, thing = one(rng, WORDS["people"]), one(rng, DAYS), one(rng, WORDS["nouns"])
    room, other = some(rng, range(101, 400), 2)
    told = (
        f"{name} has a meeting on {day} in room {room}. It is about {with_article(thing)}. "
        f"The next meeting is in room {other}."
    )
    questions = (("In which room is the next meeting?", str(other)), (f"On which day does {name} have a meeting?", day))
    return _about(rng, told, questions)


def prices(rng: Random) -> Prompt:
    name, things, costs = one(rng, WORDS["people"]), some(rng, WORDS["nouns"], 3), some(rng, range(2, 100), 3)
    told = ", ".join(f"{with_article(thing)} costs {cost} dollars" for thing, cost in zip(things, costs, strict=True))
    asks = [
        (f"How much does the {thing} cost? Answer with the number only.", str(cost))
        for thing, cost in zip(things, costs, strict=True)
    ]
    return _about(rng, f"In the shop of {name}, {told}.", asks)


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
    """Return a prompt to copy a text on its own line, with optional quotation marks and full stop."""
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


KINDS: Final = (
    PromptKind("capital", len(CAPITALS), capital, turns=1),
    PromptKind("continent", len(CONTINENTS), continent, turns=1),
    PromptKind("opposite", len(OPPOSITES), opposite, turns=1),
    PromptKind("multiplication", len(_FACTORS) ** 2 // 2, multiplication, turns=1),
    PromptKind("letter", len(_SPELLED), letter, turns=1),
    PromptKind("birthday", _PEOPLE * 28 * len(MONTHS) * 71 * 2, birthday),
    PromptKind("loss", _PEOPLE * len(CITIES) * _NOUNS, loss),
    PromptKind("journey", _PEOPLE * perm(len(CITIES), 2) * perm(7, 2) * 71 * 3, journey),
    PromptKind("meeting", _PEOPLE * 7 * perm(299, 2) * _NOUNS * 2, meeting),
    PromptKind("prices", _PEOPLE * perm(_NOUNS, 3) * perm(98, 3) * 3, prices),
    PromptKind("copied_codes", (23 * 99) ** 8, copied_codes),
    PromptKind("copied_sentence", _CLAUSES**2, copied_sentence),
    PromptKind("question", _PEOPLE * _ADJECTIVES * _NOUNS, question),
    PromptKind("python_list", perm(99, 3), python_list),
    PromptKind("json_object", _PEOPLE * 73 * len(CITIES), json_object),
)


def draw_prompts(n: int, seed: int, kinds: Sequence[PromptKind] = KINDS) -> list[Prompt]:
    """Return the first n prompts about different facts that a seed draws; ids are kind and place, as in `loss-17`.

    Raises: `UsageError` if n is greater than `MOST`.
    """
    if n > MOST:
        raise UsageError(f"n must be at most {MOST:,}, where facts that are drawn again begin to matter, got {n:,}")
    rng = Random(seed % 2**64)  # Random treats a seed and its negative alike
    turns = [kind for kind in kinds for _ in range(kind.turns)]
    drawn: dict[str, Prompt] = {}
    while len(drawn) < n:
        kind = one(rng, turns)
        prompt = kind.draw(rng)
        drawn.setdefault(prompt.group or prompt.prompt, replace(prompt, id=f"{kind.name}-{len(drawn) + 1}"))
    return list(drawn.values())
