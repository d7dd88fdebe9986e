"""Layers that make no more than keys and values: without the queries, where these come from matrices of their own.

What a layer runs until its keys and values are in the cache is found by observing it, and no architecture is known by
name. A module whose output may be NaN without a change of the keys and values is left out. A matrix that makes queries,
keys and values together is run as it is. A linear module whose NaN shows in the keys alone is what makes them, and so
with values.

Shapes: T tokens, W width of the residual stream.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eexit.model.cache import KVCache
from eexit.model.layerwise import KeysAlone, Layerwise, StandIn, graft
from eexit.model.support.same_numbers import require_same
from eexit.model.views import KeysWritten


@torch.inference_mode()
def keys_alone(decoder: Layerwise, entering: Sequence[Tensor]) -> list[KeysAlone]:
    """Copies of all layers that share their weights, for writing keys and values alone.

    `entering` are residual streams before each layer, (1, T, W). Raises `UsageError` if a copy's keys and values are
    not the layer's own.
    """
    with decoder.attending():
        return [_without_queries(decoder, layer, hidden_1TW) for layer, hidden_1TW in enumerate(entering)]


def _without_queries(decoder: Layerwise, layer: int, hidden_1TW: Tensor) -> KeysAlone:
    n_tokens, whole = hidden_1TW.shape[1], decoder.layers[layer]
    position_1T = torch.arange(n_tokens, device=decoder.device)[None]
    view = decoder.view(KVCache(1, n_tokens), position_1T, n_tokens)
    _, layer_pass = decoder.begin(torch.ones_like(position_1T), view)
    layer_pass.block(layer, hidden_1TW)
    on_device, hidden_1TW = layer_pass.on(layer), decoder.where(layer, hidden_1TW)
    held, call = on_device.view.cache.held(layer), on_device.calls[layer]
    whole_parts = [part.clone() for part in held]

    def written(alone: Any) -> Sequence[Tensor]:
        for part in held:
            part.zero_()
        with on_device.view.keys_only(), suppress(KeysWritten):
            alone(hidden_1TW, *call.args, **call.kwargs)
        return held

    alone: nn.Module = whole
    left_out: list[str] = []
    linear: list[tuple[str, list[bool]]] = []  # each module's path, and whether it makes keys, and values
    for name, output in _run_before_keys(whole, written).items():
        if name.startswith(tuple(f"{parent}." for parent in left_out)):
            continue
        module, constant = whole.get_submodule(name), partial(_constant, output.shape[-1], output.dtype)
        without = graft(alone, name, StandIn(module, partial(constant, torch.nan)))
        parts = written(without)
        if all(torch.equal(ours, expected) for ours, expected in zip(parts, whole_parts, strict=True)):
            left_out.append(name)
            alone = graft(alone, name, StandIn(module, partial(constant, 0.0)))
        elif hasattr(module, "out_features"):
            linear.append((name, [bool(part.isnan().any()) for part in parts]))
    for what, ours, expected in zip(("keys", "values"), written(alone), whole_parts, strict=True):
        require_same(f"what layer {layer} writes as {what} without its queries", ours, expected)
    return KeysAlone(alone, _projections(linear))


def _constant(width: int, dtype: torch.dtype, number: float, vectors: Tensor, *_: object, **__: object) -> Tensor:
    """In place of a module that maps vectors to vectors of this width: the same number everywhere."""
    return vectors.new_full((*vectors.shape[:-1], width), number, dtype=dtype)


def _projections(linear: Sequence[tuple[str, list[bool]]]) -> tuple[str, str] | None:
    """The paths of what makes keys alone and values alone, if these are the only linear modules that make either."""
    match linear:
        case [(key, [True, False]), (value, [False, True])] | [(value, [False, True]), (key, [True, False])]:
            return key, value
    return None


def _run_before_keys(layer: nn.Module, write: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    """The modules that a layer runs before its keys and values are written, outer ones first, by their paths.

    They are those that map vectors to vectors; of each, what it gave.
    """
    ended: dict[str, Tensor] = {}

    def note(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def end(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            entering = args[0] if args else None
            if isinstance(entering, Tensor) and isinstance(output, Tensor) and entering.shape[:-1] == output.shape[:-1]:
                ended[path] = output

        return end

    paths = [path for path, _ in layer.named_modules() if path]
    handles = [layer.get_submodule(path).register_forward_hook(note(path)) for path in paths]
    try:
        write(layer)
    finally:
        for handle in handles:
            handle.remove()
    return {path: ended[path] for path in paths if path in ended}
