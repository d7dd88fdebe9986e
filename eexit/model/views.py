"""A pass over rows of a cache: it stores the layers' keys and values, and computes their attention.

Shapes: B rows in a pass, N tokens in a pass in which each stands by itself, H key heads, G query heads per key head,
T tokens of a row, S positions that the cache has room for, D head width.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from eexit.cpu import kernels
from eexit.cpu.kernels import AttentionOptions
from eexit.model.cache import KVCache


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
        self.n_slots = position_BT.shape[0]  # the slots that attention may read
        self.own_position_BT = position_BT if rows is None else position_BT[rows]
        self.masks: dict[tuple[int | None, int | None], Tensor] = {}
        self.biases: dict[tuple[int | None, int | None, int], Tensor] = {}
        self.layer = -1  # the last layer that wrote its keys and values
        self.only_keys = False
        self._copies: dict[torch.device, CacheView] = {}

    def to(self, device: torch.device) -> "CacheView":
        """The pass as layers on one of several devices see it, with their part of the cache; the same each time."""
        if device not in self._copies:
            view = copy.copy(self)
            view.cache, view.masks, view.biases, view._copies = self.cache.on(device), {}, {}, {}
            view.cache.reserve(self.reach)
            view.position_BT, view.slots = self.position_BT.to(device), self.slots.to(device)
            view.slot_B1, view.rows = view.slots[:, None], None if self.rows is None else view.slots
            view.own_position_BT = view.position_BT if view.rows is None else view.position_BT[view.rows]
            self._copies[device] = view
        return self._copies[device]

    def among(self, rows: Tensor) -> "CacheView":
        """The pass over some of its rows alone."""
        view = CacheView(self.cache, self.position_BT, self.reach, rows, self.left_padded)
        view.masks, view.biases = self.masks, self.biases
        return view

    def copy_keys(self, source: "CacheView", layer: int, target: int) -> None:
        """Copy the rows' own positions from layer `layer` of `source`, a view of the same rows, to layer `target`."""
        for source_part, target_part in zip(source.cache.held(layer), self.cache.held(target), strict=True):
            own = source_part[source.slot_B1, :, source.own_position_BT]
            target_part[self.slot_B1, :, self.own_position_BT] = own.to(target_part.device)

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
        return keys[: self.n_slots], values[: self.n_slots]

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
    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """Attention of the rows' queries (B, H·G, T, D) over their own positions; returns (B, T, H·G, D)."""
        if query.shape[2] == 1:
            hidden_NS = None if self.cache.hidden_LNS is None else self.cache.hidden_LNS[self.layer]
            attended = kernels.attention(query, key, value, self.slots, self.own_position_BT, options, hidden_NS)
            if attended is not None:
                return attended
        return self._attend(query, key, value, options)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """Attention by torch's operators, where our kernel is not for these tensors."""
        if self.rows is not None:  # attending for all rows is cheaper than copying the cache of some
            query = query.new_zeros(key.shape[0], *query.shape[1:]).index_copy_(0, self.rows, query)
        n_rows, n_heads, n_tokens, width = query.shape
        if n_tokens == 1:  # the query heads of a key head become its queries, so that no key is repeated
            query = query.reshape(n_rows, key.shape[1], -1, width)
        is_plain = options.softcap is None and options.sinks is None
        if is_plain and (n_tokens > 1 or query.device.type != "cpu"):
            gqa, mask = query.shape[1] > key.shape[1], self.mask(options.window)
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=options.scaling, enable_gqa=gqa
            )
        else:
            bias = self.bias(options.window, key.shape[1], query.dtype)
            if options.sinks is not None:  # one per query
                options = replace(options, sinks=options.sinks.repeat_interleave(n_tokens).repeat(n_rows))
            attended = _product_attention(query, key, value, bias, options)
        attended = attended.reshape(n_rows, n_heads, n_tokens, -1).transpose(1, 2)
        return attended if self.rows is None else attended[self.rows]


class TokensView(CacheView):
    """A pass over tokens, each of which stands by itself: several may be of one row, with keys and values in one slot.

    `slot_N` are the tokens' slots, and `position_N1` their positions. All keys and values of a layer are written before
    any token attends, so that tokens of a row attend to one another as in a pass over whole rows.
    """

    def __init__(self, cache: KVCache, slot_N: Tensor, position_N1: Tensor, reach: int, left_padded: bool = False):
        super().__init__(cache, position_N1, reach, None, left_padded)
        self.slots, self.slot_B1, self.n_slots = slot_N, slot_N[:, None], cache.n_slots
        self.most_of_row: list[int] = []  # tokens, once it is known, on whichever device it was asked for

    def among(self, rows: Tensor) -> "TokensView":
        """The pass over some of its tokens alone."""
        return TokensView(self.cache, self.slots[rows], self.position_BT[rows], self.reach, self.left_padded)

    @cached_property
    def index_in_row_N(self) -> Tensor:
        """The index of each token among those of its row."""
        order_N = self.slots.argsort(stable=True)
        return order_N.argsort() - torch.searchsorted(self.slots[order_N], self.slots)

    @cached_property
    def by_row(self) -> CacheView:
        """The pass over whole rows, as many tokens each as the row with the most: the others are padded."""
        if not self.most_of_row:
            self.most_of_row.append(int(self.index_in_row_N.max()) + 1)
        position_BT = self.slots.new_zeros(self.n_slots, self.most_of_row[0])
        position_BT[self.slots, self.index_in_row_N] = self.position_BT[:, 0]
        return CacheView(self.cache, position_BT, self.reach)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        rows, at = self.by_row, (self.slots, self.index_in_row_N)
        query_BTHD = query.new_zeros(*rows.position_BT.shape, *query.shape[1::2])
        query_BTHD[at] = query[:, :, 0]
        rows.layer = self.layer
        attended = rows._attend(query_BTHD.transpose(1, 2), key, value, options)
        return attended[at][:, None]


def _product_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, options: AttentionOptions) -> Tensor:
    """Attention by plain batched products, without a copy of the cache; `bias` is (B·H, 1 or T, S)."""
    query, key, value = query.reshape(bias.shape[0], -1, query.shape[-1]), key.mT.flatten(0, 1), value.flatten(0, 1)
    if bias.shape[1] > 1:
        bias = bias.repeat(1, query.shape[1] // bias.shape[1], 1)
    softcap = options.softcap
    if softcap is None:
        scores = torch.baddbmm(bias, query, key, alpha=options.scaling)
    else:  # scaled before the product, so that float16 does not overflow, and fp32 after it, for precision
        scores = softcap * torch.tanh((query * options.scaling @ key).float() / softcap) + bias
    if options.sinks is None:
        return scores.softmax(-1).to(value.dtype) @ value
    sinks = options.sinks.to(scores.dtype).view(*scores.shape[:2], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1].to(value.dtype) @ value
