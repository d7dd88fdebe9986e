"""What every way to train has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from eexit.training.setup import Settings
from eexit.training.texts import Text

Tables = dict[str, list[dict[str, Any]]]  # tables of a card, by name


class Trainer(ABC):
    """Learns from texts, block by block. To be subclassed: what does nothing here need not be said."""

    settings: Settings  # what it was made with, defaults filled in
    passes: int  # over all texts, at most

    @abstractmethod
    def train(self, block: Sequence[Text]) -> float | None:
        """Learn from these texts, once; the mean loss in nats, or None if there is none yet."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that resuming needs, the optimiser's state included."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Be as it was when it gave this state."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The tensors of the artefact, fp32; none before it has learned something."""

    @abstractmethod
    def tables(self, texts: Sequence[Text]) -> Tables:
        """The card's tables of these texts, which nothing was learned from."""

    def found_settings(self) -> dict[str, Any]:
        """Settings that were not given, and that it has found itself, as in JSON."""
        return {}

    def finish(self) -> None:
        """Called once, when it has learned from all blocks."""
        return

    def save_further(self, folder: Path) -> None:
        """Write what the artefact has besides its card and weights."""
        return

    def held_out_loss(self, texts: Sequence[Text]) -> float | None:
        """The mean loss over these texts, in nats; None if there is none."""
        return None
