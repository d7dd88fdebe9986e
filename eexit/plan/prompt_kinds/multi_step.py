"""Prompts whose answer takes a stated number of steps, for models that think before they answer.

Each step continues from the previous one: a number is added, things change places, a letter is written. Prompts request
thinking first and `Answer:` at the end, so that `--thinking-until "(?i)answer:"` separates thinking from answer. Every
kind and every number of steps are drawn equally often.

| kind | what is asked for | space | steps | guessing |
| --- | --- | --- | --- | --- |
| `sum` | the sum of 2 to 8 numbers | 6.7e+04 | 1 to 7 | 0 |
| `remainder` | what remains of such a sum, divided by 3 to 9 | 4.7e+05 | 2 to 8 | 20 % |
| `possessions` | what somebody has who buys, finds, doubles and gives away | 3.3e+05 | 1 to 4 | 0 |
| `swapped` | where one of three things is that change places | 7.6e+09 | 1 to 5 | 33 % |
| `counted` | how often a letter occurs in 2 to 5 words | 1.5e+05 | 2 to 5 | 41 % |
| `reversed` | the letters of a made-up word backwards | 2.2e+05 | 5 to 9 | 0 |
| `moved_date` | the day of the month, after so many moves by days or weeks | 2.2e+06 | 1 to 4 | 4 % |

Space and guessing are as in `eexit.plan.prompt_kinds.generators`.
"""

from calendar import monthrange
from datetime import date, timedelta
from math import perm
from random import Random
from typing import Final

from eexit.plan.prompt_kinds.generators import CATEGORIES, MONTHS, WORDS, PromptKind, one, some, whole
from eexit.plan.sweep_config import Prompt

ADDENDS: Final = range(2, 9)  # numbers in a sum
MODULI: Final = range(3, 10)
EVENTS: Final = range(1, 5)
SWAPS: Final = range(1, 6)
COUNTED: Final = range(2, 6)  # words whose letters are counted
REVERSED: Final = range(5, 10)  # letters of a made-up word
MOVES: Final = range(1, 5)
PLACES: Final = ("bag", "basket", "box", "cup", "drawer", "jar", "pocket", "shed", "suitcase", "trunk")
THINGS: Final = ("apples", "balls", "beads", "cards", "coins", "marbles", "nuts", "pencils", "shells", "stamps")
CONSONANTS, VOWELS = "bdfgklmnprstvz", "eiou"


def in_steps(question: str, answer: str | int, steps: int, what: str = "the number") -> Prompt:
    """Return a question with a request to think first; `what` describes the answer."""
    asked = f'{question}\nThink step by step, then end with "Answer:" and {what}.'
    return Prompt("", asked, answer=str(answer), steps=steps)


def _addends(rng: Random) -> list[int]:
    return [whole(rng, 2, 99) for _ in range(one(rng, ADDENDS))]


def added(rng: Random) -> Prompt:
    numbers = _addends(rng)
    return in_steps(f"What is {' + '.join(map(str, numbers))}?", sum(numbers), len(numbers) - 1)


def remainder(rng: Random) -> Prompt:
    numbers, modulus = _addends(rng), one(rng, MODULI)
    question = f"What remains when the sum {' + '.join(map(str, numbers))} is divided by {modulus}?"
    return in_steps(question, sum(numbers) % modulus, len(numbers))


def possessions(rng: Random) -> Prompt:
    """Return a question about somebody's possessions after several events."""
    name, things, has = one(rng, WORDS["people"]), one(rng, THINGS), whole(rng, 40, 90)
    told = [f"{name} has {has} {things}."]
    steps = one(rng, EVENTS)
    for _ in range(steps):
        event, n, each = whole(rng, 0, 3), whole(rng, 2, 9), whole(rng, 2, 9)
        match event:
            case 0:
                has, said = has + n * each, f"buys {n} packs of {each} {things}"
            case 1:
                has, said = has + n, f"finds {n} {things}"
            case 2:
                has, said = has - n, f"gives {n} {things} away"
            case _:
                has, said = has * 2, f"then has twice as many {things} as before"
        told.append(f"{name} {said}.")
    return in_steps(f"{' '.join(told)} How many {things} does {name} have now?", has, steps)


def swapped(rng: Random) -> Prompt:
    """Return a question about the place of one of three things after several swaps."""
    things, places = some(rng, WORDS["nouns"], 3), some(rng, PLACES, 3)
    at = dict(zip(things, places, strict=True))
    a, b, c = (f"the {thing} in the {place}" for thing, place in at.items())
    told, steps = [f"There are three things: {a}, {b} and {c}."], one(rng, SWAPS)
    for _ in range(steps):
        one_thing, other = some(rng, things, 2)
        at[one_thing], at[other] = at[other], at[one_thing]
        told.append(f"The {one_thing} and the {other} change places.")
    thing = one(rng, things)
    question = f"{' '.join(told)} In which of these is the {thing} now: {places[0]}, {places[1]} or {places[2]}?"
    return in_steps(question, at[thing], steps, "its name")


def counted(rng: Random) -> Prompt:
    """Return a question about how often a letter occurs in several words."""
    words = some(rng, _COUNTED_WORDS, one(rng, COUNTED))
    letter = one(rng, "".join(words))
    question = f'How many times does the letter "{letter}" occur in "{" ".join(words)}"?'
    return in_steps(question, "".join(words).count(letter), len(words))


def reversed_letters(rng: Random) -> Prompt:
    """Return a prompt to write a made-up word backwards, one letter per step."""
    n = one(rng, REVERSED)
    word = "".join(one(rng, VOWELS if at % 2 else CONSONANTS) for at in range(n))
    return in_steps(f'Write the letters of "{word}" in reverse order, as one word.', word[::-1], n, "that word")


def moved_date(rng: Random) -> Prompt:
    """Return a question about the day of the month after several moves."""
    year, month = whole(rng, 1950, 2049), whole(rng, 1, 12)
    day = date(year, month, whole(rng, 1, monthrange(year, month)[1]))
    told = [f"A meeting is planned for {day.day} {MONTHS[month - 1]} {year}."]
    steps = one(rng, MOVES)
    for _ in range(steps):
        weeks, n = rng.random() < 0.5, whole(rng, 2, 9)
        day += timedelta(weeks=n) if weeks else timedelta(days=n)
        told.append(f"It is moved on by {n} {'weeks' if weeks else 'days'}.")
    return in_steps(f"{' '.join(told)} On which day of the month is it now?", day.day, steps)


_COUNTED_WORDS: Final = tuple(dict.fromkeys(word for words in (WORDS["nouns"], *CATEGORIES.values()) for word in words))
_SUMS: Final = len(ADDENDS) * 98 ** ADDENDS[0]
_WORDS: Final = len(REVERSED) * len(CONSONANTS) ** 3 * len(VOWELS) ** 2  # as if all words had five letters
IN_STEPS: Final = (
    PromptKind("sum", _SUMS, added),
    PromptKind("remainder", _SUMS * len(MODULI), remainder),
    PromptKind("possessions", len(WORDS["people"]) * len(THINGS) * 51 * len(EVENTS) * 4, possessions),
    PromptKind("swapped", len(SWAPS) * perm(len(WORDS["nouns"]), 3) * perm(len(PLACES), 3) * perm(3, 2) * 3, swapped),
    PromptKind("counted", len(COUNTED) * perm(len(_COUNTED_WORDS), 2) * 2, counted),
    PromptKind("reversed", _WORDS, reversed_letters),
    PromptKind("moved_date", len(MOVES) * 100 * 12 * 28 * 2 * 8, moved_date),
)
