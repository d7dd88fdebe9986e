"""States: what an early exit leaves behind for later tokens, in the layers that the exiting token skipped.

A state is one entry of `STATES`, and its name is a mode of a sweep; `normal` is the mode without exits. Engine, records
and reports know no state by name. This module does not import torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol


class Leaves(Enum):
    """What later tokens find of a token in each layer past its exit."""

    FULL_DEPTH = auto()  # keys and values that the layer makes of what enters it at full depth
    OWN_KEYS = auto()  # those that it makes of the residual stream at the exit
    MAPPED_KEYS = auto()  # those that state maps make of that stream; the layer next to the exit makes them itself
    COPIED_KEYS = auto()  # the exit layer's
    NOTHING = auto()  # they do not attend to the token there


class Model(Protocol):
    """What a state may require of a model."""

    @property
    def takes_masks(self) -> bool:
        """Whether its layers are given masks of what is seen, so that positions can be hidden in a single layer."""

    @property
    def cache_shapes(self) -> Sequence[object]:
        """The shapes of a position's keys and values, layer by layer."""


@dataclass(frozen=True)
class State:
    """`definition` says what later tokens see, in words, with its source."""

    leaves: Leaves
    definition: str

    @property
    def maps(self) -> bool:
        """Whether it needs trained state maps."""
        return self.leaves is Leaves.MAPPED_KEYS

    @property
    def writes_keys(self) -> bool:
        """Whether layers past an exit still make keys and values."""
        return self.leaves in (Leaves.OWN_KEYS, Leaves.MAPPED_KEYS)

    def first_altered(self, exit_layer: int) -> int | None:
        """The first layer whose keys and values an exit at this layer alters; None if no layer's ever are.

        In the layers before it, a pass that exits is the same as the full-depth pass.
        """
        if self.leaves is Leaves.FULL_DEPTH:
            return None
        # At full depth, too, the next layer makes keys and values of the stream at the exit.
        return exit_layer + 2 if self.writes_keys else exit_layer + 1

    def check(self, model: Model) -> None:
        """Raises `ValueError`, saying why, for a model that this state can't be used with."""
        if self.leaves is Leaves.COPIED_KEYS and len(set(model.cache_shapes)) > 1:
            raise ValueError("its layers' keys and values differ in shape, and can't be copied from layer to layer")
        if self.leaves is Leaves.NOTHING and not model.takes_masks:
            raise ValueError(
                "its layers are given no masks of what is seen, so that no position can be hidden in one alone"
            )


def alters(state: State) -> bool:
    """Whether exits alter what later tokens see; else keys and values are those of full depth, in the end."""
    return state.leaves is not Leaves.FULL_DEPTH


STATES: Final = {
    "unfrozen": State(
        Leaves.FULL_DEPTH, "an early exit changes nothing but the token: later tokens attend to the full-depth state"
    ),
    "frozen_residual": State(
        Leaves.OWN_KEYS,
        "an early exit also freezes the residual stream: past the exit layer, later tokens attend to keys and values "
        "made from the stream as it was there (the state propagation of CALM, Schuster et al. 2022)",
    ),
    "mapped_residual": State(
        Leaves.MAPPED_KEYS,
        "an early exit also freezes the residual stream: past the exit layer, later tokens attend to keys and values "
        "that trained maps make of the stream as it was there (--state)",
    ),
    "frozen_cache": State(
        Leaves.COPIED_KEYS,
        "an early exit also freezes the cache: past the exit layer, later tokens attend to a copy of the exit layer's "
        "keys and values (known to be bad: in CALM it took ROUGE-L from 38.2 to 23.0)",
    ),
    "skip": State(
        Leaves.NOTHING,
        "an early exit leaves nothing: past the exit layer, later tokens do not attend to its position",
    ),
}
LETTERS: Final = {
    "unfrozen": "U",
    "frozen_residual": "F",
    "mapped_residual": "M",
    "frozen_cache": "C",
    "skip": "S",
}  # in short names
