"""Linear maps fitted to a model: how they compute, where they are, and how an artefact stores them.

Readouts, probes, gates and KV maps are such maps. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing import Self

    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearMap:
    """x · weight + bias, computed in float32 whatever the model's dtype."""

    weight: Tensor  # (n, m)
    bias: Tensor  # (m,)

    def __call__(self, input: Tensor) -> Tensor:
        return self.product(input).to(input.dtype)

    def product(self, input: Tensor) -> Tensor:
        """Return the result in the map's dtype; a call returns it in the input's."""
        return input.to(self.bias.dtype) @ self.weight + self.bias

    def to(self, device: torch.device) -> LinearMap:
        """Return the map in float32 on a device."""
        return LinearMap(self.weight.float().to(device), self.bias.float().to(device))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], name: str) -> LinearMap:
        """Return the map that an artefact stores by this name."""
        return cls(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def map_tensors(maps: Mapping[str, LinearMap]) -> dict[str, Tensor]:
    """Return named linear maps as tensors by name, as an artefact stores them."""
    return {f"{name}.{part}": tensor for name, each in maps.items() for part, tensor in vars(each).items()}


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """A linear map for each exitable layer, which an artefact stores as `gate.5.weight`, `gate.5.bias` and so on."""

    maps: Mapping[int, LinearMap]
    role: ClassVar[str]  # the beginning of the names

    def to(self, device: torch.device) -> Self:
        """Return the maps on a device."""
        return replace(self, maps={layer: each.to(device) for layer, each in self.maps.items()})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **more: Any) -> Self:
        """Return the maps of these layers from the tensors of an artefact."""
        return cls({layer: LinearMap.from_tensors(tensors, f"{cls.role}.{layer}") for layer in layers}, **more)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors from which `from_tensors` restores the map."""
        return map_tensors({f"{self.role}.{layer}": each for layer, each in self.maps.items()})


def has_float64(device: torch.device) -> bool:
    """Return True if tensors there can be float64, as they can't on Apple's GPUs."""
    return device.type != "mps"


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU if its own device has no float64."""
    return (tensor if has_float64(tensor.device) else tensor.cpu()).double()
