"""Size of a screen, and its text form. This module does not import torch."""

from dataclasses import dataclass
from typing import Final

HEAD, SCREEN = "head", "screen"  # the logits on which rules decide: all, or those of a screen
MOST: Final = 2**31 - 1  # limit of a rank and of a number of tokens


@dataclass(frozen=True)
class ScreenSize:
    """The rank of a screen's sketch of the head, and how many tokens it lets through."""

    rank: int
    n_tokens: int

    def __str__(self) -> str:
        return f"screen:{self.rank}:{self.n_tokens}"


DEFAULT: Final = ScreenSize(96, 1024)


def with_default_size(text: str) -> str:
    """Return the text, with the default size for `screen` alone. Raises `ValueError` for an invalid one."""
    text = str(DEFAULT) if text == SCREEN else text
    screen_size(text)  # raises for an invalid size
    return text


def screen_size(text: str) -> ScreenSize | None:
    """Return the size of a screen such as "96:1024"; None for "head". Raises `ValueError` for other texts."""
    name, _, size = text.partition(":")
    if text == HEAD:
        return None
    numbers = size.split(":")
    if name != SCREEN or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"screen is {HEAD} or a screen, as in {DEFAULT} (rank, tokens), got {text!r}")
    rank, n_tokens = map(int, numbers)
    if not (1 <= rank <= MOST and 2 <= n_tokens <= MOST):
        raise ValueError(f"a screen has a rank of 1 or more, and lets 2 tokens or more through, got {text!r}")
    return ScreenSize(rank, n_tokens)
