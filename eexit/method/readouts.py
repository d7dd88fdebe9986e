"""Readouts: how the hidden state after a layer becomes the input of the LM head.

A readout is an entry of `READOUTS` or, if it is trained, a `LinearReadout`. The head itself applies the model's scaling
and soft-cap. The final layer is always read as the model reads it. This module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from eexit.method.linear_map import LayerMaps

if TYPE_CHECKING:
    from torch import Tensor

    from eexit.model.layers import Decoder


class Readout(Protocol):
    """Interface of a readout."""

    @property
    def definition(self) -> str:
        """The readout in words, with its source."""

    def before_head(self, decoder: Decoder, hidden_ND: Tensor, layer: int) -> Tensor:
        """Return the head input, (N, F), for hidden states after a layer."""


class LogitLens:
    """Readout by the model's own norm and head."""

    definition = "the model's own final norm and head (the logit lens, nostalgebraist 2020)"

    def before_head(self, decoder: Decoder, hidden_ND: Tensor, layer: int) -> Tensor:
        return decoder.head_input(hidden_ND)


class RawReadout:
    """Readout by the model's own head alone."""

    definition = "the model's own head without the norm before it"

    def before_head(self, decoder: Decoder, hidden_ND: Tensor, layer: int) -> Tensor:
        return decoder.head_input(hidden_ND, with_norm=False)


@dataclass(frozen=True, eq=False)
class LinearReadout(LayerMaps):
    """Readout by maps (F, F), fitted in closed form, from a layer's head input to the final layer's."""

    role = "readout"
    definition = (
        "the model's own final norm, a linear map that was fitted for the layer (Yom Din et al. 2023), and head"
    )

    def before_head(self, decoder: Decoder, hidden_ND: Tensor, layer: int) -> Tensor:
        return self.maps[layer](decoder.head_input(hidden_ND))


@dataclass(frozen=True, eq=False)
class TunedLens(LayerMaps):
    """Readout by a map (D, D) of the layer's hidden state, which is added to it, as package tuned-lens trains it."""

    role = "tuned_lens"
    definition = (
        "a linear map that was trained for the layer, added to its hidden state, and the model's own final norm and "
        "head (the tuned lens, Belrose et al. 2023)"
    )

    def before_head(self, decoder: Decoder, hidden_ND: Tensor, layer: int) -> Tensor:
        return decoder.head_input(hidden_ND + self.maps[layer](hidden_ND))


READOUTS: Final[dict[str, Readout]] = {"lens": LogitLens(), "raw": RawReadout()}
