"""KV cache of many sequences in transformers' cache interface, with room allocated beforehand.

Sequences are aligned on the right: the latest token of each is in the same column, as in a batch that is padded on the
left. So masks, windows and positions are transformers' own.

Shapes: S slots, F width of a head's keys or values.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final
from weakref import proxy

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK_COLUMNS: Final = 256  # a cache on a CPU grows by this much: growing more often would fragment the heap
SLACK_COLUMNS: Final = 128  # empty ones before all sequences, after which the cache is moved to the left

Rewrite = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]  # of a layer's keys and values before they are written


class StopAfterKV(Exception):
    """Exception that ends a layer's forward once it has written its keys and values."""


class LayerKVCache(CacheLayerMixin):
    """One layer's keys and values, (S, H, C, F) each, allocated when the layer first writes some."""

    is_compileable = False
    is_sliding = False
    cache: "KVCache"
    keys: Tensor
    values: Tensor

    def __init__(self, cache: "KVCache", layer: int):
        CacheLayerMixin.__init__(self)
        self.cache, self.layer = proxy(cache), layer  # in a cycle of references, both would wait for the collector

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        n_slots, capacity, parts = self.cache.n_slots, self.cache.capacity, (key_states, value_states)
        self.keys, self.values = (part.new_zeros(n_slots, part.shape[1], capacity, part.shape[3]) for part in parts)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write a pass's keys and values, (B, H, T, F), and return all up to its last column."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self.cache
        if cache.rewrite is not None:
            key_states, value_states = cache.rewrite(self.layer, key_states, value_states)
        end = cache.start + key_states.shape[2]
        keys, values = self.keys[: cache.n_rows], self.values[: cache.n_rows]
        keys[:, :, cache.start : end] = key_states
        values[:, :, cache.start : end] = value_states
        if cache.only_keys:
            raise StopAfterKV
        return keys[:, :, cache.first : end], values[:, :, cache.first : end]

    def grow(self) -> None:
        """Allocate room for all columns of the cache."""
        if self.is_initialized:
            before = self.keys, self.values
            self.lazy_initialization(*before)
            for part, old in zip((self.keys, self.values), before, strict=True):
                part[:, :, : old.shape[2]] = old

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.cache.start - self.cache.first

    def get_max_length(self) -> int:
        return -1


class KVCache(Cache):
    """Keys and values of `n_slots` sequences of up to `length` tokens.

    A pass is over the first `n_rows` slots, its first token is in column `start`, and layers get the columns from
    `first` on. On a CPU, room grows by whole blocks; elsewhere it is allocated at once, since growing needs the old and
    the new tensors together.
    """

    def __init__(self, n_layers: int, n_slots: int, length: int, grows: bool = True):
        columns = [LayerKVCache(self, layer) for layer in range(n_layers)]
        super().__init__(layers=[*columns])
        self.columns: Sequence[LayerKVCache] = columns
        self.n_slots, self.length = n_slots, length + SLACK_COLUMNS
        self.capacity = 0 if grows else self.length
        self.n_rows, self.start, self.first, self.only_keys = n_slots, 0, 0, False
        self.rewrite: Rewrite | None = None
        self.hidden: dict[int, Tensor] = {}  # by layer, the columns (S, C) that later tokens don't attend to there

    @property
    def _tensors(self) -> list[Tensor]:
        """The keys and the values of each layer that has written some."""
        return [part for each in self.columns if each.is_initialized for part in (each.keys, each.values)]

    def begin(self, n_rows: int, start: int, n_tokens: int, first: int = 0) -> None:
        """Begin a pass of `n_tokens` tokens in each of the first `n_rows` slots, from column `start` on."""
        self.n_rows, self.start, self.first = n_rows, start, first
        if start + n_tokens > self.capacity:
            self.capacity = -(-(start + n_tokens) // BLOCK_COLUMNS) * BLOCK_COLUMNS
            for each in self.columns:
                each.grow()

    @torch.inference_mode()
    def copy_rows(self, source: "KVCache", sources: Tensor, targets: Tensor) -> None:
        """Copy slots of `source`, which may be this cache, over all content of other slots, which may be NaN."""
        n_columns = min(source.capacity, self.length)
        self.begin(self.n_rows, 0, n_columns)
        for layer, other in zip(self.columns, source.columns, strict=True):
            if not other.is_initialized:
                continue
            if not layer.is_initialized:
                layer.lazy_initialization(other.keys, other.values)
            to, at = targets.to(other.keys.device), sources.to(other.keys.device)
            for new, old in ((layer.keys, other.keys), (layer.values, other.values)):
                new[to, :, :n_columns] = old[at, :, :n_columns]
                if n_columns < self.capacity:
                    new[to, :, n_columns:] = 0
        for index, hidden in source.hidden.items():
            self.hidden.setdefault(index, hidden.new_zeros(self.n_slots, self.length))
        n_columns = min(self.length, source.length)
        for index, hidden in self.hidden.items():
            copied = source.hidden[index][sources, :n_columns] if index in source.hidden else False
            hidden[targets] = False
            hidden[targets, :n_columns] = copied

    @torch.inference_mode()
    def move_left(self, n_columns: int) -> None:
        """Move all columns to the left, over columns that no sequence in flight uses any more."""
        for part in self._tensors:
            part[:, :, :-n_columns] = part[:, :, n_columns:].clone()
        for hidden in self.hidden.values():
            hidden[:, :-n_columns], hidden[:, -n_columns:] = hidden[:, n_columns:].clone(), False

    @torch.inference_mode()
    def move_right(self, n_columns_B: Tensor, end: int) -> None:
        """Move each of the first sequences to the right by so many columns, up to column `end`."""
        source_BC = (torch.arange(end, device=n_columns_B.device) - n_columns_B[:, None]).clamp(min=0)
        for part in self._tensors:
            columns = part[: len(source_BC), :, :end]
            at = source_BC.to(part.device)[:, None, :, None]
            columns[:] = columns.gather(2, at.expand(-1, columns.shape[1], -1, columns.shape[3]))

    def hide(self, layer: int, flag_BT: Tensor) -> None:
        """Hide the tokens of this pass with this flag in a layer from later tokens."""
        if layer not in self.hidden:
            self.hidden[layer] = flag_BT.new_zeros(self.n_slots, self.length)
        self.hidden[layer][: self.n_rows, self.start : self.start + flag_BT.shape[1]] = flag_BT

    def latest(self, layer: int, n_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of this pass's tokens in a layer, (B, H, T, F) each."""
        columns, end = self.columns[layer], self.start + n_tokens
        return columns.keys[: self.n_rows, :, self.start : end], columns.values[: self.n_rows, :, self.start : end]

    def copy_layer(self, source: int, target: int, n_tokens: int) -> None:
        """Copy the keys and values of this pass's tokens from one layer to another."""
        entries = self.latest(source, n_tokens)
        if not self.columns[target].is_initialized:
            self.columns[target].lazy_initialization(*entries)
        for new, old in zip(self.latest(target, n_tokens), entries, strict=True):
            new.copy_(old)
