"""Projections to keys and values alone: copies of layers without queries, where these have matrices of their own.

Observation finds the modules that a layer runs until its keys and values are in the cache. No architecture is known by
name. A module is left out if NaN in its output changes no key and no value. A matrix that makes queries, keys and
values together runs as it is. A linear module whose NaN shows in the keys alone makes the keys; likewise for values.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eexit.errors import UsageError
from eexit.model.cache import KVCache, StopAfterKV
from eexit.model.structure import ModuleProxy, copied, observed, replace_module

Projection = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]  # from the layer's own, and its input: keys, values


@dataclass(frozen=True)
class KVProjection:
    """A layer that makes its keys and values and stops.

    `projections` are the paths of the linear modules that make its keys and its values, before norms and rotary angles;
    None where there are no two such modules.
    """

    layer: nn.Module
    projections: tuple[str, str] | None = None

    @property
    def own_projections(self) -> tuple[nn.Module, nn.Module]:
        """The layer's key and value modules, for layers with one module for each."""
        assert self.projections
        key, value = (self.layer.get_submodule(path) for path in self.projections)
        return key, value

    def projecting(self, layer: nn.Module, projections: Sequence[Projection]) -> nn.Module:
        """Return a copy of the layer with `projections` in place of the two modules."""
        for path, project in zip(self.projections or (), projections, strict=True):
            layer = replace_module(layer, path, partial(project, layer.get_submodule(path)))
        return layer

    def write(self, cache: KVCache, projections: Sequence[Projection], /, *args: Any, **kwargs: Any) -> None:
        """Write the layer's keys and values for these arguments; `projections`, if any, replace the layer's own."""
        layer = self.projecting(self.layer, projections) if projections else self.layer
        cache.only_keys = True
        try:
            with suppress(StopAfterKV):
                layer(*args, **kwargs)
        finally:
            cache.only_keys = False


@torch.inference_mode()
def without_queries(layer: nn.Module, cache: KVCache, index: int, /, *args: Any, **kwargs: Any) -> KVProjection:
    """Return the `KVProjection` of a layer, which shares the layer's weights.

    The cache holds only the keys and values that layer `index` has just written for these arguments. Raise `UsageError`
    if it holds none, or if the projection writes other keys and values.
    """
    columns = cache.columns[index]
    if not columns.is_initialized:
        raise UsageError(f"layer {index} keeps no keys and values per position")
    expected = columns.keys.clone(), columns.values.clone()

    def write(copy: nn.Module) -> tuple[bool, Sequence[Tensor]]:
        """Write keys and values with a copy of the layer; return True if they equal the layer's, and the pair."""
        columns.reset()
        KVProjection(copy).write(cache, (), *args, **kwargs)
        parts = columns.keys, columns.values
        return all(torch.equal(ours, own) for ours, own in zip(parts, expected, strict=True)), parts

    alone = copied(layer)
    observing, calls = observed(alone, [path for path, _ in reversed([*layer.named_modules()]) if path])
    write(observing)
    outputs: dict[str, Tensor] = {}  # of modules that map vectors to vectors
    for path, input, output in calls:
        if isinstance(input, Tensor) and isinstance(output, Tensor) and input.shape[:-1] == output.shape[:-1]:
            outputs[path] = output
    left_out: list[str] = []
    linear: list[tuple[str, list[bool]]] = []  # paths; True where a module makes keys, and where it makes values
    for path, module in layer.named_modules():  # outer ones first
        if path not in outputs or path.startswith(tuple(f"{parent}." for parent in left_out)):
            continue
        unknown = partial(_unknown, outputs[path].shape[-1], outputs[path].dtype)
        without = replace_module(alone, path, ModuleProxy(module, unknown))
        is_same, parts = write(without)
        if is_same:
            left_out.append(path)
            alone = without
        elif hasattr(module, "out_features"):
            linear.append((path, [bool(part.isnan().any()) for part in parts]))
    if not write(alone)[0]:
        raise UsageError(f"layer {index}: its keys and values change when its queries are not computed")
    match linear:
        case [(key, [True, False]), (value, [False, True])] | [(value, [False, True]), (key, [True, False])]:
            return KVProjection(alone, (key, value))
    return KVProjection(alone)


def _unknown(width: int, dtype: torch.dtype, vectors: Tensor, *_: object, **__: object) -> Tensor:
    """Return NaN, of a module's output shape, in place of an output that is not computed."""
    return vectors.new_full((*vectors.shape[:-1], width), torch.nan, dtype=dtype)
