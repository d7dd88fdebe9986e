"""Modes: what an early exit leaves in the KV cache of the layers that the token skips.

A mode is an object that a decorated function makes: those at the end of this module, and those in users' files and
notebooks, alike. `enter` says what a skipped layer does for exited tokens, and `cost` what that costs. `normal` is full
depth. Engine, records and reports know no mode by name. This module does not import torch.

Shapes: N exited tokens, D width of a hidden state, L layers, T tokens of a run, n width of a layer's keys or values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, overload

from eexit.errors import UsageError
from eexit.method.custom import (
    RAISED,
    RegistryEntry,
    check_shape_and_dtype,
    refuse_name,
    refuse_no_function,
    source_of,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from eexit.method.layer_call import ExitContext, ExitedTokens, LayerCall


class KVFill(Enum):
    """What a skipped layer's KV cache holds of a token that exited."""

    FULL_DEPTH = "full depth"  # the entries that the layer makes at full depth
    HIDDEN = "hidden"  # those that it makes of a hidden state, which the mode's function returns
    KV = "kv"  # those that the mode's function returns
    MAPS = "maps"  # those that KV maps make of the hidden state at the exit; the next layer makes them itself
    COPY = "copy"  # the exit layer's
    NONE = "none"  # none: later tokens do not attend to the position there


@dataclass(frozen=True)
class SkippedLayer:
    """A skipped layer, from 0.

    For modes with fill="kv", `key` and `value` are its projections, (N, D) → (N, n), before its norms of keys and
    rotary angles, and `kv_input` is their input for the hidden state at the exit, (N, D).
    """

    index: int
    key: Callable[[Tensor], Tensor] | None = None
    value: Callable[[Tensor], Tensor] | None = None
    kv_input: Tensor | None = None


class Model(Protocol):
    """What a mode may require of a model."""

    @property
    def takes_masks(self) -> bool:
        """True if its layers are given attention masks, so that positions can be hidden in a single layer."""

    @property
    def cache_shapes(self) -> Sequence[object]:
        """The shapes of a position's keys and values, layer by layer."""

    @property
    def for_keys(self) -> Sequence[Any]:
        """What makes keys and values alone, layer by layer: `projections` are None where no two modules make them."""


class EntryCosts(Protocol):
    """The multiply-adds of a position's keys and values alone."""

    @property
    def keys_L(self) -> np.ndarray:
        """By the layer itself."""

    @property
    def mapped_LL(self) -> np.ndarray | None:
        """By KV maps, by exit layer and then layer."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Mode(RegistryEntry):
    """What skipped layers do for exited tokens; `definition` says what later tokens attend to.

    `alters` is True if the KV cache differs from the full-depth pass's in the end, `writes_keys` if skipped layers
    compute keys and values, and `hides` if later tokens do not attend to the position there.
    """

    fill: KVFill
    needs: Sequence[str] = ()  # of `ExitContext`: "hidden_in", "embedding"
    alters: ClassVar[bool] = True
    writes_keys: ClassVar[bool] = False
    hides: ClassVar[bool] = False
    maps: ClassVar[bool] = False  # True if it needs trained KV maps

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        """Have a layer do for exited tokens what the mode says."""
        raise NotImplementedError

    def cost(self, costs: EntryCosts, exit_layer_T: np.ndarray) -> np.ndarray:
        """Return the multiply-adds of each layer's keys and values alone, (L, T) or (L, 1), by the tokens' exits."""
        return costs.keys_L[:, None]

    def check(self, model: Model) -> None:
        """Raises `ValueError`, saying why, for a model that this mode can't be used with."""

    def result(
        self, given: ExitContext, layer: SkippedLayer, *widths: int, checks_numbers: bool = True
    ) -> Sequence[Tensor]:
        """Return what the function gives for a skipped layer: hidden states, or keys and values, (N, width) each.

        Raises `UsageError`, in a line with mode and layer, for a custom mode whose function fails, or gives other
        shapes or dtypes. With `checks_numbers`, for which the host waits, also if numbers are not finite of a token
        whose hidden state is.
        """
        try:
            made = self.function(given, layer)
            if len(widths) == 2 and not (isinstance(made, tuple | list) and len(made) == 2):
                raise TypeError("gives no pair of keys and values")
            parts = made if len(widths) == 2 else (made,)
            for what, part, width in zip(
                ("keys ", "values ") if len(widths) == 2 else ("",), parts, widths, strict=True
            ):
                check_shape_and_dtype(part, (len(given.hidden), width), given.hidden.dtype, what)
                if checks_numbers:
                    # Elsewhere than on a CPU, other tokens than those that have exited before the layer are there, too.
                    counts_N = given.hidden.isfinite().all(-1) & (given.layer < layer.index)
                    if n_off := int((counts_N & ~part.isfinite().all(-1)).sum()):
                        raise ValueError(
                            f"gives {what or 'numbers '}that are not finite, of {n_off} of {len(counts_N)} tokens"
                        )
        except RAISED as error:
            raise UsageError(f"mode {self.name}, layer {layer.index}: {self.cause(error)}") from error
        return parts


