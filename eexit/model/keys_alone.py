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
from typing import Any, TypeVar

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from eexit.errors import UsageError
from eexit.model.cache import KeysWritten, KVCache
from eexit.model.devices import device_of

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Given = tuple[Tensor, tuple[Any, ...], dict[str, Any]]  # a residual stream, and further arguments of a layer
Projection = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]  # keys or values, of what the layer's own gets


class StandIn:
    """Takes the place of a module: calls of it are calls of this function, and all else is the module's own."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]):
        self.module, self.call = module, call

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.call(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self.module, name)


def graft(root: nn.Module, path: str, replacement: object) -> Any:
    """Return a copy of `root` that shares all its weights, with the module at `path` replaced."""
    shell = copied(root)
    head, _, rest = path.partition(".")
    child = graft(getattr(root, head), rest, replacement) if rest else replacement
    object.__setattr__(shell, head, child)
    return shell


def copied(module: AnyModule) -> AnyModule:
    """A copy of a module with its class's own forward, in whose place accelerate puts another."""
    shell = object.__new__(type(module))
    own = {**vars(module)}
    for name in ("forward", "_old_forward", "_hf_hook"):
        own.pop(name, None)
    object.__setattr__(shell, "__dict__", own)
    return shell


@dataclass(frozen=True)
class KeysAlone:
    """A layer that makes no more than its keys and values.

    `projections` are the paths of the two linear modules of which one makes its keys and the other its values, before
    norms and rotary angles; None where there are no two such modules. `is_moved` says that the layer has hooks of
    accelerate, which move to it what it is given.
    """

    layer: nn.Module
    device: torch.device
    is_moved: bool
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
        return layer, send_to_device(given, self.device, skip_keys="cache") if self.is_moved else given

    def write(
        self, cache: KVCache, hidden_BTW: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any],
        projections: Sequence[Projection] = (),
    ) -> None:  # fmt: skip
        """Write the keys and values of this residual stream, (B, T, W), with the layer's other arguments.

        The functions `projections` take the place of the modules that make keys and values.
        """
        layer, (hidden_BTW, args, kwargs) = self.projecting(self.layer, (hidden_BTW, args, kwargs), projections)
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
    device, is_moved = device_of(layer), hasattr(layer, "_hf_hook")

    def written(alone: nn.Module) -> Sequence[Tensor]:
        return write(KeysAlone(alone, device, is_moved))

    alone = copied(layer)
    left_out: list[str] = []
    linear: list[tuple[str, list[bool]]] = []  # each module's path, and whether it makes keys, and values
    for name, output in _run_before_keys(alone, written).items():
        if name.startswith(tuple(f"{parent}." for parent in left_out)):
            continue
        module, constant = layer.get_submodule(name), partial(_constant, output.shape[-1], output.dtype)
        without = graft(alone, name, StandIn(module, partial(constant, torch.nan)))
        parts = written(without)
        if all(torch.equal(ours, own) for ours, own in zip(parts, expected, strict=True)):
            left_out.append(name)
            alone = graft(alone, name, StandIn(module, partial(constant, 0.0)))
        elif hasattr(module, "out_features"):
            linear.append((name, [bool(part.isnan().any()) for part in parts]))
    if not all(torch.equal(ours, own) for ours, own in zip(written(alone), expected, strict=True)):
        raise UsageError("keys and values are others without queries")
    return KeysAlone(alone, device, is_moved, _projections(linear))


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

    def note(path: str, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output, entering = module(*args, **kwargs), args[0] if args else None
        if isinstance(entering, Tensor) and isinstance(output, Tensor) and entering.shape[:-1] == output.shape[:-1]:
            ended[path] = output
        return output

    paths = [path for path, _ in layer.named_modules() if path]
    for path in reversed(paths):  # inner ones first
        module = layer.get_submodule(path)
        layer = graft(layer, path, StandIn(module, partial(note, path, module)))
    write(layer)
    return {path: ended[path] for path in paths if path in ended}
