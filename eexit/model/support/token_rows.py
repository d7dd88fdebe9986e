"""A batch of many different rows from a few texts: each of their tokens as a row of its own, in no regular order.

What a layer does with more rows than a text has is seen so, though the model itself ran few texts, one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from eexit.model.support.watching import Forward

TOKEN_AXIS: Final = 1
TOKEN_AXIS_OF_HEADS: Final = 2  # in queries, keys and values


def token_rows(forwards: Sequence[Forward]) -> tuple[Forward, list[int]]:
    """The tokens of forwards as rows of one token each, as if the model had run them so; then the forward of each."""
    forward_of = [index for index, forward in enumerate(forwards) for _ in range(forward.token_1T.shape[1])]
    shuffled = torch.randperm(len(forward_of), generator=torch.Generator().manual_seed(0)).tolist()
    batch = rows_of(_combined(list(map(_tokens_apart, forwards)), lambda parts, _: torch.cat(parts)), shuffled)
    return batch, [forward_of[row] for row in shuffled]


def rows_of(batch: Forward, rows: Sequence[int]) -> Forward:
    """Some rows of a batch, which may be repeated."""
    at = torch.tensor(rows, device=batch.token_1T.device)
    return _combined([batch], lambda parts, _: parts[0][at])


def _tokens_apart(forward: Forward) -> Forward:
    """A forward's tokens as rows, in their order; of keys and values there are those of the tokens alone."""
    n_tokens = forward.token_1T.shape[1]
    apart = _combined([forward], lambda parts, axis: parts[0].narrow(axis, -n_tokens, n_tokens).transpose(0, axis))
    return replace(apart, handed=[replace(handed, mask=None) for handed in apart.handed])


def _combined(forwards: Sequence[Forward], combine: Callable[[list[Tensor], int], Tensor]) -> Forward:
    """The first forward, with each part that has rows combined from the parts of all, given which axis has tokens."""

    def of_all(items: Sequence[object], names: Sequence[str], axis: int) -> dict[str, Any]:
        return {name: combine([getattr(item, name) for item in items], axis) for name in names}

    def of_layers(name: str) -> Iterator[tuple[Any, ...]]:
        return zip(*(getattr(forward, name) for forward in forwards), strict=True)

    streams = ("entering_1TW", "leaving_1TW", "attended")
    query_key_value = ("query", "key", "value")
    combined: dict[str, Any] = {
        name: [combine(list(parts), TOKEN_AXIS) for parts in of_layers(name)] for name in streams
    }
    return replace(
        forwards[0],
        **of_all(forwards, ("token_1T", "position_1T"), TOKEN_AXIS),
        **combined,
        handed=[
            replace(calls[0], **of_all(calls, query_key_value, TOKEN_AXIS_OF_HEADS)) for calls in of_layers("handed")
        ],
    )
