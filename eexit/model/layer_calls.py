"""How a model calls its layers and these their attention: the arguments, and which rows their parts belong to.

Rotary angles may switch at a length (LongRoPE, Ding et al. 2024). transformers chooses the long or the short factors
for a whole batch, by its largest position. Here, rows on the two sides of the switch are embedded separately. A row
never crosses it: keys rotated by the short factors do not match queries rotated by the long ones, so the whole text
would have to be processed again.

Shapes: B rows, T tokens of one row, S positions it attends to, H heads, G query heads per key head, D head width, W
width of the residual stream.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from eexit.errors import UsageError
from eexit.model.views import CacheView

ATTENTION: Final = "eexit"  # our implementation of attention, for our cache


class LayerCall(NamedTuple):
    """The arguments with which the model calls one of its layers, without the residual stream."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class RowAxis:
    """The axis of an argument along which rows are laid out, and how many entries along it belong to one row."""

    axis: int
    entries: int

    def select(self, argument: Tensor, rows: Tensor) -> Tensor:
        if self.entries > 1:
            rows = (rows[:, None] * self.entries + torch.arange(self.entries, device=rows.device)).flatten()
        return argument.index_select(self.axis, rows)


def each_part(change: Callable[..., Any], argument: Any, *others: Any) -> Any:
    """What `change` makes of each part of an argument, and of the same parts of others, nested as the argument is."""
    match argument:
        case dict():
            return {
                name: each_part(change, part, *(other[name] for other in others)) for name, part in argument.items()
            }
        case LayerCall():
            return LayerCall(*(each_part(change, *parts) for parts in zip(argument, *others, strict=True)))
        case tuple() | list():
            return type(argument)([each_part(change, *parts) for parts in zip(argument, *others, strict=True)])
    return change(argument, *others)


def row_axes(two: Any, three: Any) -> Any:
    """The row axes of arguments, nested as the arguments are, from their shapes for two rows and for three rows."""
    return each_part(_row_axis, two, three)


def _row_axis(two: Any, three: Any) -> RowAxis | None:
    if not isinstance(two, Tensor) or not isinstance(three, Tensor):
        return None
    sizes = enumerate(zip(two.shape, three.shape, strict=True))
    return next((RowAxis(axis, more - fewer) for axis, (fewer, more) in sizes if more != fewer), None)


class CallsFor(Sequence[LayerCall]):
    """The calls of a pass, restricted to some of its rows and with another view; `axes` are the calls' row axes."""

    def __init__(
        self, calls: Sequence[LayerCall], axes: Sequence[LayerCall], whole: CacheView, rows: Tensor, view: CacheView
    ):
        self.calls, self.axes, self.whole, self.rows, self.view = calls, axes, whole, rows, view
        self.selected: dict[int, Tensor] = {}  # by the id of the tensor for all rows: most layers get the same tensors

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, layer: Any) -> Any:
        return each_part(self._select, self.calls[layer], self.axes[layer])

    def _select(self, argument: Any, axis: RowAxis | None) -> Any:
        if argument is self.whole:
            return self.view
        if axis is None or argument is None:  # a mask, say, that fewer tokens do without
            return argument
        if id(argument) not in self.selected:
            self.selected[id(argument)] = axis.select(argument, self.rows)
        return self.selected[id(argument)]


def switch_length(config: Any) -> int | None:
    """The number of tokens beyond which a model uses its long factors; None for a model without LongRoPE."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    lengths = [
        each["original_max_position_embeddings"] for each in by_layer_type if each.get("rope_type") == "longrope"
    ]
    return min(lengths, default=None)


def embed_apart(
    embed: Callable[[Tensor, Tensor], tuple[Tensor, list[LayerCall]]], token_BT: Tensor, position_BT: Tensor,
    switch: int, axes: Sequence[LayerCall],
) -> tuple[Tensor, list[LayerCall]]:  # fmt: skip
    """Embed tokens at their positions, with one call for rows beyond the switch and one for the others, and merge both.

    `axes` are the row axes of the layers' arguments.
    """
    beyond_B = position_BT.amax(1) >= switch
    sides = [rows for rows in (beyond_B.nonzero()[:, 0], (~beyond_B).nonzero()[:, 0]) if len(rows)]
    parts = [embed(token_BT[rows], position_BT[rows]) for rows in sides]
    if len(parts) == 1:
        return parts[0]
    order, merged = torch.cat(sides).argsort(), dict[int, Tensor]()  # by the id of one part, as in `CallsFor`

    def merge(one: Any, other: Any, axis: RowAxis | None) -> Any:
        if axis is None:  # the same on both sides
            return one
        if id(one) not in merged:
            merged[id(one)] = axis.select(torch.cat([one, other], axis.axis), order)
        return merged[id(one)]

    (hidden, calls), (other_hidden, other_calls) = parts
    return merge(hidden, other_hidden, RowAxis(0, 1)), each_part(merge, calls, other_calls, list(axes))


@dataclass(frozen=True)
class Handed:
    """What a layer passes to its attention; `options` are the keyword arguments."""

    module: nn.Module
    query: Tensor  # (1, H·G, T, D)
    key: Tensor  # (1, H, S, D)
    value: Tensor
    mask: Tensor | None  # (1, 1, T, S), added to scores, or boolean; None attends to everything
    options: dict[str, Any]

    def allowed(self) -> Tensor:
        """Which positions the mask lets a token attend to, (1, 1, T, S). Raises `UsageError` without a mask."""
        if self.mask is None:
            raise UsageError("its attention masks nothing, not even later positions")
        return self.mask if self.mask.dtype == torch.bool else self.mask == 0

    def attend(self) -> Tensor:
        """The output of the model's own attention, (1, T, H·G, D)."""
        module_of_class = sys.modules[type(self.module).__module__]
        own = getattr(module_of_class, "eager_attention_forward", sdpa_attention_forward)
        return own(self.module, self.query, self.key, self.value, self.mask, **self.options)[0]


@contextmanager
def named(implementations: Sequence[str], configs: Sequence[Any]) -> Iterator[None]:
    """A context in which each of these configurations names an implementation of attention."""
    before = [config._attn_implementation_internal for config in configs]
    for config, implementation in zip(configs, implementations, strict=True):
        config._attn_implementation_internal = implementation
    try:
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation_internal = own
