"""What every way to train has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from eexit.training.setup import Settings
from eexit.training.texts import Text

Tables = dict[str, list[dict[str, Any]]]  # tables of a card, by name


class Trainer(Protocol):
    """Learns from texts, block by block; is all of its `state`, so that a training can be interrupted and go on."""

    @property
    def settings(self) -> Settings:
        """What it was made with, without any that is None but should not be."""

    @property
    def passes(self) -> int:
        """How often it goes over all texts, at most."""

    def train(self, block: Sequence[Text]) -> float | None:
        """Learn from these texts, once; the mean loss in nats, or None if there is none yet."""

    def state(self) -> dict[str, Tensor]:
        """All that it needs to go on, its optimiser's state included."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Be as it was when it gave this state."""

    def finish(self) -> None:
        """Called once, when it has learned from all blocks."""

    def weights(self) -> dict[str, Tensor]:
        """The tensors of the artefact, fp32; none before it has learned something."""

    def save_further(self, folder: Path) -> None:
        """Write what the artefact has besides its card and weights."""

    def held_out_loss(self, texts: Sequence[Text]) -> float | None:
        """The mean loss over these texts, in nats; None if there is none."""

    def tables(self, texts: Sequence[Text]) -> Tables:
        """The card's tables of these texts, which nothing was learned from."""
