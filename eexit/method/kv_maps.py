"""State maps: a token's keys and values past its exit, by linear maps of its residual stream there.

A token that exited after layer e lacks the stream that would have entered a deeper layer l ≥ e + 2, of which that layer
makes keys and values. What was fitted for e and l takes its place, in one of two forms:

    streams    the stream that enters layer l is h + map(h); the layer makes keys and values of it, as of any
    keys       in place of the layer's projections to keys and to values are maps; its norms and rotary angles stay

The stream that enters layer e + 1 is that at the exit, and needs no map.

Shapes: B tokens, W width of the residual stream, n and m widths of what a map takes and gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from eexit.cpu.selection import Selection
from eexit.method.affine import affine
from eexit.model.layers import Decoder

STREAMS: Final = "streams"
KEYS: Final = "keys"
FORMS: Final = {STREAMS: ("",), KEYS: (".key", ".value")}  # and how the names of its maps end


@dataclass(frozen=True, eq=False)
class LinearMap:
    """x · weight + bias in float32, in the dtype of x."""

    weight: Tensor  # (n, m)
    bias: Tensor  # (m,)

    def __call__(self, given: Tensor) -> Tensor:
        return affine(given, self.weight, self.bias).to(given.dtype)

    def to(self, device: torch.device) -> "LinearMap":
        return LinearMap(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True, eq=False)
class KVMaps:
    """The maps of one form, by exit layer and deeper layer: one of the stream, or those to keys and to values."""

    form: str  # one of FORMS
    of_layers: Mapping[tuple[int, int], tuple[LinearMap, ...]]

    def to_decoder_devices(self, decoder: Decoder) -> "KVMaps":
        """The maps on the devices where the decoder uses them: where their layer is."""
        moved = {
            (exit_layer, layer): tuple(each.to(decoder.devices[layer]) for each in maps)
            for (exit_layer, layer), maps in self.of_layers.items()
        }
        return KVMaps(self.form, moved)

    @property
    def are_of_keys(self) -> bool:
        """True if they make keys and values, not hidden states."""
        return self.form == KEYS

    @cached_property
    def first_layer(self) -> int:
        """The first layer that an exit has a map to."""
        return min(layer for _, layer in self.of_layers)

    def apply(self, exit_layer_N: Tensor, stream_NW: Tensor, layer: int, given_NW: Tensor | None) -> Sequence[Tensor]:
        """Return what enters a skipped layer for tokens with these exit layers, (N,), and hidden states there: (N, W).

        Or its keys and values, (N, n) each, made of the input of the layer's projections. Each of these exits has a map
        to the layer.
        """
        by_exit = {at: self.of_layers[at, layer] for at in range(layer - 1) if (at, layer) in self.of_layers}
        given_NW = stream_NW if given_NW is None else given_NW
        made = [given_NW.new_empty(len(given_NW), each.weight.shape[1]) for each in next(iter(by_exit.values()))]
        for exit_layer, maps in by_exit.items():
            if (tokens := Selection.from_flag(exit_layer_N == exit_layer)).has_tokens():
                for made_NM, each in zip(made, maps, strict=True):
                    mapped_NM = each(given_NW[tokens.index])
                    tokens.put(made_NM, mapped_NM if self.are_of_keys else given_NW[tokens.index] + mapped_NM)
        return made

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], exits: Sequence[int], n_layers: int) -> "KVMaps":
        """Those of these exit layers, from the tensors of `artefacts.WEIGHTS`: `state.5.7.weight` and so on."""
        form = KEYS if any(".key." in name for name in tensors) else STREAMS
        of_layers = {
            (exit_layer, layer): tuple(
                LinearMap(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names(form, exit_layer, layer)
            )
            for exit_layer in exits
            for layer in range(exit_layer + 2, n_layers)
        }
        return cls(form, of_layers)

    def tensors(self) -> dict[str, Tensor]:
        """What `of` takes."""
        named = {
            name: each
            for layers, maps in self.of_layers.items()
            for name, each in zip(names(self.form, *layers), maps, strict=True)
        }
        return {f"{name}.{part}": tensor for name, each in named.items() for part, tensor in vars(each).items()}


def names(form: str, exit_layer: int, layer: int) -> list[str]:
    """The names of the maps from an exit layer to a deeper one, such as `state.5.7`."""
    return [f"state.{exit_layer}.{layer}{ending}" for ending in FORMS[form]]
