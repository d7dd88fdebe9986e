"""States: what an early exit leaves behind for later tokens, in the layers that the exiting token skipped.

A state is a function of what the exit left and of a deeper layer, decorated with `state`: those at the end of this
module, and those in users' own files and notebooks, alike. Its name is a mode of a sweep; `normal` is the mode without
exits. Engine, records and reports know no state by name. This module does not import torch.

Shapes: N tokens that have left, W width of the residual stream, n width of a layer's keys or values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, overload

from eexit.errors import UsageError
from eexit.method.own import (
    RAISED,
    Definition,
    check_shape_and_dtype,
    refuse_name,
    refuse_no_function,
    source_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from eexit.method.state_maps import StateMaps


class Leaves(Enum):
    """What later tokens find of a token in each layer past its exit."""

    FULL_DEPTH = "full depth"  # keys and values that the layer makes of what enters it at full depth
    STREAM = "stream"  # those that it makes of a stream, which the state says
    KEYS = "keys"  # those that the state says
    MAPS = "maps"  # those that state maps make of the stream at the exit; the next layer makes them itself
    COPY = "copy"  # the exit layer's
    NOTHING = "nothing"  # they do not attend to the token there


@dataclass(frozen=True)
class Exited:
    """What an exit left, for the N tokens that have left in a state."""

    layer: Tensor  # (N,): the exit layer
    stream: Tensor  # (N, W): the residual stream after it
    kept: dict[str, Tensor] = field(default_factory=dict)
    maps: StateMaps | None = None  # trained ones, if there are

    @property
    def before(self) -> Tensor:
        """The residual stream before the exit layer, (N, W), for states that need it."""
        return self._kept("before")

    @property
    def embedding(self) -> Tensor:
        """The residual stream before layer 0, (N, W), for states that need it."""
        return self._kept("embedding")

    def _kept(self, name: str) -> Tensor:
        if name not in self.kept:
            raise AttributeError(f'it looks at {name}: say needs=("{name}",)')
        return self.kept[name]


@dataclass(frozen=True)
class Deeper:
    """A layer past the exit, from 0.

    For states that leave "keys", `key` and `value` are its projections, (N, W) → (N, n), before its norms of keys and
    rotary angles, and `given` is what these are given of the stream at the exit, (N, W).
    """

    index: int
    key: Callable[[Tensor], Tensor] | None = None
    value: Callable[[Tensor], Tensor] | None = None
    given: Tensor | None = None


class Model(Protocol):
    """What a state may require of a model."""

    @property
    def takes_masks(self) -> bool:
        """Whether its layers are given masks of what is seen, so that positions can be hidden in a single layer."""

    @property
    def cache_shapes(self) -> Sequence[object]:
        """The shapes of a position's keys and values, layer by layer."""

    @property
    def for_keys(self) -> Sequence[Any]:
        """What makes keys and values alone, layer by layer: `projections` are None where no two modules make them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class State(Definition):
    """`definition` says what later tokens see. `keeps_stream`: what deeper layers make keys of is that at the exit."""

    leaves: Leaves
    needs: Sequence[str] = ()  # of `Exited`: "before", "embedding"
    keeps_stream: bool = False

    @property
    def maps(self) -> bool:
        """Whether it needs trained state maps."""
        return self.leaves is Leaves.MAPS

    @property
    def writes_keys(self) -> bool:
        """Whether layers past an exit still make keys and values."""
        return self.leaves in (Leaves.STREAM, Leaves.KEYS, Leaves.MAPS)

    @property
    def says(self) -> bool:
        """Whether its function is asked what deeper layers make keys and values of: else they do so of what enters."""
        return self.leaves in (Leaves.KEYS, Leaves.MAPS) or (self.leaves is Leaves.STREAM and not self.keeps_stream)

    def first_altered(self, exit_layer: int) -> int | None:
        """The first layer whose keys and values an exit at this layer alters; None if no layer's ever are.

        In the layers before it, a pass that exits is the same as the full-depth pass.
        """
        if self.leaves is Leaves.FULL_DEPTH:
            return None
        # At full depth, too, the next layer makes keys and values of the stream at the exit.
        return exit_layer + 2 if self.keeps_stream else exit_layer + 1

    def check(self, model: Model) -> None:
        """Raises `ValueError`, saying why, for a model that this state can't be used with."""
        if self.leaves is Leaves.COPY and len(set(model.cache_shapes)) > 1:
            raise ValueError("its layers' keys and values differ in shape, and can't be copied from layer to layer")
        if self.leaves is Leaves.KEYS and any(not each.projections for each in model.for_keys):
            raise ValueError("not all its layers make keys and values by modules of their own: leave a stream")
        if self.leaves is Leaves.NOTHING and not model.takes_masks:
            raise ValueError(
                "its layers are given no masks of what is seen, so that no position can be hidden in one alone"
            )

    def left(self, exited: Exited, deeper: Deeper, checks_numbers: bool = True) -> Any:
        """Return what the function gives of a deeper layer: hidden states (N, W), or keys and values (N, n) each.

        Raises `UsageError`, in a line with mode and layer, for a custom mode whose function fails, or gives other
        shapes or dtypes. With `checks_numbers`, for which the host waits, also if numbers are not finite of a token
        whose hidden state is.
        """
        if self.source is None:
            return self.function(exited, deeper)
        try:
            said = self.function(exited, deeper)
            if self.leaves is Leaves.KEYS and not (isinstance(said, tuple | list) and len(said) == 2):
                raise TypeError("gives no pair of keys and values")
            parts = dict(zip(("keys ", "values "), said, strict=True)) if self.leaves is Leaves.KEYS else {"": said}
            for (what, part), width in zip(parts.items(), self._widths(exited, deeper), strict=True):
                check_shape_and_dtype(part, (len(exited.stream), width), exited.stream.dtype, what)
                if checks_numbers:
                    # Elsewhere than on a CPU, other tokens than those that have left before the layer are there, too.
                    counts_N = exited.stream.isfinite().all(-1) & (exited.layer < deeper.index)
                    if n_off := int((counts_N & ~part.isfinite().all(-1)).sum()):
                        raise ValueError(
                            f"gives {what or 'numbers '}that are not finite, of {n_off} of {len(counts_N)} tokens"
                        )
        except RAISED as error:
            raise UsageError(f"mode {self.name}, layer {deeper.index}: {self.cause(error)}") from error
        return said

    def _widths(self, exited: Exited, deeper: Deeper) -> Sequence[int]:
        """Return the width of each tensor that the function gives."""
        if self.leaves is not Leaves.KEYS:
            return [exited.stream.shape[1]]
        projections: Sequence[Any] = deeper.key, deeper.value
        return [projection.out_features for projection in projections]


