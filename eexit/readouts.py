"""Readouts: how the residual stream after a layer becomes logits.

A readout is one entry of `READOUTS`. It gives what goes into the model's head; the head itself, with scaling and
soft-cap, is the model's own, and so is all of it at the final layer. This module needs no torch.

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
        """What it does, in words, with its source."""

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        """What goes into the head for residual streams as they are after `layer`, (B, H)."""


class Lens:
    definition = "the model's own final norm and head (the logit lens, nostalgebraist 2020)"

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        return decoder.normed(hidden_BW)


class Raw:
    definition = "the model's own head without the norm before it"

    def before_head(self, decoder: Decoder, hidden_BW: Tensor, layer: int) -> Tensor:
        return decoder.unnormed(hidden_BW)


READOUTS: Final[dict[str, Readout]] = {"lens": Lens(), "raw": Raw()}
