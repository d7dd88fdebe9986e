"""Keys and values of many rows, written in place at each row's own position.

Shapes: N slots, B rows in a pass (slots 0…B-1, or some of them), L layers, H key heads, G query heads per key head,
T tokens, S positions that there is room for, D head width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from eexit.cpu import kernels

BLOCK_POSITIONS: Final = 256  # the cache grows by this much: growing more often would fragment the heap
# Layers are stacked in so many tensors. Fewer tensors mean fewer copies, but more memory, since a stack is there twice
# while it grows.
N_STACKS: Final = 8


class Stack:
    """Keys and values of layers that have the same shapes, (L, N, H, S, D) each."""

    def __init__(self, layers: Sequence[int], keys: Tensor, values: Tensor):
        self.layers, self.keys, self.values = layers, keys, values

    def grow(self, room: int) -> None:
        """Make room for so many positions."""
        self.keys = _grown(self.keys, room)
        self.values = _grown(self.values, room)


def _grown(buffer: Tensor, room: int) -> Tensor:
    n_layers, n_slots, n_heads, held, width = buffer.shape
    grown = buffer.new_zeros(n_layers, n_slots, n_heads, room, width)
    grown[:, :, :, :held] = buffer
    return grown


class KVCache:
    """Keys and values, (N, H, S, D) per layer, allocated when a layer is first written or loaded, up to `length` long.

    On a CPU, S grows by whole blocks, and operators attend to all of it under a mask: on a part of it, a batched
    product would first make a copy. On other devices all `length` positions are allocated at once, since growing would
    need the old and the new tensors together, and operators get a view of the positions in use.
    """

    def __init__(self, n_slots: int, length: int):
        self.n_slots, self.length, self.capacity = n_slots, length, 0
        self.hidden_LNS: Tensor | None = None  # positions that are not attended to; None while there are none
        self._stacks: list[Stack] = []
        self._places: dict[int, tuple[Stack, int]] = {}  # layer → its stack and its index there

    @property
    def n_bytes(self) -> int:
        return sum(stack.keys.nbytes + stack.values.nbytes for stack in self._stacks)

    def layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, (N, H, S, D) each; allocated to fit these (…, H, T, D) if it has none yet."""
        if layer not in self._places:
            self._add([layer], key, value)
        return self.held(layer)

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values, (N, H, S, D) each, of a layer that has some."""
        stack, place = self._places[layer]
        return stack.keys[place, :, :, : self.capacity], stack.values[place, :, :, : self.capacity]

    def _add(self, layers: Sequence[int], key: Tensor, value: Tensor) -> None:
        shape = (len(layers), self.n_slots, key.shape[-3], self._room(key))
        stack = Stack(layers, key.new_zeros(*shape, key.shape[-1]), value.new_zeros(*shape, value.shape[-1]))
        self._stacks.append(stack)
        self._places |= {layer: (stack, place) for place, layer in enumerate(layers)}

    def _room(self, buffer: Tensor) -> int:
        return self.capacity if buffer.device.type == "cpu" else self.length

    @torch.inference_mode()
    def reserve(self, reach: int) -> None:
        """Make room for positions below `reach`."""
        if reach <= self.capacity:
            return
        self.capacity = min(self.length, -(-reach // BLOCK_POSITIONS) * BLOCK_POSITIONS)
        for stack in self._stacks:
            if self._room(stack.keys) > stack.keys.shape[3]:
                stack.grow(self._room(stack.keys))

    @torch.inference_mode()
    def copy_slots(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots `sources` to slots `targets`, none of which is a source."""
        buffers = [buffer for stack in self._stacks for buffer in (stack.keys, stack.values)]
        for buffer in (*buffers, *([] if self.hidden_LNS is None else [self.hidden_LNS])):
            buffer.index_copy_(1, targets, buffer.index_select(1, sources))

    @torch.inference_mode()
    def load(self, slots: slice, source: "KVCache", layers: Sequence[int], n_tokens: int) -> None:
        """Start rows with the keys and values of the one row of `source`.

        Everything that earlier rows left in these slots is overwritten, since it may be NaN.
        """
        if not self._stacks:
            self._add_like(source, layers)
        self.reserve(n_tokens)
        if self.hidden_LNS is not None:
            self.hidden_LNS[:, slots] = False
        for stack in self._stacks:
            starts = [source._places[layer][0] for layer in stack.layers]
            for buffer, start in (
                (stack.keys, torch.cat([its.keys for its in starts])),
                (stack.values, torch.cat([its.values for its in starts])),
            ):
                buffer[:, slots, :, :n_tokens] = start[:, :, :, :n_tokens]
                buffer[:, slots, :, n_tokens:] = 0

    @torch.inference_mode()
    def hide(self, layer: int, slot_B: Tensor, position_B: Tensor) -> None:
        """Hide these positions in a layer: later tokens do not attend to them there."""
        if self.hidden_LNS is None:
            n_layers = max(self._places) + 1
            self.hidden_LNS = slot_B.new_zeros(n_layers, self.n_slots, self.length, dtype=torch.bool)
        self.hidden_LNS[layer, slot_B, position_B] = True

    def _add_like(self, source: "KVCache", layers: Sequence[int]) -> None:
        """Allocate stacks of layers of the same shapes."""
        by_shape: dict[tuple[torch.Size, torch.Size], list[int]] = {}
        for layer in layers:
            stack, _ = source._places[layer]
            by_shape.setdefault((stack.keys.shape, stack.values.shape), []).append(layer)
        size = -(-len(layers) // N_STACKS)
        for alike in by_shape.values():
            stack, _ = source._places[alike[0]]
            for start in range(0, len(alike), size):
                self._add(alike[start : start + size], stack.keys[0], stack.values[0])


class KeysWritten(Exception):
    """Raised to leave a layer as soon as it has written its keys and values."""


class CacheView:
    """One pass over rows of a cache: stores the layers' keys and values, and computes their attention.

    `position_BT` are the positions of every row's tokens, all below `reach`. `rows` are the slots that take part; None
    means all B. Layers that compute attention themselves get keys and values `left_padded`: those of a row end at its
    last position, as in a batch that is padded on the left.
    """

    def __init__(
        self, cache: KVCache, position_BT: Tensor, reach: int, rows: Tensor | None = None, left_padded: bool = False
    ):
        cache.reserve(reach)
        self.cache, self.position_BT, self.reach, self.rows = cache, position_BT, reach, rows
        self.left_padded = left_padded
        self.slots = torch.arange(position_BT.shape[0], device=position_BT.device) if rows is None else rows
        self.slot_B1 = self.slots[:, None]
        self.own_position_BT = position_BT if rows is None else position_BT[rows]
        self.masks: dict[tuple[int | None, int | None], Tensor] = {}
        self.biases: dict[tuple[int | None, int | None, int], Tensor] = {}
        self.layer = -1  # the last layer that wrote its keys and values
        self.only_keys = False

    def among(self, rows: Tensor) -> "CacheView":
        """The same pass for some of its rows only."""
        view = CacheView(self.cache, self.position_BT, self.reach, rows, self.left_padded)
        view.masks, view.biases = self.masks, self.biases
        return view

    def copy_keys(self, source: "CacheView", layer: int, target: int) -> None:
        """Copy the rows' own positions from layer `layer` of `source`, a view of the same rows, to layer `target`."""
        for theirs, ours in zip(source.cache.held(layer), self.cache.held(target), strict=True):
            ours[self.slot_B1, :, self.own_position_BT] = theirs[source.slot_B1, :, source.own_position_BT]

    def hide(self, layer: int) -> None:
        """Hide the rows' own positions in a layer from later tokens."""
        self.cache.hide(layer, self.slot_B1, self.own_position_BT)

    @contextmanager
    def keys_only(self) -> Iterator[None]:
        """A context in which layers raise `KeysWritten` once their keys and values are written."""
        self.only_keys = True
        try:
            yield
        finally:
            self.only_keys = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before this pass, padding included. Without padding it is 0: positions are always passed."""
        return self.reach - self.position_BT.shape[1] if self.left_padded else 0

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """How many left-padded keys there are, and the position of the first: what transformers asks a cache for."""
        return self.reach, 0

    @cached_property
    def key_position_BS(self) -> Tensor:
        """The positions of left-padded keys, (B, S); negative ones are padding."""
        last_B1 = self.own_position_BT[:, -1:]
        return torch.arange(self.reach, device=last_B1.device) - (self.reach - 1 - last_B1)

    def attention_mask(self) -> Tensor:
        """Which of the left-padded keys are not padding: (B, S)."""
        return (self.key_position_BS >= 0).long()

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write keys and values (B, H, T, D) at the rows' own positions; returns those to attend to."""
        keys, values = self.cache.layer(layer_idx, key, value)
        self.layer = layer_idx
        keys[self.slot_B1, :, self.own_position_BT] = key.transpose(1, 2)
        values[self.slot_B1, :, self.own_position_BT] = value.transpose(1, 2)
        if self.only_keys:
            raise KeysWritten
        if self.left_padded:
            head_H1 = torch.arange(keys.shape[1], device=keys.device)[:, None]
            index = (self.slot_B1[..., None], head_H1, self.key_position_BS.clamp(min=0)[:, None])
            return keys[index], values[index]
        n_rows = self.position_BT.shape[0]
        return keys[:n_rows], values[:n_rows]

    def mask(self, window: int | None) -> Tensor:
        """Which positions a token attends to, (B, 1, T, S): those up to its own, within the sliding window.

        Positions that are hidden in the current layer are left out.
        """
        hidden_LNS = self.cache.hidden_LNS
        key = (window, None if hidden_LNS is None else self.layer)
        if key not in self.masks:
            key_S = torch.arange(self.cache.capacity, device=self.position_BT.device)
            mask_BTS = key_S <= self.position_BT[..., None]
            if window is not None:
                mask_BTS &= key_S > self.position_BT[..., None] - window
            if hidden_LNS is not None:
                mask_BTS &= ~hidden_LNS[self.layer, : len(mask_BTS), None, : self.cache.capacity]
            self.masks[key] = mask_BTS[:, None]
        return self.masks[key]

    def bias(self, window: int | None, n_heads: int, dtype: torch.dtype) -> Tensor:
        """The mask as 0 or -inf, to be added to scores: (B·H, T, S)."""
        key = (window, None if self.cache.hidden_LNS is None else self.layer, n_heads)
        if key not in self.biases:
            mask = self.mask(window).expand(-1, n_heads, -1, -1).flatten(0, 1)
            self.biases[key] = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))
        return self.biases[key]

    @record_function("attention")
    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, softcap: float | None,
        sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attention of the rows' queries (B, H·G, T, D) over their own positions; returns (B, T, H·G, D).

        `sinks` (H·G,) are attention sinks, one per head: scores that take part in the softmax but have no value.
        """
        if softcap is None and query.shape[2] == 1:
            hidden_NS = None if self.cache.hidden_LNS is None else self.cache.hidden_LNS[self.layer]
            attended = kernels.attention(
                query, key, value, self.slots, self.own_position_BT, window, scaling, sinks, hidden_NS
            )
            if attended is not None:
                return attended
        if self.rows is not None:  # attending for all rows is cheaper than copying the cache of some
            query = query.new_zeros(key.shape[0], *query.shape[1:]).index_copy_(0, self.rows, query)
        n_rows, n_heads, n_tokens, width = query.shape
        if n_tokens == 1:  # the query heads of a key head become its queries, so that no key is repeated
            query = query.reshape(n_rows, key.shape[1], -1, width)
        if softcap is None and sinks is None and (n_tokens > 1 or query.device.type != "cpu"):
            gqa = query.shape[1] > key.shape[1]
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=self.mask(window), scale=scaling, enable_gqa=gqa
            )
        else:
            bias = self.bias(window, key.shape[1], query.dtype)
            if sinks is not None:  # one per query
                sinks = sinks.repeat_interleave(n_tokens).repeat(n_rows)
            attended = _attend(query, key, value, bias, scaling, softcap, sinks)
        attended = attended.reshape(n_rows, n_heads, n_tokens, -1).transpose(1, 2)
        return attended if self.rows is None else attended[self.rows]


def _attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """Attention by plain batched products, without a copy of the cache; `bias` is (B·H, 1 or T, S)."""
    query, key, value = query.reshape(bias.shape[0], -1, query.shape[-1]), key.mT.flatten(0, 1), value.flatten(0, 1)
    if bias.shape[1] > 1:
        bias = bias.repeat(1, query.shape[1] // bias.shape[1], 1)
    if softcap is None:
        scores = torch.baddbmm(bias, query, key, alpha=scaling)
    else:  # scaled before the product, so that float16 does not overflow, and fp32 after it, for precision
        scores = softcap * torch.tanh((query * scaling @ key).float() / softcap) + bias
    if sinks is None:
        return scores.softmax(-1).to(value.dtype) @ value
    sinks = sinks.to(scores.dtype).view(*scores.shape[:2], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1].to(value.dtype) @ value
