"""States: what an early exit leaves behind for later tokens, in the layers that the exiting token skipped.

A state is one entry of `STATES`, and its name is a mode of a sweep; `normal` is the mode without exits. Engine, records
and reports know no state by name. This module does not import torch.
"""

from collections.abc import Sequence
from typing import Final, Protocol

WRITES, MAPS, COPIES, HIDES = "writes", "maps", "copies", "hides"  # what a state may do in a layer, see `left_behind`


class Exited(Protocol):
    """Tokens that have exited before a layer, one per row, and what a state can do for them in that layer."""

    def write_keys(self, layer: int) -> None:
        """Compute the layer's keys and values for them from their residual streams at their exits."""

    def write_mapped_keys(self, layer: int) -> None:
        """Compute the layer's keys and values for them by state maps; the layer next to an exit needs none."""

    def copy_keys(self, layer: int) -> None:
        """Copy keys and values at their positions from the layer before."""

    def hide(self, layer: int) -> None:
        """Hide their positions in the layer: later tokens do not attend to them there."""


class Model(Protocol):
    """What a state may require of a model."""

    @property
    def takes_masks(self) -> bool:
        """Whether its layers are given masks of what is seen, so that positions can be hidden in a single layer."""

    @property
    def cache_shapes(self) -> Sequence[object]:
        """The shapes of a position's keys and values, layer by layer."""


class State(Protocol):
    """What layers past the exit hold at the position of a token that has exited."""

    @property
    def definition(self) -> str:
        """What later tokens see, in words, with its source."""

    @property
    def maps(self) -> bool:
        """Whether it needs trained state maps, and to know which layer each token exited after."""

    def first_altered(self, exit_layer: int) -> int | None:
        """The first layer whose keys and values an exit at this layer alters; None if no layer's ever are.

        In the layers before it, a pass that exits is the same as the full-depth pass.
        """

    def check(self, model: Model) -> None:
        """Raises `ValueError`, saying why, for a model that this state can't be used with."""

    def fill(self, layer: int, exited: Exited) -> None:
        """Have a layer past their exits hold what this state leaves of these tokens."""


class Unfrozen:
    definition = "an early exit changes nothing but the token: later tokens attend to the full-depth state"
    maps = False

    def first_altered(self, exit_layer: int) -> int | None:
        return None

    def check(self, model: Model) -> None: ...

    def fill(self, layer: int, exited: Exited) -> None:
        raise AssertionError("rows of this state have no student")


class FrozenResidual:
    definition = (
        "an early exit also freezes the residual stream: past the exit layer, later tokens attend to keys and values "
        "made from the stream as it was there (the state propagation of CALM, Schuster et al. 2022)"
    )
    maps = False

    def first_altered(self, exit_layer: int) -> int | None:
        return exit_layer + 2  # at full depth, too, the next layer computes keys and values from the stream at the exit

    def check(self, model: Model) -> None: ...

    def fill(self, layer: int, exited: Exited) -> None:
        exited.write_keys(layer)


class MappedResidual:
    definition = (
        "an early exit also freezes the residual stream: past the exit layer, later tokens attend to keys and values "
        "that trained maps make of the stream as it was there (--state)"
    )
    maps = True

    def first_altered(self, exit_layer: int) -> int | None:
        return exit_layer + 2  # the next layer computes keys and values from the stream at the exit, and needs no map

    def check(self, model: Model) -> None: ...

    def fill(self, layer: int, exited: Exited) -> None:
        exited.write_mapped_keys(layer)


class FrozenCache:
    definition = (
        "an early exit also freezes the cache: past the exit layer, later tokens attend to a copy of the exit layer's "
        "keys and values (known to be bad: in CALM it took ROUGE-L from 38.2 to 23.0)"
    )
    maps = False

    def first_altered(self, exit_layer: int) -> int | None:
        return exit_layer + 1

    def check(self, model: Model) -> None:
        if len(set(model.cache_shapes)) > 1:
            raise ValueError("its layers' keys and values differ in shape, and can't be copied from layer to layer")

    def fill(self, layer: int, exited: Exited) -> None:
        exited.copy_keys(layer)


class Skip:
    definition = "an early exit leaves nothing: past the exit layer, later tokens do not attend to its position"
    maps = False

    def first_altered(self, exit_layer: int) -> int | None:
        return exit_layer + 1

    def check(self, model: Model) -> None:
        if not model.takes_masks:
            raise ValueError(
                "its layers are given no masks of what is seen, so that no position can be hidden in one alone"
            )

    def fill(self, layer: int, exited: Exited) -> None:
        exited.hide(layer)


def alters(state: State) -> bool:
    """Whether exits alter what later tokens see; else keys and values are those of full depth, in the end."""
    return state.first_altered(0) is not None


class _Noted:
    """Notes which of `Exited`'s methods a state calls."""

    called = ""

    def write_keys(self, layer: int) -> None:
        self.called = WRITES

    def write_mapped_keys(self, layer: int) -> None:
        self.called = MAPS

    def copy_keys(self, layer: int) -> None:
        self.called = COPIES

    def hide(self, layer: int) -> None:
        self.called = HIDES


def left_behind(state: State, layer: int) -> str:
    """What a state does in a layer past an exit: WRITES, MAPS, COPIES, HIDES or, if it alters nothing, ""."""
    noted = _Noted()
    if alters(state):
        state.fill(layer, noted)
    return noted.called


STATES: Final[dict[str, State]] = {
    "unfrozen": Unfrozen(),
    "frozen_residual": FrozenResidual(),
    "mapped_residual": MappedResidual(),
    "frozen_cache": FrozenCache(),
    "skip": Skip(),
}
LETTERS: Final = {
    "unfrozen": "U",
    "frozen_residual": "F",
    "mapped_residual": "M",
    "frozen_cache": "C",
    "skip": "S",
}  # in short names
