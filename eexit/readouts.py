"""Readouts: how the residual stream after a layer becomes logits.

A readout is one entry of `READOUTS`. It prepares the input of the model's own head, which applies scaling and soft-cap.
The final layer is always read as the model itself reads it. This module does not import torch.

Shapes: B rows, W width of the residual stream, H width of what the head takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from eexit.anatomy import Decoder


class Readout(Protocol):
    @property
    def definition(self) -> str:
        """What the readout does, in words, with its source."""

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        """The input of the head, (B, H), for residual streams after `layer`."""


class Lens:
    definition = "the model's own final norm and head (the logit lens, nostalgebraist 2020)"

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        return decoder.normed(hidden_BW)


class Raw:
    definition = "the model's own head without the norm before it"

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        return decoder.unnormed(hidden_BW)


READOUTS: Final[dict[str, Readout]] = {"lens": Lens(), "raw": Raw()}
