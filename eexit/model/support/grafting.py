"""Shallow copies of a model with modules replaced: to record how layers are called, or to run the head or keys alone.

Shapes: B rows, T tokens, W width of the residual stream.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from eexit.model.layer_calls import LayerCall


class Recorder:
    """Replaces a layer: records how it is called, and returns the residual stream unchanged."""

    def __init__(self, layer: nn.Module, calls: list[tuple[Tensor, LayerCall]], returns_tuple: bool):
        self.layer, self.calls, self.returns_tuple = layer, calls, returns_tuple

    def __call__(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor]:
        self.calls.append((hidden_states, LayerCall(args, kwargs)))
        return (hidden_states,) if self.returns_tuple else hidden_states

    def __getattr__(self, name: str) -> object:
        return getattr(self.layer, name)


class Constant:
    """Replaces a module that maps vectors to vectors of this width: returns the same number everywhere."""

    def __init__(self, module: nn.Module, width: int, dtype: torch.dtype, number: float):
        self.module, self.width, self.dtype, self.number = module, width, dtype, number

    def __call__(self, vectors: Tensor, *_: object, **__: object) -> Tensor:
        return vectors.new_full((*vectors.shape[:-1], self.width), self.number, dtype=self.dtype)

    def __getattr__(self, name: str) -> object:
        return getattr(self.module, name)


class _StackOutput(BaseModelOutputWithPast):
    """The output of a stack of layers. Whatever else a model looks for in it, such as router logits, is None."""

    def __getattr__(self, name: str) -> None:
        return None


class Echo:
    """Replaces the stack of layers: returns its input embeddings as the last hidden state."""

    def __init__(self, stack: nn.Module):
        self.stack = stack

    def __call__(self, *_: object, inputs_embeds: Tensor, **__: object) -> _StackOutput:
        return _StackOutput(last_hidden_state=inputs_embeds)

    def __getattr__(self, name: str) -> object:
        return getattr(self.stack, name)


def graft(root: nn.Module, path: str, replacement: object) -> Any:
    """A copy of `root` that shares all its weights, with the module at `path` replaced."""
    shell = copy.copy(root)
    head, _, rest = path.partition(".")
    child = graft(getattr(root, head), rest, replacement) if rest else replacement
    object.__setattr__(shell, head, child)
    return shell


@dataclass(frozen=True)
class KeysAlone:
    """A layer that makes no more than its keys and values.

    `projections` are the paths of the two linear modules of which one makes its keys and the other its values, before
    norms and rotary angles; None where there are no two such modules.
    """

    layer: nn.Module
    projections: tuple[str, str] | None = None

    def __call__(self, hidden_BTW: Tensor, *args: object, **kwargs: object) -> Any:
        return self.layer(hidden_BTW, *args, **kwargs)

    @property
    def own_projections(self) -> tuple[nn.Module, nn.Module]:
        """Of layers that have two such modules."""
        assert self.projections
        key, value = (self.layer.get_submodule(path) for path in self.projections)
        return key, value

    def projecting(self, *projections: Callable[[Tensor], Tensor]) -> "KeysAlone":
        """The layer with these in place of the two modules."""
        assert self.projections
        layer = self.layer
        for path, project in zip(self.projections, projections, strict=True):
            layer = graft(layer, path, project)
        return KeysAlone(layer, self.projections)
