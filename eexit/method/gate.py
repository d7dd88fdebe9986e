"""Gates: how likely a rule is to exit at a layer, from the residual stream alone, so that few layers need be read.

A read of the head can cost as much as several layers, a gate one product with a vector. Only where its chance is at
least the configuration's threshold is the layer read; what it passes over does not exit.

Shapes: B rows, R rules, W width of the residual stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eexit.method.affine import affine


@dataclass(frozen=True, eq=False)
class LayerGate:
    """One layer's log-odds of an exit, linear in the stream; in fp32."""

    weight: Tensor  # (W, R)
    bias: Tensor  # (R,)


@dataclass(frozen=True, eq=False)
class Gate:
    """The gates of these rules, by their keys such as `confidence/0.97`, at each exitable layer."""

    rules: tuple[str, ...]
    of_layer: Mapping[int, LayerGate]

    def chance(self, hidden_BW: Tensor, layer: int, rule: str) -> Tensor:
        """How likely this rule is to exit at the layer, (B,), from the residual streams after it."""
        held, index = self.of_layer[layer], self.rules.index(rule)
        log_odds_B1 = affine(hidden_BW, held.weight[:, index : index + 1], held.bias[index : index + 1])
        return log_odds_B1[:, 0].sigmoid()

    @classmethod
    def of(cls, rules: Sequence[str], tensors: Mapping[str, Tensor], layers: Sequence[int]) -> "Gate":
        """From the tensors of `artefacts.WEIGHTS`: `gate.5.weight` and so on."""
        return cls(
            tuple(rules),
            {layer: LayerGate(tensors[f"gate.{layer}.weight"], tensors[f"gate.{layer}.bias"]) for layer in layers},
        )

    def tensors(self) -> dict[str, Tensor]:
        """What `of` takes."""
        return {
            f"gate.{layer}.{name}": getattr(held, name)
            for layer, held in self.of_layer.items()
            for name in ("weight", "bias")
        }

    def to(self, device: torch.device) -> "Gate":
        """The gate with its weights on a device."""
        moved = {
            layer: LayerGate(held.weight.to(device), held.bias.to(device)) for layer, held in self.of_layer.items()
        }
        return Gate(self.rules, moved)
