"""The decoders of a model and of its student."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from eexit.cpu.packed_linear import pack_linear_layers
from eexit.model.adapters import merged
from eexit.model.layers import Decoder


@dataclass(frozen=True)
class DecoderPair:
    """Decoders of the full-depth and early-exit passes; they are the same unless the latter has an adapter."""

    full_depth: Decoder
    early_exit: Decoder

    @property
    def is_shared(self) -> bool:
        """True if both are one decoder."""
        return self.early_exit is self.full_depth


def build_decoders(model: PreTrainedModel, adapter: str | None, packed: bool) -> DecoderPair:
    """Return the decoders of a model and of its student; if `packed`, pack their linear layers in place.

    Raise `UsageError` for a model that can't be run with exits, and for an adapter that does not fit it.
    """
    student = model if adapter is None else merged(model, adapter)
    if packed:
        pack_linear_layers(model, student)
    decoders = {each: Decoder(each) for each in {model, student}}
    return DecoderPair(decoders[model], decoders[student])
