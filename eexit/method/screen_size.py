"""How coarse a screen is. This module does not import torch."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class ScreenSize:
    """The rank of a screen's sketch of the head, and how many tokens it lets through."""

    rank: int
    n_tokens: int

    def __str__(self) -> str:
        return f"screen:{self.rank}:{self.n_tokens}"


DEFAULT: Final = ScreenSize(96, 1024)
