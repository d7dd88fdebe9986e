"""States: what an early exit leaves behind for later tokens, in the layers that its token did not go through.

A state is one entry of `STATES`, and a mode of a sweep; `normal` is the mode in which nothing exits. Engine, records
and reports know none of them by name. This module needs no torch.
"""

from collections.abc import Sequence
from typing import Final, Protocol


class Exited(Protocol):
    """The tokens of some rows that have exited before the layer at hand, and what can be done for them there."""

    def write_keys(self, layer: int) -> None:
        """Give the layer their keys and values, made from their residual streams as they were where they exited."""

    def copy_keys(self, layer: int) -> None:
        """Give the layer the keys and values that the layer before it holds at their positions."""

    def hide(self, layer: int) -> None:
        """Leave the layer without anything at their positions: later tokens do not attend to them there."""


class Model(Protocol):
    """What a state may need of a model."""

    @property
    def attends_itself(self) -> bool:
        """Whether its layers attend by code of their own, so that no position can be hidden from one of them."""

    @property
    def cache_shapes(self) -> Sequence[object]:
        """The shapes of a position's keys and values, layer by layer."""


class State(Protocol):
    """What deeper layers hold of a token that has exited."""

    @property
    def definition(self) -> str:
        """What later tokens see, in words, with its source."""

    def first_altered(self, exit_layer: int) -> int | None:
        """The first layer that holds something else than at full depth after such an exit; None if none ever does.

        Up to the layer before it, a pass that exits and one that doesn't are the same.
        """

    def check(self, model: Model) -> None:
        """Raises `ValueError`, saying why, for a model that it can't be done with."""

    def fill(self, layer: int, exited: Exited) -> None:
        """Give a layer beyond their exits what it is to hold of these tokens."""


class Unfrozen:
    definition = "an early exit changes nothing but the token: later tokens attend to the full-depth state"

    def first_altered(self, exit_layer: int) -> int | None:
        return None

    def check(self, model: Model) -> None: ...

    def fill(self, layer: int, exited: Exited) -> None:
        raise AssertionError("its rows are the full-depth pass")


class FrozenResidual:
    definition = (
        "an early exit also freezes the residual stream: past the exit layer, later tokens attend to keys and values "
        "made from the stream as it was there (the state propagation of CALM, Schuster et al. 2022)"
    )

    def first_altered(self, exit_layer: int) -> int | None:
        return exit_layer + 2  # the next layer makes its keys and values from the stream at the exit in any case

    def check(self, model: Model) -> None: ...

    def fill(self, layer: int, exited: Exited) -> None:
        exited.write_keys(layer)


class FrozenCache:
    definition = (
        "an early exit also freezes the cache: past the exit layer, later tokens attend to a copy of the exit layer's "
        "keys and values (known to be bad: in CALM it took ROUGE-L from 38.2 to 23.0)"
    )

    def first_altered(self, exit_layer: int) -> int | None:
        return exit_layer + 1

    def check(self, model: Model) -> None:
        if len(set(model.cache_shapes)) > 1:
            raise ValueError("its layers' keys and values differ in shape, and can't be copied from layer to layer")

    def fill(self, layer: int, exited: Exited) -> None:
        exited.copy_keys(layer)


class Skip:
    definition = "an early exit leaves nothing: past the exit layer, later tokens do not attend to its position"

    def first_altered(self, exit_layer: int) -> int | None:
        return exit_layer + 1

    def check(self, model: Model) -> None:
        if model.attends_itself:
            raise ValueError("its layers attend by code of their own, from which no position can be hidden")

    def fill(self, layer: int, exited: Exited) -> None:
        exited.hide(layer)


STATES: Final[dict[str, State]] = {
    "unfrozen": Unfrozen(),
    "frozen_residual": FrozenResidual(),
    "frozen_cache": FrozenCache(),
    "skip": Skip(),
}
