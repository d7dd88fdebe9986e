"""Rotary angles that switch at a length (LongRoPE, Ding et al. 2024), by each row's own length.

transformers chooses the long or the short factors for a whole batch, by its largest position. Here, rows on the two
sides of the switch are embedded separately. A row never crosses it: keys rotated by the short factors do not match
queries rotated by the long ones, so the whole text would have to be processed again.

Shapes: B rows, T tokens, W width of the residual stream.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eexit.model.layer_calls import LayerCall, RowAxis

Embedded = tuple[Tensor, list[LayerCall]]


def switch_length(config: Any) -> int | None:
    """The number of tokens beyond which a model uses its long factors; None for a model without LongRoPE."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    lengths = [
        each["original_max_position_embeddings"] for each in by_layer_type if each.get("rope_type") == "longrope"
    ]
    return min(lengths, default=None)


def embed_apart(
    embed: Callable[[Tensor, Tensor], Embedded], token_BT: Tensor, position_BT: Tensor, switch: int,
    axes: Sequence[LayerCall],
) -> Embedded:  # fmt: skip
    """Embed tokens at their positions, with one call for rows beyond the switch and one for the others, and merge both.

    `axes` are the row axes of the layers' arguments.
    """
    beyond_B = position_BT.amax(1) >= switch
    sides = [rows for rows in (beyond_B.nonzero()[:, 0], (~beyond_B).nonzero()[:, 0]) if len(rows)]
    parts = [embed(token_BT[rows], position_BT[rows]) for rows in sides]
    if len(parts) == 1:
        return parts[0]
    (hidden, calls), (other_hidden, other_calls) = parts
    merge = _Merge(torch.cat(sides).argsort())
    hidden_BTW = merge(hidden, other_hidden, RowAxis(0, 1))
    return hidden_BTW, [merge(*of_layer) for of_layer in zip(calls, other_calls, axes, strict=True)]


class _Merge:
    """Merges the arguments made for the rows of either side; arguments without a row axis are the same on both."""

    def __init__(self, order: Tensor):
        self.order = order
        self.merged: dict[int, Tensor] = {}  # by the id of one part: most layers get the same tensors

    def __call__(self, one: Any, other: Any, axes: Any) -> Any:
        match one, axes:
            case LayerCall(), LayerCall():
                return LayerCall(self(one.args, other.args, axes.args), self(one.kwargs, other.kwargs, axes.kwargs))
            case Tensor(), RowAxis():
                if id(one) not in self.merged:
                    self.merged[id(one)] = axes.select(torch.cat([one, other], axes.axis), self.order)
                return self.merged[id(one)]
            case ((tuple() | list()), (tuple() | list())):
                return type(one)(self(*items) for items in zip(one, other, axes, strict=True))
            case dict(), dict():
                return {name: self(one[name], other[name], axes[name]) for name in one}
        return one
