"""Keys and values of many rows, written in place at each row's own position.

Shapes: N slots, B rows, L layers, H key heads, T tokens, S positions that there is room for, D head width.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

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
        self._stack_of: dict[int, tuple[Stack, int]] = {}  # layer → its stack and its index there
        self._parts: dict[torch.device, KVCache] = {}  # of a model over several devices; then nothing is held here

    @property
    def n_bytes(self) -> int:
        parts = sum(part.n_bytes for part in self._parts.values())
        return parts + sum(stack.keys.nbytes + stack.values.nbytes for stack in self._stacks)

    def on(self, device: torch.device) -> "KVCache":
        """The part for layers on one of several devices."""
        if device not in self._parts:
            self._parts[device] = KVCache(self.n_slots, self.length)
        return self._parts[device]

    def part_of(self, layer: int) -> "KVCache":
        """The part that holds a layer."""
        return next((part for part in self._parts.values() if layer in part._stack_of), self)

    def layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, (N, H, S, D) each; allocated to fit these (…, H, T, D) if it has none yet."""
        if layer not in self._stack_of:
            self._add([layer], key, value)
        return self.held(layer)

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values, (N, H, S, D) each, of a layer that has some."""
        stack, index = self._stack_of[layer]
        return stack.keys[index, :, :, : self.capacity], stack.values[index, :, :, : self.capacity]

    def _add(self, layers: Sequence[int], key: Tensor, value: Tensor) -> None:
        shape = (len(layers), self.n_slots, key.shape[-3], self._room(key))
        stack = Stack(layers, key.new_zeros(*shape, key.shape[-1]), value.new_zeros(*shape, value.shape[-1]))
        self._stacks.append(stack)
        self._stack_of |= {layer: (stack, index) for index, layer in enumerate(layers)}

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
        for device, part in self._parts.items():
            part.copy_slots(sources.to(device), targets.to(device))

    @torch.inference_mode()
    def load(self, slots: slice, source: "KVCache", layers: Sequence[int], n_tokens: int) -> None:
        """Start rows with the keys and values of the one row of `source`.

        Everything that earlier rows left in these slots is overwritten, since it may be NaN.
        """
        for device, part in source._parts.items():
            self.on(device).load(slots, part, layers, n_tokens)
        if not self._stacks:
            self._add_like(source, layers)
        self.reserve(n_tokens)
        if self.hidden_LNS is not None:
            self.hidden_LNS[:, slots] = False
        for stack in self._stacks:
            source_stacks = [source._stack_of[layer][0] for layer in stack.layers]
            for buffer, start in (
                (stack.keys, torch.cat([source_stack.keys for source_stack in source_stacks])),
                (stack.values, torch.cat([source_stack.values for source_stack in source_stacks])),
            ):
                buffer[:, slots, :, :n_tokens] = start[:, :, :, :n_tokens]
                buffer[:, slots, :, n_tokens:] = 0

    @torch.inference_mode()
    def hide(self, layer: int, slot_B: Tensor, position_B: Tensor) -> None:
        """Hide these positions in a layer: later tokens do not attend to them there."""
        if self.hidden_LNS is None:
            n_layers = max(self._stack_of) + 1
            self.hidden_LNS = slot_B.new_zeros(n_layers, self.n_slots, self.length, dtype=torch.bool)
        self.hidden_LNS[layer, slot_B, position_B] = True

    @torch.inference_mode()
    def unhide(self, slot_B: Tensor) -> None:
        """Hide nothing in these slots any more."""
        if self.hidden_LNS is not None:
            self.hidden_LNS[:, slot_B] = False
        for device, part in self._parts.items():
            part.unhide(slot_B.to(device))

    def _add_like(self, source: "KVCache", layers: Sequence[int]) -> None:
        """Allocate stacks of layers of the same shapes, for those of the layers that `source` has."""
        layers = [layer for layer in layers if layer in source._stack_of]
        by_shape: dict[tuple[torch.Size, torch.Size], list[int]] = {}
        for layer in layers:
            stack, _ = source._stack_of[layer]
            by_shape.setdefault((stack.keys.shape, stack.values.shape), []).append(layer)
        size = -(-len(layers) // N_STACKS)
        for alike in by_shape.values():
            stack, _ = source._stack_of[alike[0]]
            for start in range(0, len(alike), size):
                self._add(alike[start : start + size], stack.keys[0], stack.values[0])
