"""Keys and values of many rows, written in place at each row's own position.

Shapes: N slots, B rows in a pass (slots 0…B-1, or some of them), H heads, G query heads per key head, T tokens,
S positions there is room for, D head width.
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

BLOCK: Final = 256  # positions; small ones would leave holes in the heap at every growth
STACKS: Final = 8  # of layers whose keys and values are copied together; the largest is there twice while it grows


class Stack:
    """Keys and values of some layers of one shape, (L, N, H, S, D) each."""

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
    """Keys and values, made when a layer is first written or loaded, with room for up to `length` positions.

    A layer's are (N, H, S, D) each. On a CPU, S grows by whole blocks and operators attend to all of it, masked: a
    batched product would first copy a part of the positions. Elsewhere all the room is taken at once, since growth
    needs the old and the new one together, and operators are given the part that is in use.
    """

    def __init__(self, n_slots: int, length: int):
        self.n_slots, self.length, self.capacity = n_slots, length, 0
        self.hidden_LNS: Tensor | None = None  # positions that hold nothing, by layer; None while there are none
        self._stacks: list[Stack] = []
        self._places: dict[int, tuple[Stack, int]] = {}  # of a layer, and where it is in its stack

    @property
    def n_bytes(self) -> int:
        return sum(stack.keys.nbytes + stack.values.nbytes for stack in self._stacks)

    def layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, both as (N, H, S, D); made like these (…, H, T, D) if they aren't there yet."""
        if layer not in self._places:
            self._add([layer], key, value)
        return self.held(layer)

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """The same for a layer that is there."""
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
        self.capacity = min(self.length, -(-reach // BLOCK) * BLOCK)
        for stack in self._stacks:
            if self._room(stack.keys) > stack.keys.shape[3]:
                stack.grow(self._room(stack.keys))

    @torch.inference_mode()
    def copy_slots(self, sources: Tensor, targets: Tensor) -> None:
        """What slots `sources` hold goes to `targets`, none of which is a source."""
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
        """A layer holds nothing at these positions: they are not attended to."""
        if self.hidden_LNS is None:
            n_layers = max(self._places) + 1
            self.hidden_LNS = slot_B.new_zeros(n_layers, self.n_slots, self.length, dtype=torch.bool)
        self.hidden_LNS[layer, slot_B, position_B] = True

    def _add_like(self, source: "KVCache", layers: Sequence[int]) -> None:
        """Stack the layers by shape, a few at a time."""
        by_shape: dict[tuple[torch.Size, torch.Size], list[int]] = {}
        for layer in layers:
            stack, _ = source._places[layer]
            by_shape.setdefault((stack.keys.shape, stack.values.shape), []).append(layer)
        size = -(-len(layers) // STACKS)
        for alike in by_shape.values():
            stack, _ = source._places[alike[0]]
            for start in range(0, len(alike), size):
                self._add(alike[start : start + size], stack.keys[0], stack.values[0])


class KeysWritten(Exception):
    """Leaves a layer as soon as it has written its keys and values."""


class CacheView:
    """One pass over rows of a cache: takes the layers' keys and values, and attends for them.

    `position_BT` holds every row's positions and `reach` is a bound above all of them; `rows` are the slots that take
    part, None for all B. Layers that attend by themselves get keys and values `left_padded`: those of a row end at its
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
        self.layer = -1  # the one that gave its keys and values last
        self.only_keys = False

    def among(self, rows: Tensor) -> "CacheView":
        """The same pass for some of its rows."""
        view = CacheView(self.cache, self.position_BT, self.reach, rows, self.left_padded)
        view.masks, view.biases = self.masks, self.biases
        return view

    def copy_keys(self, source: "CacheView", layer: int, target: int) -> None:
        """Have a layer hold what another holds in `source`, a view of the same rows, at their own positions."""
        for theirs, ours in zip(source.cache.held(layer), self.cache.held(target), strict=True):
            ours[self.slot_B1, :, self.own_position_BT] = theirs[source.slot_B1, :, source.own_position_BT]

    def hide(self, layer: int) -> None:
        """A layer holds nothing at the rows' own positions."""
        self.cache.hide(layer, self.slot_B1, self.own_position_BT)

    @contextmanager
    def keys_only(self) -> Iterator[None]:
        """Within it a layer is left, by `KeysWritten`, once its keys and values are written."""
        self.only_keys = True
        try:
            yield
        finally:
            self.only_keys = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before this pass, padding included; 0 where there is none, since positions are always passed."""
        return self.reach - self.position_BT.shape[1] if self.left_padded else 0

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """How many keys are handed out, left-padded, and the position of the first."""
        return self.reach, 0

    @cached_property
    def key_position_BS(self) -> Tensor:
        """Positions of left-padded keys: below 0 is padding."""
        last_B1 = self.own_position_BT[:, -1:]
        return torch.arange(self.reach, device=last_B1.device) - (self.reach - 1 - last_B1)

    def attention_mask(self) -> Tensor:
        """(B, S): which of the left-padded keys are not padding."""
        return (self.key_position_BS >= 0).long()

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, D) at each row's own positions; returns all rows' keys and values, or left-padded ones."""
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
        """(B, 1, T, S): which positions a token attends to: those up to its own, within the sliding window.

        Without those that are hidden in the layer that gave its keys last.
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
        """(B·H, T, S): the same as what is added to scores, 0 or -inf."""
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

        `sinks` (H·G,) are scores, one of each head, that share in the softmax and have no value.
        """
        if softcap is None and query.shape[2] == 1:
            hidden_NS = None if self.cache.hidden_LNS is None else self.cache.hidden_LNS[self.layer]
            attended = kernels.attention(
                query, key, value, self.slots, self.own_position_BT, window, scaling, sinks, hidden_NS
            )
            if attended is not None:
                return attended
        if self.rows is not None:  # idle rows attend to nothing of interest: cheaper than a copy of the others' cache
            query = query.new_zeros(key.shape[0], *query.shape[1:]).index_copy_(0, self.rows, query)
        n_rows, n_heads, n_tokens, width = query.shape
        if n_tokens == 1:  # the query heads of one key head are so many queries of it: no key is needed twice
            query = query.reshape(n_rows, key.shape[1], -1, width)
        if softcap is None and sinks is None and (n_tokens > 1 or query.device.type != "cpu"):
            gqa = query.shape[1] > key.shape[1]
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=self.mask(window), scale=scaling, enable_gqa=gqa
            )
        else:
            bias = self.bias(window, key.shape[1], query.dtype)
            if sinks is not None:  # one of each query
                sinks = sinks.repeat_interleave(n_tokens).repeat(n_rows)
            attended = _attend(query, key, value, bias, scaling, softcap, sinks)
        attended = attended.reshape(n_rows, n_heads, n_tokens, -1).transpose(1, 2)
        return attended if self.rows is None else attended[self.rows]


def _attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """By plain products, one per key head and without a copy of the cache; `bias` is (B·H, 1 or T, S)."""
    query, key, value = query.reshape(bias.shape[0], -1, query.shape[-1]), key.mT.flatten(0, 1), value.flatten(0, 1)
    if bias.shape[1] > 1:
        bias = bias.repeat(1, query.shape[1] // bias.shape[1], 1)
    if softcap is None:
        scores = torch.baddbmm(bias, query, key, alpha=scaling)
    else:  # float16 would overflow without the scaling, and has few digits for what comes after the product
        scores = softcap * torch.tanh((query * scaling @ key).float() / softcap) + bias
    if sinks is None:
        return scores.softmax(-1).to(value.dtype) @ value
    sinks = sinks.to(scores.dtype).view(*scores.shape[:2], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1].to(value.dtype) @ value