class FullDepthMode(Mode):
    """Exits change nothing but the token: skipped layers run for it as for any, at once or deferred."""

    alters = False

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        """Leave the layer as it is."""


class ResidualMode(Mode):
    """Skipped layers make keys and values of the hidden state at the exit."""

    writes_keys = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        call.write()


class HiddenStateMode(Mode):
    """Skipped layers make keys and values of what a function returns."""

    writes_keys = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        if exited.has_tokens():
            given, width = exited.given(call.hidden_before), call.hidden_before.shape[-1]
            checks = exited.checks_numbers
            made = self.result(given, SkippedLayer(call.index), width, checks_numbers=checks)
            call.replace_hidden(exited.tokens, made[0])


class KeysMode(Mode):
    """A function returns the keys and values of skipped layers."""

    writes_keys = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        if exited.has_tokens():
            given = exited.given(call.hidden_before)

            def make(key: Any, value: Any, input_ND: Tensor) -> Sequence[Tensor]:
                layer, widths = SkippedLayer(call.index, key, value, input_ND), (key.out_features, value.out_features)
                return self.result(given, layer, *widths, checks_numbers=exited.checks_numbers)

            call.replace_keys(exited.tokens, make)

    def check(self, model: Model) -> None:
        if any(not each.projections for each in model.for_keys):
            raise ValueError("not all its layers make keys and values by modules of their own: leave a stream")


class KVMapMode(Mode):
    """Trained KV maps of the hidden state at the exit make the keys and values of skipped layers beyond the next."""

    writes_keys = maps = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        call.write()
        maps = exited.kv_maps
        assert maps, "a mode that maps needs KV maps"
        if call.index < maps.first_layer or not (mapped := exited.before_layer(call.index - 1)).has_tokens():
            return
        given = mapped.given(call.hidden_before)
        apply = partial(maps.apply, given.layer, given.hidden, call.index)
        if maps.are_of_keys:
            call.replace_keys(mapped.tokens, lambda key, value, input_ND: apply(input_ND))
        else:
            call.replace_hidden(mapped.tokens, apply(None)[0])

    def cost(self, costs: EntryCosts, exit_layer_T: np.ndarray) -> np.ndarray:
        assert costs.mapped_LL is not None
        by_map_LT: np.ndarray = costs.mapped_LL[exit_layer_T].T
        return by_map_LT


class CacheCopyMode(Mode):
    """Skipped layers hold a copy of the exit layer's keys and values."""

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        call.copy(exited.flag_BT)

    def check(self, model: Model) -> None:
        if len(set(model.cache_shapes)) > 1:
            raise ValueError("its layers' keys and values differ in shape, and can't be copied from layer to layer")


class SkipMode(Mode):
    """Skipped layers hold nothing: later tokens do not attend to the position there."""

    hides = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        call.hide(exited.flag_BT)

    def check(self, model: Model) -> None:
        if not model.takes_masks:
            raise ValueError(
                "its layers are given no masks of what is seen, so that no position can be hidden in one alone"
            )


