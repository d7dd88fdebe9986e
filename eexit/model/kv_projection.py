"""Layers that make no more than keys and values: without the queries, where these come from matrices of their own.

What a layer runs until its keys and values are in the cache is found by observing it, and no architecture is known by
name. A module whose output may be NaN without a change of the keys and values is left out. A matrix that makes queries,
keys and values together is run as it is. A linear module whose NaN shows in the keys alone is what makes them, and so
with values.
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

Projection = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]  # keys or values, of what the layer's own gets


@dataclass(frozen=True)
class KVProjection:
    """A layer that makes no more than its keys and values.

    `projections` are the paths of the two linear modules of which one makes its keys and the other its values, before
    norms and rotary angles; None where there are no two such modules.
    """

    layer: nn.Module
    projections: tuple[str, str] | None = None

    @property
    def own_projections(self) -> tuple[nn.Module, nn.Module]:
        """The modules at `projections`, for layers that have them."""
        assert self.projections
        key, value = (self.layer.get_submodule(path) for path in self.projections)
        return key, value

    def projecting(self, layer: nn.Module, projections: Sequence[Projection]) -> nn.Module:
        """A copy of the layer in which `projections` take the place of the two modules."""
        for path, project in zip(self.projections or (), projections, strict=True):
            layer = replace_module(layer, path, partial(project, layer.get_submodule(path)))
        return layer

    def write(self, cache: KVCache, projections: Sequence[Projection], /, *args: Any, **kwargs: Any) -> None:
        """Write the keys and values of what the layer is given, with `projections`, if any, in place of its own."""
        layer = self.projecting(self.layer, projections) if projections else self.layer
        cache.only_keys = True
        try:
            with suppress(StopAfterKV):
                layer(*args, **kwargs)
        finally:
            cache.only_keys = False


@torch.inference_mode()
def without_queries(layer: nn.Module, cache: KVCache, index: int, /, *args: Any, **kwargs: Any) -> KVProjection:
    """Return a copy of a layer that shares its weights and writes keys and values alone.

    The cache has what the layer, number `index`, has just written of these arguments, and nothing else. Raises
    `UsageError` if that is nothing, or if a copy writes something else.
    """
    columns = cache.columns[index]
    if not columns.is_initialized:
        raise UsageError(f"layer {index} keeps no keys and values per position")
    expected = columns.keys.clone(), columns.values.clone()

    def written(alone: nn.Module) -> tuple[bool, Sequence[Tensor]]:
        """What the copy writes, and whether it is what the layer writes."""
        columns.reset()
        KVProjection(alone).write(cache, (), *args, **kwargs)
        parts = columns.keys, columns.values
        return all(torch.equal(ours, own) for ours, own in zip(parts, expected, strict=True)), parts

    alone = copied(layer)
    observing, calls = observed(alone, [path for path, _ in reversed([*layer.named_modules()]) if path])
    written(observing)
    made: dict[str, Tensor] = {}  # by modules that map vectors to vectors
    for path, entering, output in calls:
        if isinstance(entering, Tensor) and isinstance(output, Tensor) and entering.shape[:-1] == output.shape[:-1]:
            made[path] = output
    left_out: list[str] = []
    linear: list[tuple[str, list[bool]]] = []  # each module's path, and whether it makes keys, and values
    for name, module in layer.named_modules():  # outer ones first
        if name not in made or name.startswith(tuple(f"{parent}." for parent in left_out)):
            continue
        unknown = partial(_unknown, made[name].shape[-1], made[name].dtype)
        without = replace_module(alone, name, ModuleProxy(module, unknown))
        is_same, parts = written(without)
        if is_same:
            left_out.append(name)
            alone = without
        elif hasattr(module, "out_features"):
            linear.append((name, [bool(part.isnan().any()) for part in parts]))
    if not written(alone)[0]:
        raise UsageError("keys and values are others without queries")
    match linear:
        case [(key, [True, False]), (value, [False, True])] | [(value, [False, True]), (key, [True, False])]:
            return KVProjection(alone, (key, value))
    return KVProjection(alone)


def _unknown(width: int, dtype: torch.dtype, vectors: Tensor, *_: object, **__: object) -> Tensor:
    """In place of a module that maps vectors to vectors of this width: NaN everywhere."""
    return vectors.new_full((*vectors.shape[:-1], width), torch.nan, dtype=dtype)
