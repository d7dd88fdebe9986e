"""Prompts that are drawn alike and independently of each other, from one distribution over kinds of prompts.

Each draw takes a kind, in proportion to its turns, and then a prompt of that kind. What is kept of the stream of draws
are the prompts whose fact did not come before, so that no two parts of a split by groups share one. If none were left
out, the prompts would be an independent sample, as the guarantees of `eexit.quality.learn_then_test` ask for. Up to
`MOST` prompts, fewer than one draw in a hundred is.
"""

from dataclasses import replace
from random import Random
from typing import Final

from eexit.errors import UsageError
from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.kind import one
from eexit.plan.prompt_kinds.kinds import KINDS

TURNS: Final = tuple(kind for kind in KINDS for _ in range(kind.turns))
MOST: Final = 15_000


def draw_prompts(n: int, seed: int) -> list[Prompt]:
    """The first n prompts about different facts that a seed draws; their ids are kind and place, as in `loss-17`.

    Raises `UsageError` if more are asked for than `MOST`.
    """
    if n > MOST:
        raise UsageError(f"n must be at most {MOST:,}, where facts that are drawn again begin to matter, got {n:,}")
    rng = Random(seed % 2**64)  # Random takes a seed and its negative for the same
    drawn: dict[str, Prompt] = {}
    while len(drawn) < n:
        kind = one(rng, TURNS)
        prompt = kind.draw(rng)
        drawn.setdefault(prompt.group or prompt.prompt, replace(prompt, id=f"{kind.name}-{len(drawn) + 1}"))
    return list(drawn.values())
