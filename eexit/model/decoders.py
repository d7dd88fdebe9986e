"""The decoders of a model and of its student."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from eexit.cpu.packed_linear import pack_linear_layers
from eexit.model.adapters import merged
from eexit.model.layers import Decoder


@dataclass(frozen=True)
class DecoderPair:
    """The teacher is the base model at full depth; the student is the one whose layers exits leave out.

    They are one decoder, unless the student has an adapter (`eexit.model.adapters`).
    """

    full_depth: Decoder
    early_exit: Decoder

    @classmethod
    def of(cls, decoder: Decoder, student: Decoder | None = None) -> "DecoderPair":
        """Pair a decoder with a student; without one, the decoder is both."""
        return cls(decoder, student or decoder)

    @property
    def is_shared(self) -> bool:
        return self.early_exit is self.full_depth

    @property
    def without_student(self) -> "DecoderPair":
        """The base model as both, as it decodes requests without exits."""
        return DecoderPair.of(self.full_depth)


def build_decoders(model: PreTrainedModel, adapter: str | None, packed: bool) -> DecoderPair:
    """Return the decoders of a model and of its student; if `packed`, their linear layers are packed in place.

    Raises `UsageError` for what can't be run with exits, and for an adapter that does not fit the model.
    """
    student = model if adapter is None else merged(model, adapter)
    if packed:
        pack_linear_layers(model, student)
    own = {each: Decoder(each) for each in {model, student}}
    return DecoderPair(own[model], own[student])
