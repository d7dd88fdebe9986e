"""The model's own forward over whole texts, in which positions that have exited keep their residual stream.

This is `frozen_residual` in parallel over positions: at a layer past its exit, a position's stream stays as it was, so
that the layer makes its keys and values from the frozen stream. Autograd goes through it.

Shapes: B texts, T positions, N decided positions of all texts, W width of the residual stream.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eexit.model.support.refusals import find_stack
from eexit.training.texts import Text

Change = Callable[
    [int, Tensor, Tensor], Tensor
]  # of a layer and the streams before and after it, to the stream that goes on


@dataclass(frozen=True)
class Padded:
    """Texts padded on the right, where no earlier position sees it, and where in them a decided token comes from.

    A text ends before its last token, which nothing is read from. The position that gives an answer's first token is
    not among the N.
    """

    token_BT: Tensor
    row_N: Tensor
    position_N: Tensor

    @classmethod
    def of(cls, texts: Sequence[Text], device: torch.device) -> "Padded":
        tokens = [torch.tensor([*text.prompt_token_ids, *text.token_ids[:-1]], device=device) for text in texts]
        position = [
            torch.arange(len(text.prompt_token_ids), len(token_T), device=device)
            for text, token_T in zip(texts, tokens, strict=True)
        ]
        row = [torch.full_like(position_T, row) for row, position_T in enumerate(position)]
        return cls(nn.utils.rnn.pad_sequence(tokens, batch_first=True), torch.cat(row), torch.cat(position))

    def exits_at(self, exit_N: Tensor, final: int) -> Tensor:
        """The exit layer of every position, (B, T): all but the decided ones go through all layers."""
        exit_BT = torch.full_like(self.token_BT, final)
        exit_BT[self.row_N, self.position_N] = exit_N
        return exit_BT


class LayerStack:
    """The module of a model that runs its layers, called with token ids."""

    def __init__(self, model: PreTrainedModel, n_layers: int):
        path, name = find_stack(model, n_layers)
        self.module = model.get_submodule(path)
        self.layers: list[nn.Module] = list(getattr(self.module, name))

    def streams(self, padded: Padded, at: Collection[int], exit_N: Tensor | None = None) -> dict[int, Tensor]:
        """The residual streams after the layers `at` at the decided positions, (N, W) each.

        With exit layers, a position past its exit has the stream that it had there.
        """
        found: dict[int, Tensor] = {}
        exit_BT1 = None if exit_N is None else padded.exits_at(exit_N, len(self.layers) - 1)[..., None]

        def change(layer: int, before_BTW: Tensor, after_BTW: Tensor) -> Tensor:
            if exit_BT1 is not None:
                after_BTW = torch.where(layer <= exit_BT1, after_BTW, before_BTW)
            if layer in at:
                found[layer] = after_BTW[padded.row_N, padded.position_N]
            return after_BTW

        with _changing(self.layers, change):
            self.module(input_ids=padded.token_BT, use_cache=False)
        return found


@contextmanager
def _changing(layers: Sequence[nn.Module], change: Change) -> Iterator[None]:
    """A context in which what a layer returns goes through `change`."""

    def hook(layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        before = args[0] if args else kwargs["hidden_states"]
        if isinstance(output, tuple | list):
            return (change(layer, before, output[0]), *output[1:])
        return change(layer, before, output)

    handles = [each.register_forward_hook(partial(hook, layer), with_kwargs=True) for layer, each in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
