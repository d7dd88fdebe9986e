"""Probes: what a layer's residual stream says about how far the layer is from the final one.

A probe predicts log KL(final ‖ layer), so that rule `predicted_kl` can decide without the final layer. It is never
certain: there are many KLs that a token may have. A calibrated probe predicts the KL at which rule `kl` would stop with
the mean of its chances at all of these. This KL depends on the KL factor: the larger the factor, the more the smallest
of them count. So it is KL · k^power at KL factor k, where the power is between −1, of a probe that knows nothing, and
0, of one that knows the KL.

Shapes: B rows, W width of the residual stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

LOG_KL_RANGE: Final = (-30.0, 30.0)  # beyond what KLs are: streams unlike those of training must not give infinite ones
LEAST_KL_FACTOR: Final = 1e-6  # below, a probe's KL no longer grows, so that k · KL is 0 at k = 0


@dataclass(frozen=True, eq=False)
class LayerProbe:
    """One layer's, linear in the standardised stream."""

    mean: Tensor  # (W,)
    std: Tensor  # (W,)
    weight: Tensor  # (W,)
    bias: Tensor  # ()
    power: Tensor | None = None  # (), of the KL factor; None: 0

    def log_kl(self, hidden_BW: Tensor) -> Tensor:
        """The predicted log KL at KL factor 1, (B,), nats; in the precision of the probe."""
        seen = (hidden_BW.to(self.mean.dtype) - self.mean) / self.std
        return seen @ self.weight + self.bias

    def log_kl_at(self, hidden_BW: Tensor, kl_factor_B: Tensor) -> Tensor:
        """The predicted log KL at these KL factors, (B,), nats."""
        log_kl_B = self.log_kl(hidden_BW)
        if self.power is None:
            return log_kl_B
        return log_kl_B + self.power * kl_factor_B.to(log_kl_B.dtype).clamp_min(LEAST_KL_FACTOR).log()

    def calibrated(self, scale: float, shift: float, power: float) -> "LayerProbe":
        """This one with scale · log KL + shift + power · log k in place of log KL, at each KL factor k."""
        exponent = torch.tensor(power, dtype=self.weight.dtype, device=self.weight.device)
        return replace(self, weight=self.weight * scale, bias=self.bias * scale + shift, power=exponent)


@dataclass(frozen=True, eq=False)
class Probe:
    """A probe for each exitable layer."""

    of_layer: Mapping[int, LayerProbe]

    def predicted_kl(self, hidden_BW: Tensor, layer: int, kl_factor_B: Tensor) -> Tensor:
        """KL(final ‖ layer) as predicted from the residual stream after the layer at KL factors, (B,), nats, fp32."""
        return self.of_layer[layer].log_kl_at(hidden_BW, kl_factor_B).clamp(*LOG_KL_RANGE).exp()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], layers: Sequence[int]) -> "Probe":
        """The probes of these layers, from the tensors of `artefacts.WEIGHTS`: `probe.5.weight` and so on."""
        names = [field.name for field in fields(LayerProbe)]
        parts = {layer: {name: tensors.get(f"probe.{layer}.{name}") for name in names} for layer in layers}
        held = {
            layer: {name: part for name, part in by_name.items() if part is not None}
            for layer, by_name in parts.items()
        }
        return cls({layer: LayerProbe(**by_name) for layer, by_name in held.items()})

    def tensors(self) -> dict[str, Tensor]:
        """What `of` takes."""
        named = {
            f"probe.{layer}.{name}": part
            for layer, probe in self.of_layer.items()
            for name, part in vars(probe).items()
        }
        return {name: part for name, part in named.items() if part is not None}
