"""A model that remembers its forward, for the naive reference: rows of a prompt run the same tokens again and again."""

import copy
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class Remembering:
    """Gives for the same tokens after the same keys and values what the model gave, and leaves the same in the cache.

    A call under other hooks than the model's own, which are those of the reference's students, is always made.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.config, self.device = model.config, model.device
        self._model = model
        self._remembered: dict[bytes, tuple[Any, list[Any]]] = {}
        self._modules = list(model.modules())  # to find them anew takes as long as to run some
        model(torch.tensor([[0]], device=model.device), output_hidden_states=True)  # transformers adds its own hooks
        self._own_hooks = self.hooks()

    def __call__(self, inputs: Tensor, cache: DynamicCache, **options: Any) -> Any:
        if self.hooks() != self._own_hooks:
            return self._model(inputs, cache=cache, **options)
        call = digest(inputs, cache)
        if call not in self._remembered:
            output = self._model(inputs, cache=cache, **options)
            self._remembered[call] = output, copied(cache.layers)
        output, layers = self._remembered[call]
        cache.layers = copied(layers)
        return output

    def hooks(self) -> list[int]:
        """The numbers of all hooks; torch gives none twice."""
        return [number for its in self._modules for number in (*its._forward_hooks, *its._forward_pre_hooks)]


def digest(inputs: Tensor, cache: DynamicCache) -> bytes:
    """Identifies the tokens, and the keys and values bit by bit."""
    seen, layers = blake2b(repr((inputs.tolist(), cache.get_seq_length())).encode()), list[Any](cache.layers)
    for layer in layers:
        for part in (layer.keys, layer.values) if layer.is_initialized else ():
            seen.update(part.contiguous().view(torch.uint8).numpy())
    return seen.digest()


def copied(layers: list[Any]) -> list[Any]:
    """Layers of a cache with keys and values of their own."""
    copies = [copy.copy(layer) for layer in layers]
    for layer in copies:
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
    return copies
