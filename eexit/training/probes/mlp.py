"""The MLPs of a probe, one per exitable layer, side by side.

Shapes: N tokens, E exitable layers, W width of the residual stream, M hidden units.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eexit.method.probes import LayerProbe

HIDDEN: Final = 128
DROPPED: Final = 0.3  # of inputs and hidden units while learning


class LayerMLPs(nn.Module):
    """Predict a number per layer from the layer's stream: standardised, one hidden layer of GELUs, and back."""

    mean_EW: Tensor
    std_EW: Tensor
    target_mean_E: Tensor
    target_std_E: Tensor

    def __init__(self, n_layers: int, width: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.hidden_weight_EWM = nn.Parameter(torch.randn(n_layers, width, HIDDEN, generator=generator) / width**0.5)
        self.hidden_bias_EM = nn.Parameter(torch.zeros(n_layers, HIDDEN))
        self.weight_EM = nn.Parameter(torch.randn(n_layers, HIDDEN, generator=generator) / HIDDEN**0.5)
        self.bias_E = nn.Parameter(torch.zeros(n_layers))
        for name, shape in (("mean_EW", (n_layers, width)), ("target_mean_E", (n_layers,))):
            self.register_buffer(name, torch.zeros(shape))
            self.register_buffer(name.replace("mean", "std"), torch.ones(shape))

    @torch.no_grad()
    def standardise(self, mean_EW: Tensor, std_EW: Tensor, target_mean_E: Tensor, target_std_E: Tensor) -> None:
        """Learn from streams and targets with these means and standard deviations."""
        for name, value in list(locals().items()):
            if name != "self":
                getattr(self, name).copy_(value)

    def forward(self, stream_NEW: Tensor, dropping: torch.Generator | None = None) -> Tensor:
        """Standardised predictions, (N, E). To learn, inputs and hidden units are dropped by draws from `dropping`."""
        seen_ENW = _dropped(((stream_NEW.float() - self.mean_EW) / self.std_EW).transpose(0, 1), dropping)
        hidden_ENM = F.gelu(torch.baddbmm(self.hidden_bias_EM[:, None], seen_ENW, self.hidden_weight_EWM))
        hidden_ENM = _dropped(hidden_ENM, dropping)
        return (hidden_ENM * self.weight_EM[:, None]).sum(-1).mT + self.bias_E

    def standardised(self, target_NE: Tensor) -> Tensor:
        return (target_NE - self.target_mean_E) / self.target_std_E

    def layer_probe(self, rank: int) -> LayerProbe:
        """One layer's, which predicts the target itself."""
        std = self.target_std_E[rank]
        return LayerProbe(
            mean=self.mean_EW[rank],
            std=self.std_EW[rank],
            weight=self.weight_EM[rank].detach() * std,
            bias=self.bias_E[rank].detach() * std + self.target_mean_E[rank],
            hidden_weight=self.hidden_weight_EWM[rank].detach(),
            hidden_bias=self.hidden_bias_EM[rank].detach(),
        )


def _dropped(value: Tensor, dropping: torch.Generator | None) -> Tensor:
    """Dropout (Srivastava et al. 2014), with draws that are passed in so that a training goes on with the same ones."""
    if dropping is None:
        return value
    kept = torch.rand(value.shape, generator=dropping, device=dropping.device) >= DROPPED
    return value * kept.to(value.device) / (1 - DROPPED)
