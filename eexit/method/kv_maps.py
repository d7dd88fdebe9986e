"""KV maps: linear maps from the hidden state at an exit to the keys and values of a skipped layer.

For a token that exited after layer e, the input of a skipped layer l ≥ e + 2 is unknown. The map fitted for e and l
replaces it, in one of two forms:

    streams    layer l makes keys and values of h + map(h)
    keys       maps replace the layer's projections to keys and to values; its norms and rotary angles stay

The input of layer e + 1 is the hidden state at the exit, and needs no map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from torch import Tensor

from eexit.cpu.token_subset import TokenSubset
from eexit.method.linear_map import LinearMap, map_tensors
from eexit.model.layers import Decoder

STREAMS: Final = "streams"
KEYS: Final = "keys"
FORMS: Final = {STREAMS: ("",), KEYS: (".key", ".value")}  # with the endings of the names of a pair's maps


@dataclass(frozen=True, eq=False)
class KVMaps:
    """KV maps of one form, by exit layer and skipped layer: one map to hidden states, or two to keys and values."""

    form: str  # one of FORMS
    of_layers: Mapping[tuple[int, int], tuple[LinearMap, ...]]

    def to_decoder_devices(self, decoder: Decoder) -> "KVMaps":
        """Return the maps, each on the device of its skipped layer."""
        pairs, devices = self.of_layers.items(), decoder.devices
        return KVMaps(self.form, {pair: tuple(each.to(devices[pair[1]]) for each in maps) for pair, maps in pairs})

    @property
    def makes_keys(self) -> bool:
        """True if the maps make keys and values, not hidden states."""
        return self.form == KEYS

    @cached_property
    def first_layer(self) -> int:
        """The first skipped layer with a map."""
        return min(layer for _, layer in self.of_layers)

    def apply(self, exit_layer_N: Tensor, input_NF: Tensor, layer: int) -> Sequence[Tensor]:
        """Return the hidden states (N, D) that enter a skipped layer, or its keys and values (N, n) each.

        `input_NF` are the hidden states at the exits, which have maps to `layer`, or the projections' inputs for them.
        """
        by_exit = {at: self.of_layers[at, layer] for at in range(layer - 1) if (at, layer) in self.of_layers}
        outputs = [input_NF.new_empty(len(input_NF), each.weight.shape[1]) for each in next(iter(by_exit.values()))]
        for exit_layer, maps in by_exit.items():
            if (tokens := TokenSubset.from_flag(exit_layer_N == exit_layer)).has_tokens():
                for output, each in zip(outputs, maps, strict=True):
                    input_MF = input_NF[tokens.index]
                    mapped = each(input_MF)
                    tokens.put(output, mapped if self.makes_keys else input_MF + mapped)
        return outputs

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], exits: Sequence[int], n_layers: int) -> "KVMaps":
        """Return the maps of these exit layers from the tensors of an artefact."""
        form = KEYS if any(".key." in name for name in tensors) else STREAMS
        pairs = [(exit_layer, layer) for exit_layer in exits for layer in range(exit_layer + 2, n_layers)]
        maps = {pair: tuple(LinearMap.from_tensors(tensors, name) for name in names(form, *pair)) for pair in pairs}
        return cls(form, maps)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors from which `from_tensors` restores the maps."""
        named = [zip(names(self.form, *pair), maps, strict=True) for pair, maps in self.of_layers.items()]
        return map_tensors({name: each for pairs in named for name, each in pairs})


def names(form: str, exit_layer: int, layer: int) -> list[str]:
    """Return the names of the maps from an exit layer to a skipped layer, such as `state.5.7`."""
    return [f"state.{exit_layer}.{layer}{ending}" for ending in FORMS[form]]
