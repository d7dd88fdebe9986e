"""Readouts: how the residual stream after a layer becomes logits.

A readout is one entry of `READOUTS` or, if it is trained, a `LinearReadout`. It prepares the input of the model's own
head, which applies scaling and soft-cap. The final layer is always read as the model itself reads it. This module does
not import torch.

Shapes: B rows, W width of the residual stream, H width of what the head takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from eexit.method.affine import affine

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from eexit.model.layers import Decoder


class Readout(Protocol):
    @property
    def definition(self) -> str:
        """What the readout does, in words, with its source."""

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        """The input of the head, (B, H), for residual streams after `layer`."""


class LogitLens:
    definition = "the model's own final norm and head (the logit lens, nostalgebraist 2020)"

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        return decoder.head_input(hidden_BW)


class RawReadout:
    definition = "the model's own head without the norm before it"

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        return decoder.head_input_without_norm(hidden_BW)


Affine = tuple["Tensor", "Tensor"]  # the weight (n, m) and the bias (m,) of h·weight + bias, fp32


@dataclass(frozen=True, eq=False)
class LinearReadout:
    """Fitted in closed form: from what the head would get of a layer to what it gets of the final one."""

    of_layer: Mapping[int, Affine]  # (H, H), (H,)
    definition = (
        "the model's own final norm, a linear map that was fitted for the layer (Yom Din et al. 2023), and head"
    )

    @classmethod
    def placed(cls, of_layer: Mapping[int, Affine], device: torch.device) -> LinearReadout:
        """These maps in fp32 on a device."""
        return cls(
            {layer: (weight.float().to(device), bias.float().to(device)) for layer, (weight, bias) in of_layer.items()}
        )

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        ready_BH = decoder.head_input(hidden_BW)
        return affine(ready_BH, *self.of_layer[layer]).to(ready_BH.dtype)


READOUTS: Final[dict[str, Readout]] = {"lens": LogitLens(), "raw": RawReadout()}
