"""Keys and values of many rows, written in place at each row's own position.

Shapes: N slots, B rows in a pass (slots 0…B-1, or some of them), H heads, G query heads per key head, T tokens,
S positions in reach, D head width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class KVCache:
    """Preallocated keys and values: one (N, H, S, D) pair a layer, made when the layer is first written."""

    def __init__(self, n_slots: int, length: int):
        self.n_slots, self.length = n_slots, length
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def reserve(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Make room for a layer whose keys and values look like these: (…, H, T, D)."""
        if layer not in self.keys:
            self.keys[layer] = key.new_zeros(self.n_slots, key.shape[-3], self.length, key.shape[-1])
            self.values[layer] = value.new_zeros(self.n_slots, value.shape[-3], self.length, value.shape[-1])

    @torch.inference_mode()
    def copy_slot(self, source: int, target: int, n_tokens: int) -> None:
        """Move a row: what `source` holds of its first positions goes to `target`."""
        for buffers in (self.keys, self.values):
            for buffer in buffers.values():
                buffer[target, :, :n_tokens] = buffer[source, :, :n_tokens]

    def load(self, slots: Sequence[int], prefix: "KVCache", layers: Sequence[int], n_tokens: int) -> None:
        """Start rows from the one row of `prefix`."""
        for layer in layers:
            self.reserve(layer, prefix.keys[layer], prefix.values[layer])
            self.keys[layer][slots, :, :n_tokens] = prefix.keys[layer][0, :, :n_tokens]
            self.values[layer][slots, :, :n_tokens] = prefix.values[layer][0, :, :n_tokens]


class KeysWritten(Exception):
    """Leaves a layer as soon as it has written its keys and values."""


class CacheView:
    """One pass over rows of a cache: takes the layers' keys and values, and attends for them.

    `position_BT` holds every row's positions; `rows` the slots that take part, None for all B of them; `reach` a
    bound above every position. With `keys_only`, a layer is left once its keys and values are written.
    """

    is_compileable = False

    def __init__(
        self, cache: KVCache, position_BT: Tensor, reach: int, rows: Tensor | None = None, keys_only: bool = False
    ):
        self.cache, self.position_BT, self.reach = cache, position_BT, reach
        self.rows, self.keys_only = rows, keys_only
        self.slots = torch.arange(position_BT.shape[0], device=position_BT.device) if rows is None else rows
        self.masks: dict[int | None, Tensor] = {}
        self.layers_seen: set[int] = set()

    def among(self, rows: Tensor, keys_only: bool = False) -> "CacheView":
        """The same pass for some of its rows."""
        view = CacheView(self.cache, self.position_BT, self.reach, rows, keys_only)
        view.masks = self.masks
        return view

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are always passed

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, D) at each row's own positions; returns all rows' keys and values in reach."""
        cache = self.cache
        self.layers_seen.add(layer_idx)
        cache.reserve(layer_idx, key, value)
        keys, values = cache.keys[layer_idx], cache.values[layer_idx]
        position_BT = self.position_BT if self.rows is None else self.position_BT[self.rows]
        keys[self.slots[:, None], :, position_BT] = key.transpose(1, 2)
        values[self.slots[:, None], :, position_BT] = value.transpose(1, 2)
        if self.keys_only:
            raise KeysWritten
        n_rows = self.position_BT.shape[0]
        return keys[:n_rows, :, : self.reach], values[:n_rows, :, : self.reach]

    def mask(self, window: int | None) -> Tensor:
        """(B, 1, T, S): which positions a token attends to: those up to its own, within the sliding window."""
        if window not in self.masks:
            key_S = torch.arange(self.reach, device=self.position_BT.device)
            mask_BTS = key_S <= self.position_BT[..., None]
            if window is not None:
                mask_BTS &= key_S > self.position_BT[..., None] - window
            self.masks[window] = mask_BTS[:, None]
        return self.masks[window]

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """Attention of the rows' queries (B, H·G, T, D) over their own positions; returns (B, T, H·G, D)."""
        if self.rows is not None:  # idle rows attend to nothing of interest: cheaper than a copy of the others' cache
            query = query.new_zeros(key.shape[0], *query.shape[1:]).index_copy_(0, self.rows, query)
        if query.shape[2] == 1:
            attended = _attend_one(query, key, value, self.mask(window), scaling, softcap)
        else:
            attended = _attend(query, key, value, self.mask(window), scaling, softcap)
        attended = attended.transpose(1, 2)
        return attended if self.rows is None else attended[self.rows]


def _attend_one(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float | None
) -> Tensor:
    """A single token's query heads share its mask, so those of one key head go as G queries of it."""
    n_rows, n_query_heads, _, width = query.shape
    grouped = query.view(n_rows, key.shape[1], -1, width)
    attended = _attend(grouped, key, value, mask, scaling, softcap)
    return attended.reshape(n_rows, n_query_heads, 1, -1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float | None) -> Tensor:
    if softcap is None:
        gqa = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=gqa)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * scaling / softcap)
    return scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32).to(value.dtype) @ value
