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
from accelerate.utils import send_to_device
from torch import Tensor, nn

from eexit.errors import UsageError
from eexit.model.cache import KeysWritten, KVCache
from eexit.model.structure import StandIn, copied, device_of, graft, observed

Given = tuple[Tensor, tuple[Any, ...], dict[str, Any]]  # a residual stream, and further arguments of a layer
Projection = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]  # keys or values, of what the layer's own gets


@dataclass(frozen=True)
class KeysAlone:
    """A layer that makes no more than its keys and values.

    `moves_to` is the device that accelerate's hooks move to what the layer is given; None without hooks. `projections`
    are the paths of the two linear modules of which one makes its keys and the other its values, before norms and
    rotary angles; None where there are no two such modules.
    """

    layer: nn.Module
    moves_to: torch.device | None
    projections: tuple[str, str] | None = None

    @property
    def own_projections(self) -> tuple[nn.Module, nn.Module]:
        """The modules at `projections`, for layers that have them."""
        assert self.projections
        key, value = (self.layer.get_submodule(path) for path in self.projections)
        return key, value

    def projecting(self, layer: nn.Module, given: Given, projections: Sequence[Projection]) -> tuple[nn.Module, Given]:
        """A copy of the layer in which `projections`, if there are any, take the place of the two modules.

        What it is given is moved to its device where hooks do so, which a copy is without.
        """
        for path, project in zip(self.projections or () if projections else (), projections, strict=True):
            layer = graft(layer, path, partial(project, layer.get_submodule(path)))
        return layer, send_to_device(given, self.moves_to, skip_keys="cache") if self.moves_to else given

    def write(self, cache: KVCache, given: Given, projections: Sequence[Projection] = ()) -> None:
        """Write the keys and values of a residual stream, (B, T, W), with `projections` in place of the layer's own."""
        layer, (hidden_BTW, args, kwargs) = self.projecting(self.layer, given, projections)
        cache.only_keys = True
        try:
            with suppress(KeysWritten):
                layer(hidden_BTW, *args, **kwargs)
        finally:
            cache.only_keys = False


@torch.inference_mode()
def without_queries(
    layer: nn.Module, expected: Sequence[Tensor], write: Callable[[KeysAlone], Sequence[Tensor]]
) -> KeysAlone:
    """Return a copy of a layer that shares its weights and writes keys and values alone.

    `expected` are the keys and values that the layer writes, and `write` gives those that a copy writes. Raises
    `UsageError` if the copy's are not the layer's own.
    """
    moves_to = device_of(layer) if hasattr(layer, "_hf_hook") else None

    def written(alone: nn.Module) -> tuple[bool, Sequence[Tensor]]:
        """What the copy writes, and whether it is what the layer writes."""
        parts = write(KeysAlone(alone, moves_to))
        return all(torch.equal(ours, own) for ours, own in zip(parts, expected, strict=True)), parts

    alone = copied(layer)
    observing, calls = observed(alone, [path for path, _ in reversed([*layer.named_modules()]) if path])
    written(observing)
    outputs = {path: output for path, entering, output in calls if _maps_vectors(entering, output)}
    left_out: list[str] = []
    linear: list[tuple[str, list[bool]]] = []  # each module's path, and whether it makes keys, and values
    for name, module in layer.named_modules():  # outer ones first
        if name not in outputs or name.startswith(tuple(f"{parent}." for parent in left_out)):
            continue
        constant = partial(_constant, outputs[name].shape[-1], outputs[name].dtype)
        is_same, parts = written(graft(alone, name, StandIn(module, partial(constant, torch.nan))))
        if is_same:
            left_out.append(name)
            alone = graft(alone, name, StandIn(module, partial(constant, 0.0)))
        elif hasattr(module, "out_features"):
            linear.append((name, [bool(part.isnan().any()) for part in parts]))
    if not written(alone)[0]:
        raise UsageError("keys and values are others without queries")
    match linear:
        case [(key, [True, False]), (value, [False, True])] | [(value, [False, True]), (key, [True, False])]:
            return KeysAlone(alone, moves_to, (key, value))
    return KeysAlone(alone, moves_to)


def _maps_vectors(entering: object, output: object) -> bool:
    """Whether a module maps vectors to vectors."""
    return isinstance(entering, Tensor) and isinstance(output, Tensor) and entering.shape[:-1] == output.shape[:-1]


def _constant(width: int, dtype: torch.dtype, number: float, vectors: Tensor, *_: object, **__: object) -> Tensor:
    """In place of a module that maps vectors to vectors of this width: the same number everywhere."""
    return vectors.new_full((*vectors.shape[:-1], width), number, dtype=dtype)
