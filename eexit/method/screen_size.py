"""Size of a screen, and its text form. This module does not import torch."""

from dataclasses import dataclass
from typing import Final

MOST: Final = 2**31 - 1  # limit of a rank and of a number of tokens


@dataclass(frozen=True)
class ScreenSize:
    """The rank of a low-rank approximation of the LM head, and how many tokens it selects."""

    rank: int
    n_tokens: int

    def __str__(self) -> str:
        return f"{self.rank}:{self.n_tokens}"


def screen_size(text: str | None) -> ScreenSize | None:
    """Return the size of a screen such as "32:256"; None for None, the whole head. Raise `ValueError` for no size."""
    if text is None:
        return None
    numbers = text.split(":")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"screen is RANK:TOKENS, as in 32:256, got {text!r}")
    rank, n_tokens = map(int, numbers)
    if not (1 <= rank <= MOST and 2 <= n_tokens <= MOST):
        raise ValueError(f"a screen has a rank of 1 or more and selects 2 tokens or more, got {text!r}")
    return ScreenSize(rank, n_tokens)


def validated_screen(text: str | None) -> str | None:
    """Return the text of a screen's size, None for "none". Raises `ValueError` for another text."""
    screen_size(text := None if text == "none" else text)
    return text
