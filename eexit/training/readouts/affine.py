"""Learned readouts while they are trained: an affine map per layer, as tensors of the artefact, and its tables."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from eexit.decode.learned_exits import readout_of
from eexit.method.readouts import READOUTS, Affine, Readout
from eexit.training.streams import compare_texts, layer_rows, trade_off_rows
from eexit.training.texts import Text
from eexit.training.trainer import Tables, Trainer


class ReadoutTrainer(Trainer):
    """Trains a readout."""

    @abstractmethod
    def of_layer(self) -> Mapping[int, Affine]:
        """The map of each layer that was learned so far."""

    def readout(self) -> Readout:
        return readout_of(self.options.what, self.of_layer(), self.decoder)

    def weights(self) -> dict[str, Tensor]:
        return {
            f"readout.{layer}.{name}": part.float()
            for layer, parts in self.of_layer().items()
            for name, part in zip(("weight", "bias"), parts, strict=True)
        }

    def tables(self, texts: Sequence[Text]) -> Tables:
        """Those of the readout, beside the logit lens."""
        readouts = {"lens": READOUTS["lens"], self.options.what: self.readout()}
        found = compare_texts(self.decoder, readouts, self.layers, texts)
        return {
            "held_out": [row for name, compared in found.items() for row in layer_rows(name, self.layers, compared)],
            "trade_off": [
                row
                for name, compared in found.items()
                for row in trade_off_rows({"readout": name, "rule": "kl"}, self.layers, self.decoder.n_layers, compared)
            ],
        }
