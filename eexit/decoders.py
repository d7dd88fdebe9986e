"""The two decoders of a row: one says what full depth would have said, the other is run up to the exits."""

from dataclasses import dataclass

from eexit.anatomy import Decoder
from eexit.configuration import NORMAL, Configuration


@dataclass(frozen=True)
class Decoders:
    """The teacher is the base model at full depth; the student is the one whose layers exits leave out.

    They are one decoder, unless the student has weights of its own (`eexit.adapters`).
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
        """Those of a row under this configuration: `normal` is the base model, whatever student there is."""
        return Decoders.of(self.teacher) if configuration.mode == NORMAL else self
