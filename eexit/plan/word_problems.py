"""Word problems with computed answers, as many as are asked for: prompts for accuracy beyond those that ship."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from eexit.messages.errors import UsageError
from eexit.plan.config import Prompt

_NAMES: Final = ("Amina", "Boris", "Chen", "Diana", "Emil", "Fatou", "Grace", "Hugo")
_THINGS: Final = ("apples", "books", "coins", "marbles", "pencils", "stamps")
_WARES: Final = ("ball", "book", "cake", "lamp", "ticket")
_SMALL: Final = range(2, 11)
_LARGE: Final = range(11, 40)

Values = Mapping[str, int]  # of the numbers in a text


@dataclass(frozen=True)
class WordProblem:
    """A text with places for words and numbers; `words` and `numbers` say what may stand there.

    `answer` is computed from the numbers, of which only those are used that are `fit` and do not have the answer among
    them: repeating the text must not be right.
    """

    text: str
    words: Mapping[str, Sequence[str]]
    numbers: Mapping[str, Sequence[int]]
    answer: Callable[[Values], int]
    fit: Callable[[Values], bool] = lambda _: True

    def prompts(self) -> Iterator[tuple[str, int]]:
        """Every text there is, with its answer."""
        for words in product(*self.words.values()):
            for numbers in product(*self.numbers.values()):
                values = dict(zip(self.numbers, numbers, strict=True))
                if self.fit(values) and self.answer(values) not in values.values():
                    text = self.text.format(**dict(zip(self.words, words, strict=True)), **values)
                    yield text, self.answer(values)


_OWNED: Final = {"name": _NAMES, "things": _THINGS}
PROBLEMS: Final = (
    WordProblem(
        "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
        _OWNED,
        {"a": _LARGE, "b": _SMALL},
        lambda values: values["a"] + values["b"],
    ),
    WordProblem(
        "{name} had {a} {things} and gave {b} of them away. How many {things} does {name} have left?",
        _OWNED,
        {"a": _LARGE, "b": _SMALL},
        lambda values: values["a"] - values["b"],
    ),
    WordProblem(
        "There are {a} {things} in a box. How many {things} are there in {b} such boxes?",
        {"things": _THINGS},
        {"a": _LARGE, "b": _SMALL},
        lambda values: values["a"] * values["b"],
    ),
    WordProblem(
        "{a} {things} are shared equally by {b} children. How many {things} does each child get?",
        {"things": _THINGS},
        {"a": range(12, 100), "b": _SMALL},
        lambda values: values["a"] // values["b"],
        lambda values: values["a"] % values["b"] == 0,
    ),
    WordProblem(
        "A book has {a} pages. {name} reads {b} pages on Monday and {c} pages on Tuesday. How many pages are left?",
        {"name": _NAMES},
        {"a": range(60, 100, 5), "b": _SMALL, "c": _LARGE},
        lambda values: values["a"] - values["b"] - values["c"],
    ),
    WordProblem(
        "A {ware} costs {a} euros. {name} buys {b} of them and pays with a note of {c} euros. How many euros does "
        "{name} get back?",
        {"name": _NAMES, "ware": _WARES},
        {"a": _SMALL, "b": _SMALL, "c": (20, 50, 100)},
        lambda values: values["c"] - values["a"] * values["b"],
        lambda values: values["a"] * values["b"] < values["c"],
    ),
    WordProblem(
        "{name} is {a} years old. A cousin is {b} years older. How old will the cousin be in {c} years?",
        {"name": _NAMES},
        {"a": _LARGE, "b": _SMALL, "c": _SMALL},
        lambda values: values["a"] + values["b"] + values["c"],
    ),
    WordProblem(
        "A train goes {a} kilometres in an hour. How many kilometres does it go in {b} hours?",
        {},
        {"a": range(40, 200, 10), "b": _SMALL},
        lambda values: values["a"] * values["b"],
    ),
    WordProblem(
        "A farmer has {a} sheep and sells half of them. Then the farmer buys {b} sheep. How many sheep are there now?",
        {},
        {"a": range(10, 100, 2), "b": _SMALL},
        lambda values: values["a"] // 2 + values["b"],
    ),
)


def word_problems(n: int, seed: int) -> list[Prompt]:
    """So many problems, no two alike, of each kind in turn as long as it has any; the same for the same seed.

    Raises `UsageError` if more are asked for than there are.
    """
    draw = random.Random(seed)
    kinds = [list(problem.prompts()) for problem in PROBLEMS]
    most = sum(map(len, kinds))
    if n > most:
        raise UsageError(f"there are {most:,} word problems, not {n:,}: ask for fewer")
    for kind in kinds:
        draw.shuffle(kind)
    chosen: list[tuple[str, int]] = []
    while len(chosen) < n:
        kinds = [kind for kind in kinds if kind]
        chosen += [kind.pop() for kind in kinds[: n - len(chosen)]]
    return [Prompt(f"problem-{at}", text, answer=str(answer)) for at, (text, answer) in enumerate(chosen, start=1)]
