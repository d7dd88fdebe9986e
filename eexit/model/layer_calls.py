"""How a model calls its layers and these their attention: the arguments, and which rows their parts belong to.

Shapes: T tokens of one row, S positions it attends to, H heads, G query heads per key head, D head width.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from eexit.errors import UsageError
from eexit.model.views import CacheView

ATTENTION: Final = "eexit"  # our implementation of attention, for our cache


@dataclass(frozen=True)
class LayerCall:
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


def row_axes(two: Any, three: Any) -> Any:
    """The row axes of arguments, nested as the arguments are, from their shapes for two rows and for three rows."""
    match two, three:
        case Tensor(), Tensor():
            sizes = enumerate(zip(two.shape, three.shape, strict=True))
            axes = [RowAxis(axis, more - fewer) for axis, (fewer, more) in sizes if more != fewer]
            return axes[0] if axes else None
        case (tuple() | list(), tuple() | list()):
            return [row_axes(*items) for items in zip(two, three, strict=True)]
        case dict(), dict():
            return {name: row_axes(item, three[name]) for name, item in two.items()}
        case LayerCall(), LayerCall():
            return LayerCall(tuple(row_axes(two.args, three.args)), row_axes(two.kwargs, three.kwargs))
    return None


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
        call, axes = self.calls[layer], self.axes[layer]
        return LayerCall(self._select(call.args, axes.args), self._select(call.kwargs, axes.kwargs))

    def _select(self, argument: Any, axes: Any) -> Any:
        if argument is self.whole:
            return self.view
        match argument, axes:
            case Tensor(), RowAxis():
                if id(argument) not in self.selected:
                    self.selected[id(argument)] = axes.select(argument, self.rows)
                return self.selected[id(argument)]
            case ((tuple() | list()), _):
                return type(argument)(self._select(*item) for item in zip(argument, axes or repeat(None), strict=False))
            case dict(), dict():
                return {name: self._select(item, axes.get(name)) for name, item in argument.items()}
        return argument


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
def attention_by(implementation: str | None, configs: Sequence[Any]) -> Iterator[None]:
    """A context in which attention is computed by that implementation; with None, nothing changes."""
    with named([implementation] * len(configs), [] if implementation is None else configs):
        yield


@contextmanager
def named(implementations: Sequence[str | None], configs: Sequence[Any]) -> Iterator[None]:
    """A context in which each of these configurations names an implementation of attention."""
    before = [config._attn_implementation_internal for config in configs]
    for config, implementation in zip(configs, implementations, strict=False):
        config._attn_implementation_internal = implementation
    try:
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation_internal = own
