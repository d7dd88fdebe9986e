"""A model with one of its modules replaced: its layers by what notes how they are called, or what runs them by an echo.

Shapes: B rows, T tokens, W width of the residual stream.
"""

import copy
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from eexit.layer_calls import LayerCall


class Recorder:
    """Stands in for a layer: notes how it is called and hands the residual stream on."""

    def __init__(self, layer: nn.Module, calls: list[tuple[Tensor, LayerCall]], returns_tuple: bool):
        self.layer, self.calls, self.returns_tuple = layer, calls, returns_tuple

    def __call__(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor]:
        self.calls.append((hidden_states, LayerCall(args, kwargs)))
        return (hidden_states,) if self.returns_tuple else hidden_states

    def __getattr__(self, name: str) -> object:
        return getattr(self.layer, name)


class _StackOutput(BaseModelOutputWithPast):
    """What a stack returns; whatever else some model asks of it (cross attentions, router logits) is not there."""

    def __getattr__(self, name: str) -> None:
        return None


class Echo:
    """Stands in for the stack of layers: what goes in as embeddings comes out as its last hidden state."""

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
