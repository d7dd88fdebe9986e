"""Modes: what an early exit leaves in the KV cache of the layers that the token skips.

A mode is an object that a decorated function makes: those at the end of this module as well as those in users' files
and notebooks. `enter` has a skipped layer treat exited tokens as the mode defines, and `cost` returns the price.
`normal`, full depth, is no mode here. Engine, records and reports name no mode. This module does not import torch.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, overload

from eexit.errors import UsageError
from eexit.method.custom import RAISED, RegistryEntry, check_shape_and_dtype, entry_fields, needs_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from eexit.method.layer_call import ExitContext, ExitedTokens, LayerCall
    from eexit.model.layers import Decoder


@dataclass(frozen=True)
class SkippedLayer:
    """Skipped layer, as the argument of a mode's function.

    For modes with fill="kv", `key` and `value` are the layer's projections, (N, D) → (N, n), before norms of keys and
    rotary angles. `kv_input` is the projections' input for the hidden state at the exit, (N, D).
    """

    index: int  # from 0
    key: Callable[[Tensor], Tensor] | None = None
    value: Callable[[Tensor], Tensor] | None = None
    kv_input: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Mode(RegistryEntry):
    """Mode: what an exit leaves in the KV cache of skipped layers; `definition` describes it."""

    fill: str  # of the KV cache of skipped layers: one of KINDS
    needs: Sequence[str] = ()  # hidden states of `ExitContext`: "hidden_in", "embedding"
    modifies_kv: ClassVar[bool] = True  # True: the KV cache differs from the full-depth pass's in the end
    writes_kv: ClassVar[bool] = False  # True: skipped layers compute keys and values
    hides_positions: ClassVar[bool] = False  # True: later tokens do not attend to the position in skipped layers
    needs_kv_maps: ClassVar[bool] = False  # True: it needs trained KV maps

    @abstractmethod
    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        """Have a skipped layer treat exited tokens as the mode defines."""

    def cost(self, keys_L: np.ndarray, mapped_LL: np.ndarray | None, exit_layer_T: np.ndarray) -> np.ndarray:
        """Return the multiply-adds of each layer's keys and values alone, (L, T) or (L, 1), by the tokens' exits.

        `keys_L` has the layers' own, and `mapped_LL` those of KV maps by exit layer and skipped layer.
        """
        return keys_L[:, None]

    def register(self) -> None:
        MODES[self.name] = self

    def obstacle(self, decoder: Decoder) -> str:
        """Return the reason why a model can't be used with this mode; empty if it can."""
        return ""

    def call_function(
        self, exited: ExitedTokens, context: ExitContext, layer: SkippedLayer, widths: dict[str, int]
    ) -> Sequence[Tensor]:
        """Call the function for a skipped layer, and return a tensor (N, width) for each of these names.

        Raise `UsageError` if the function of a custom mode fails, or returns other shapes or dtypes. If `exited` has
        numbers checked, for which the host waits, so do numbers that are not finite of a finite hidden state.
        """
        try:
            result, hidden_ND = self.function(context, layer), context.hidden
            if len(widths) == 2 and not (isinstance(result, tuple | list) and len(result) == 2):
                raise TypeError("gives no pair of keys and values")
            tensors = result if len(widths) == 2 else (result,)
            for (name, width), tensor in zip(widths.items(), tensors, strict=True):
                what = "" if name == "numbers" else f"{name} "
                check_shape_and_dtype(tensor, (len(hidden_ND), width), hidden_ND.dtype, what)
                if exited.checks_numbers:
                    # Elsewhere than on a CPU, other tokens than those that have exited before the layer are there, too.
                    counts_N = hidden_ND.isfinite().all(-1) & (context.layer < layer.index)
                    if n_off := int((counts_N & ~tensor.isfinite().all(-1)).sum()):
                        raise ValueError(f"gives {name} that are not finite, of {n_off} of {len(counts_N)} tokens")
        except RAISED as error:
            raise UsageError(f"mode {self.name}, layer {layer.index}: {self.cause(error)}") from error
        return tensors


MODES: Final[dict[str, Mode]] = {}


def refuse_mode(mode: str, decoder: Decoder) -> None:
    """Raise `UsageError` if the model can't be run in this mode."""
    if mode in MODES and (reason := MODES[mode].obstacle(decoder)):
        raise UsageError(f"mode {mode} can't be used with this model: {reason}")


class FullDepthMode(Mode):
    """Mode in which an exit changes only the next token; skipped layers still run, at once or deferred."""

    modifies_kv = False

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        """Leave the layer as it is."""


class ResidualMode(Mode):
    """Mode whose skipped layers compute keys and values from the hidden state at the exit."""

    writes_kv = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        call.write()


class HiddenStateMode(Mode):
    """Mode whose skipped layers compute keys and values from a hidden state that the mode's function returns."""

    writes_kv = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        if exited.tokens.has_tokens():
            context, widths = exited.context(call.hidden_before), {"numbers": call.hidden_before.shape[-1]}
            [hidden_ND] = self.call_function(exited, context, SkippedLayer(call.index), widths)
            call.replace_hidden(exited.tokens, hidden_ND)


class KeysMode(Mode):
    """Mode whose function returns the keys and values of skipped layers."""

    writes_kv = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        if exited.tokens.has_tokens():
            context, index = exited.context(call.hidden_before), call.index

            def make(key: Any, value: Any, input_NF: Tensor) -> Sequence[Tensor]:
                widths = {"keys": key.out_features, "values": value.out_features}
                return self.call_function(exited, context, SkippedLayer(index, key, value, input_NF), widths)

            call.replace_keys(exited.tokens, make)

    def obstacle(self, decoder: Decoder) -> str:
        if all(each.projections for each in decoder.for_keys):
            return ""
        return "not all its layers make keys and values by modules of their own: use fill='hidden'"


