"""Learned readouts while they are trained: an affine map per layer, as tensors of the artefact, and its tables."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from eexit.method.readouts import READOUTS, Affine, Readout
from eexit.model.decoder import Decoder
from eexit.training.held_out import compare_texts, layer_rows, trade_off_rows
from eexit.training.texts import Text
from eexit.training.trainer import Tables


def affine_tensors(of_layer: Mapping[int, Affine]) -> dict[str, Tensor]:
    """The artefact's tensors, fp32."""
    named = {f"readout.{layer}.{name}": part for layer, parts in of_layer.items() for name, part in _named(parts)}
    return {name: part.detach().float().cpu() for name, part in named.items()}


def _named(parts: Affine) -> list[tuple[str, Tensor]]:
    return list(zip(("weight", "bias"), parts, strict=True))


def readout_tables(
    what: str, readout: Readout, decoder: Decoder, layers: Sequence[int], texts: Sequence[Text]
) -> Tables:
    """The card's tables of a learned readout, beside the logit lens."""
    readouts = {"lens": READOUTS["lens"], what: readout}
    found = compare_texts(decoder, readouts, layers, texts)
    return {
        "held_out": [row for name, compared in found.items() for row in layer_rows(name, layers, compared)],
        "trade_off": [
            row
            for name, compared in found.items()
            for row in trade_off_rows({"readout": name, "rule": "kl"}, layers, decoder.n_layers, compared)
        ],
    }
