"""What every way to train has."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from eexit.training.ridge import SplitSums, Sums
from eexit.training.setup import Setup
from eexit.training.streams import streams
from eexit.training.texts import Text, n_tokens, parted

Tables = dict[str, list[dict[str, Any]]]  # tables of a card, by name


class Trainer(ABC):
    """Learns from texts, block by block. To be subclassed: what does nothing here need not be said."""

    passes = 1  # over all texts, at most
    own: Sequence[str] = ()  # attributes: tensors of its state besides the sums and the optimiser's
    optimiser: Optimizer | None = None

    def __init__(self, setup: Setup):
        self.options = setup.options  # defaults filled in
        self.decoder, self.layers, self.texts = setup.decoder, setup.options.layers, setup.texts
        self.sums = SplitSums()
        self.per_pass, self.seen = n_tokens(setup.texts), 0  # tokens of a pass, and those of all passes so far

    @abstractmethod
    def train(self, block: Sequence[Text]) -> float | None:
        """Learn from these texts, once; the mean loss in nats, or None if there is none yet."""

    def add_sums(self, block: Sequence[Text], pairs: Callable[[Tensor], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Add up what regressions need of these texts: `pairs` gives each layer's inputs and targets, given streams."""
        for chooses, texts in parted(block):
            of_layers = pairs(streams(self.decoder, texts, self.layers))
            for layer, (input_ND, target_NH) in zip(self.layers, of_layers, strict=True):
                self.sums.add(layer, chooses, Sums.of(input_ND, target_NH))

    def state(self) -> dict[str, Tensor]:
        """All that resuming needs, the optimiser's state included."""
        own = {name: getattr(self, name) for name in self.own}
        own["seen"] = torch.tensor(self.seen)
        return self.sums.state() | own | (_optimiser_tensors(self.optimiser) if self.optimiser else {})

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Be as it was when it gave this state."""
        self.sums, self.seen = SplitSums.from_state(state), int(state["seen"])
        for name in self.own:
            getattr(self, name).copy_(state[name])
        if self.optimiser:
            _restore_optimiser(self.optimiser, state)

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The tensors of the artefact, fp32; none before it has learned something."""

    @abstractmethod
    def tables(self, texts: Sequence[Text]) -> Tables:
        """The card's tables of these texts, which nothing was learned from."""

    @property
    def gains_too_little(self) -> bool:
        """Whether training ends, whatever tokens are left to learn from."""
        return False

    def follow(self, texts: Sequence[Text]) -> None:
        """Measure, now and then, how far it has come on these texts, which nothing is learned from."""
        return

    def found_options(self) -> dict[str, Any]:
        """Options that were not given, and that it has found itself, as in JSON."""
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


def _optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """What an optimiser has of its parameters, by name."""
    held = optimiser.state_dict()["state"]
    return {f"optimiser.{index}.{name}": tensor for index, tensors in held.items() for name, tensor in tensors.items()}


def _restore_optimiser(optimiser: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give an optimiser what `_optimiser_tensors` told of it, which may be among other tensors."""
    by_parameter: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        kind, _, rest = key.partition(".")
        index, _, name = rest.partition(".")
        if kind == "optimiser":
            by_parameter.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": by_parameter})
