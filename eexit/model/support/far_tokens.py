"""Observing an unmodified model at far positions: a single token, behind a cache that claims to hold many tokens.

The model makes masks and rotary angles as it would behind that many tokens, which shows sliding windows, and rotary
angles that switch at a length.

Shapes: S positions, W width of the residual stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache

from eexit.model.layer_calls import Handed
from eexit.model.layerwise import Layerwise
from eexit.model.support.watching import AttentionReached, leaving_at_attention, own_attention

LENGTH_NAMES: Final = ("window", "chunk", "position", "scale", "length", "context", "seq", "local", "block")
FARTHEST_POSITION: Final = 1 << 20  # that is checked, if the context is longer


@dataclass(frozen=True)
class TokenAt:
    """What each layer passes to its attention for a single token at a far position, given the token's embedding."""

    position: int
    token_11: Tensor
    embedded_11W: Tensor
    handed: list[Handed]


class FilledCache(DynamicCache):
    """An empty cache that claims to hold `length` tokens, so that positions and masks are made as if it did."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.length + query_length, 0


@torch.inference_mode()
def watch_token_at(decoder: Layerwise, position: int) -> TokenAt:
    """What layers pass to attention for a token at a far position, without running attention or any earlier token."""
    token_11 = torch.ones(1, 1, dtype=torch.long, device=decoder.device)
    handed: list[Handed] = []
    with leaving_at_attention(decoder.configs):
        embedded_11W, calls = decoder.embed(input_ids=token_11, cache=FilledCache(position), use_cache=True)
        for index, layer in enumerate(decoder.layers):
            entering_11W, call = decoder.where(index, (embedded_11W, calls[index]))
            try:
                layer(entering_11W, *call.args, **call.kwargs)
            except AttentionReached as reached:
                handed.append(reached.handed)
            else:
                raise own_attention(len(handed))
    return TokenAt(position, token_11, embedded_11W.to(decoder.device), handed)


def far_positions(config: Any, context: int | None) -> list[int]:
    """Positions around every length in a model's configuration (windows, chunks, where rotary angles switch)."""
    lengths = set(_lengths(config.to_dict())) | ({context} if context else set())
    most = min(context or FARTHEST_POSITION, FARTHEST_POSITION)
    around = {length + step for length in lengths for step in (-1, 0, 1)}
    return sorted({position for position in around if 0 < position < most} | {most - 1})


def _lengths(named: dict[str, Any]) -> Iterator[int]:
    for key, value in named.items():
        match value:
            case dict():
                yield from _lengths(value)
            case bool() | None:
                pass
            case int() if any(part in key for part in LENGTH_NAMES):
                yield value


def windows_of(far: Sequence[TokenAt]) -> list[int | None]:
    """The sliding window of each layer, in tokens, from the model's own masks; None for a layer without one."""
    return [_window([token.handed[layer] for token in far]) for layer in range(len(far[-1].handed))]


def _window(handed: Sequence[Handed]) -> int | None:
    allowed_S = handed[-1].allowed().flatten()
    n_allowed = int(allowed_S.sum())
    return n_allowed if n_allowed < len(allowed_S) else None
