"""The two decoders of a row: one says what full depth would have said, the other is run up to the exits."""

from dataclasses import dataclass

from eexit.model.decoder import Decoder
from eexit.plan.configuration import Configuration, Exit


@dataclass(frozen=True)
class Decoders:
    """The teacher is the base model at full depth; the student is the one whose layers exits leave out.

    They are one decoder, unless the student has weights of its own (`eexit.model.adapters`).
    """

    teacher: Decoder
    student: Decoder

    @classmethod
    def of(cls, decoder: Decoder, student: Decoder | None = None) -> "Decoders":
        """Without a student of its own, the decoder is both."""
        return cls(decoder, student or decoder)

    @property
    def are_one(self) -> bool:
        return self.student is self.teacher

    def under(self, configuration: Configuration) -> "Decoders":
        """The decoders of a row under this configuration: without exits, the base model is both teacher and student."""
        return self if isinstance(configuration, Exit) else Decoders.of(self.teacher)
