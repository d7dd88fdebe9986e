"""Drafting at an early layer and verifying with the layers that are left: what is asked for.

Lossless self-speculation (LayerSkip, Elhoushi et al. 2024): up to N tokens are read one after the other after an early
layer; one pass of the remaining layers over all of them then says what full depth would have said. What it agrees with
is kept, and its own next token after that. This module does not import torch.
"""

from dataclasses import dataclass
from typing import Final

DRAFT: Final = "draft"  # the mode
AUTO: Final = "auto"  # in place of N
MOST_AUTO_TOKENS: Final = 8  # of more, a call takes noticeably longer on CPUs, and little is left to gain


@dataclass(frozen=True)
class Draft:
    """Draft up to `n_tokens` by reading after `layer`; None: as many as suit the acceptance so far."""

    layer: int
    n_tokens: int | None

    @property
    def length(self) -> str:
        return AUTO if self.n_tokens is None else str(self.n_tokens)

    @property
    def most(self) -> int:
        """Tokens that it drafts at most."""
        return MOST_AUTO_TOKENS if self.n_tokens is None else self.n_tokens

    def __str__(self) -> str:
        return f"{self.layer}:{self.length}"


def parse_drafts(text: str) -> list[Draft]:
    """The grid that a text such as "20:4" or "10,20:2,4,auto" stands for. Raises `ValueError` for any other."""
    layers, colon, lengths = text.partition(":")
    try:
        parsed = [
            Draft(int(layer), None if length.strip() == AUTO else int(length))
            for layer in layers.split(",")
            for length in lengths.split(",")
        ]
    except ValueError:
        parsed = []
    if not colon or not parsed:
        raise ValueError(f"a draft is LAYER:N, as in 20:4 or 10,20:2,4,{AUTO}, got {text!r}")
    for draft in parsed:
        if draft.n_tokens is not None and draft.n_tokens < 1:
            raise ValueError(f"N of a draft must be 1 or more, or {AUTO}, got {draft}")
    return parsed