def alters(state: State) -> bool:
    """Whether exits alter what later tokens see; else keys and values are those of full depth, in the end."""
    return state.leaves is not Leaves.FULL_DEPTH


STATES: Final[dict[str, State]] = {}


@overload
def state(function: Callable[..., Any], /) -> State: ...


@overload
def state(
    *, leaves: str = "stream", needs: Sequence[str] = (), short: str = "", keeps_stream: bool = False
) -> Callable[[Callable[..., Any]], State]: ...


def state(
    function: Callable[..., Any] | None = None, /, *, leaves: str = "stream", needs: Sequence[str] = (),
    short: str = "", keeps_stream: bool = False,
) -> State | Callable[[Callable[..., Any]], State]:  # fmt: skip
    """Make a function a state, whose name is the function's, and whose definition is its docstring.

    `function(exit, layer)` says what a deeper layer gets of tokens that have left: a stream (N, W), of which the layer
    makes keys and values; or with leaves="keys" a pair of keys and values, (N, n) each, before norms and rotary angles.
    Both are of the dtype of `exit.stream`, and finite. `exit` is an `Exited`, and `layer` a `Deeper`. What leaves
    "copy" (of the exit layer's keys and values) or "nothing" is not asked. With `needs`, "before" or "embedding",
    `exit` has these streams too.

    Raises `UsageError` for a function that can't be a state, and for a name that is taken by one of ours.
    """

    def made(function: Callable[..., Any]) -> State:
        refuse_no_function("state", function)
        name = function.__name__
        refuse_name(f"state {name}", name, STATES)
        given = {each.value: each for each in Leaves}
        if leaves not in given or (leaves in ("maps", "full depth") and source_of(function)):
            raise UsageError(f"state {name}: leaves is stream, keys, copy or nothing, got {leaves!r}")
        if foreign := [each for each in needs if each not in ("before", "embedding")]:
            raise UsageError(f"state {name}: needs are before and embedding, got {foreign[0]!r}")
        if len(inspect.signature(function).parameters) != 2:
            raise UsageError(f"state {name} is a function of what an exit left, and of a deeper layer")
        STATES[name] = State(
            name=name, definition=" ".join((inspect.getdoc(function) or f"own state {name}").split()),
            source=source_of(function), short=short, function=function, leaves=given[leaves], needs=tuple(needs),
            keeps_stream=keeps_stream,
        )  # fmt: skip
        return STATES[name]

    return made if function is None else made(function)


@state(leaves="full depth", short="U")
def unfrozen(exit: Exited, layer: Deeper) -> None:
    """an early exit changes nothing but the token: later tokens attend to the full-depth state"""


@state(short="F", keeps_stream=True)
def frozen_residual(exit: Exited, layer: Deeper) -> Tensor:
    """an early exit also freezes the residual stream: past the exit layer, later tokens attend to keys and values made
    from the stream as it was there (the state propagation of CALM, Schuster et al. 2022)"""
    return exit.stream


@state(leaves="maps", short="M", keeps_stream=True)
def mapped_residual(exit: Exited, layer: Deeper) -> Tensor | Sequence[Tensor]:
    """an early exit also freezes the residual stream: past the exit layer, later tokens attend to keys and values that
    trained maps make of the stream as it was there (--state)"""
    assert exit.maps, "a state that maps needs state maps"
    return exit.maps.applied(exit.layer, exit.stream, layer.index, layer.given)


@state(leaves="copy", short="C")
def frozen_cache(exit: Exited, layer: Deeper) -> None:
    """an early exit also freezes the cache: past the exit layer, later tokens attend to a copy of the exit layer's keys
    and values (known to be bad: in CALM it took ROUGE-L from 38.2 to 23.0)"""


@state(leaves="nothing", short="S")
def skip(exit: Exited, layer: Deeper) -> None:
    """an early exit leaves nothing: past the exit layer, later tokens do not attend to its position"""