KINDS: Final[dict[KVFill, type[Mode]]] = {
    KVFill.FULL_DEPTH: FullDepthMode, KVFill.HIDDEN: HiddenStateMode, KVFill.KV: KeysMode, KVFill.MAPS: KVMapMode,
    KVFill.COPY: CacheCopyMode, KVFill.NONE: SkipMode,
}  # fmt: skip


MODES: Final[dict[str, Mode]] = {}


@overload
def mode(function: Callable[..., Any], /) -> Mode: ...


@overload
def mode(
    *, fill: str = "hidden", needs: Sequence[str] = (), short: str = "", kind: type[Mode] | None = None
) -> Callable[[Callable[..., Any]], Mode]: ...


def mode(
    function: Callable[..., Any] | None = None, /, *, fill: str = "hidden", needs: Sequence[str] = (),
    short: str = "", kind: type[Mode] | None = None,
) -> Mode | Callable[[Callable[..., Any]], Mode]:  # fmt: skip
    """Make a function a mode, whose name is the function's, and whose definition is its docstring.

    `function(exit, layer)` returns what a skipped layer gets of exited tokens: a hidden state (N, D), of which it makes
    keys and values; or with fill="kv" a pair of keys and values, (N, n) each, before norms and rotary angles. Both
    are of the dtype of `exit.hidden`, and finite.
    `exit` is an `ExitContext`, and `layer` a `SkippedLayer`. With fill="copy" (of the exit layer's keys and values) or
    "none", it is not called. With `needs`, "hidden_in" or "embedding", `exit` has these hidden states too.

    Raises `UsageError` for a function that can't be a mode, and for a name that is taken by one of ours.
    """

    def made(function: Callable[..., Any]) -> Mode:
        refuse_no_function("mode", function)
        name = function.__name__
        refuse_name(f"mode {name}", name, MODES)
        given = {each.value: each for each in KVFill}
        if fill not in given or (fill in ("maps", "full depth") and source_of(function)):
            raise UsageError(f"mode {name}: fill is hidden, kv, copy or none, got {fill!r}")
        if foreign := [each for each in needs if each not in ("hidden_in", "embedding")]:
            raise UsageError(f"mode {name}: needs are hidden_in and embedding, got {foreign[0]!r}")
        if len(inspect.signature(function).parameters) != 2:
            raise UsageError(f"mode {name} is a function of what an exit left, and of a deeper layer")
        MODES[name] = (kind or KINDS[given[fill]])(
            name=name, definition=" ".join((inspect.getdoc(function) or f"custom mode {name}").split()),
            source=source_of(function), short=short, function=function, fill=given[fill], needs=tuple(needs),
        )  # fmt: skip
        return MODES[name]

    return made if function is None else made(function)


@mode(fill="full depth", short="U")
def unfrozen(exit: ExitContext, layer: SkippedLayer) -> None:
    """an early exit changes nothing but the token: later tokens attend to the full-depth state"""


@mode(short="F", kind=ResidualMode)
def frozen_residual(exit: ExitContext, layer: SkippedLayer) -> Tensor:
    """an early exit also freezes the residual stream: past the exit layer, later tokens attend to keys and values made
    from the stream as it was there (the state propagation of CALM, Schuster et al. 2022)"""
    return exit.hidden


@mode(fill="maps", short="M")
def mapped_residual(exit: ExitContext, layer: SkippedLayer) -> None:
    """an early exit also freezes the residual stream: past the exit layer, later tokens attend to keys and values that
    trained maps make of the stream as it was there (--kv-maps)"""


@mode(fill="copy", short="C")
def frozen_cache(exit: ExitContext, layer: SkippedLayer) -> None:
    """an early exit also freezes the cache: past the exit layer, later tokens attend to a copy of the exit layer's keys
    and values (known to be bad: in CALM it took ROUGE-L from 38.2 to 23.0)"""


@mode(fill="none", short="S")
def skip(exit: ExitContext, layer: SkippedLayer) -> None:
    """an early exit leaves nothing: past the exit layer, later tokens do not attend to its position"""