class KVMapMode(Mode):
    """Mode in which trained KV maps compute the keys and values of skipped layers, except the first one."""

    writes_kv = needs_kv_maps = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        call.write()
        maps = exited.kv_maps
        assert maps, "a mode that maps needs KV maps"
        if call.index < maps.first_layer or not (mapped := exited.before_layer(call.index - 1)).tokens.has_tokens():
            return
        context, index = mapped.context(call.hidden_before), call.index
        if maps.makes_keys:
            call.replace_keys(mapped.tokens, lambda key, value, input_NF: maps.apply(context.layer, input_NF, index))
        else:
            call.replace_hidden(mapped.tokens, maps.apply(context.layer, context.hidden, index)[0])

    def cost(self, keys_L: np.ndarray, mapped_LL: np.ndarray | None, exit_layer_T: np.ndarray) -> np.ndarray:
        assert mapped_LL is not None
        by_map_LT: np.ndarray = mapped_LL[exit_layer_T].T
        return by_map_LT


class CacheCopyMode(Mode):
    """Mode whose skipped layers have a copy of the exit layer's keys and values."""

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        call.copy(exited.flag_BT)

    def obstacle(self, decoder: Decoder) -> str:
        reason = "its layers' keys and values differ in shape, and can't be copied from layer to layer"
        return reason if len(set(decoder.cache_shapes)) > 1 else ""


class SkipMode(Mode):
    """Mode without keys and values in skipped layers: later tokens don't attend to the position there."""

    hides_positions = True

    def enter(self, call: LayerCall, exited: ExitedTokens) -> None:
        call.hide(exited.flag_BT)

    def obstacle(self, decoder: Decoder) -> str:
        reason = "its layers are given no attention masks, so that no position can be hidden in one alone"
        return "" if decoder.has_masks else reason


KINDS: Final[dict[str, type[Mode]]] = {
    "full depth": FullDepthMode, "hidden at the exit": ResidualMode, "hidden": HiddenStateMode, "kv": KeysMode,
    "maps": KVMapMode, "copy": CacheCopyMode, "none": SkipMode,
}  # fmt: skip
_OF_FUNCTIONS: Final = ("hidden", "kv", "copy", "none")  # kinds of custom modes


@overload
def mode(function: Callable[..., Any], /) -> Mode: ...


@overload
def mode(*, fill: str = "hidden", **declared: Any) -> Callable[[Callable[..., Any]], Mode]: ...


def mode(
    function: Callable[..., Any] | None = None, /, *, fill: str = "hidden", **declared: Any
) -> Mode | Callable[[Callable[..., Any]], Mode]:
    """Make a function a mode, whose name is the function's and whose definition is its docstring.

    `function(exit, layer)` gets an `ExitContext` and a `SkippedLayer`. It returns a hidden state (N, D), of which the
    layer makes keys and values. With fill="kv", it returns a pair of keys and values, (N, n) each, before norms and
    rotary angles. Results have the dtype of exit.hidden, and are finite. With fill="copy" (of the exit layer's keys
    and values) or "none", the function is not called. With `needs`, `exit` has further hidden states: "hidden_in",
    "embedding", or a list of both. Raise `UsageError` for a function that can't be a mode, or has a name of eexit's.
    """

    def define(function: Callable[..., Any]) -> Mode:
        fields = entry_fields("mode", function, MODES)
        what = f"mode {fields['name']}"
        if fill not in (_OF_FUNCTIONS if fields["source"] else tuple(KINDS)):
            raise UsageError(f"{what}: fill is hidden, kv, copy or none, got {fill!r}")
        needs = needs_of(declared.get("needs", ()))
        if unknown := [need for need in needs if need not in ("hidden_in", "embedding")]:
            raise UsageError(f"{what}: needs are hidden_in and embedding, got {unknown[0]!r}")
        if len(inspect.signature(function).parameters) != 2:
            raise UsageError(f"{what} is a function of an exit and of a skipped layer")
        entry = KINDS[fill](**{**fields, **declared, "fill": fill, "needs": needs})
        entry.register()
        return entry

    return define if function is None else define(function)


@mode(fill="full depth", short="U")
def unfrozen(exit: ExitContext, layer: SkippedLayer) -> None:
    """changes nothing but the token: later tokens attend to the full-depth KV cache"""


@mode(fill="hidden at the exit", short="F")
def frozen_residual(exit: ExitContext, layer: SkippedLayer) -> None:
    """freezes the hidden state at the exit: past the exit layer, later tokens attend to keys and values computed
    from it (the state propagation of CALM, Schuster et al. 2022)"""


@mode(fill="maps", short="M")
def mapped_residual(exit: ExitContext, layer: SkippedLayer) -> None:
    """freezes the hidden state at the exit: past the exit layer, later tokens attend to keys and values that
    trained KV maps compute from it (--kv-maps)"""


@mode(fill="copy", short="C")
def frozen_cache(exit: ExitContext, layer: SkippedLayer) -> None:
    """copies the KV cache: past the exit layer, later tokens attend to a copy of the exit layer's keys
    and values (known to be bad: in CALM it took ROUGE-L from 38.2 to 23.0)"""


@mode(fill="none", short="S")
def skip(exit: ExitContext, layer: SkippedLayer) -> None:
    """leaves nothing: past the exit layer, later tokens do not attend to its position"""
