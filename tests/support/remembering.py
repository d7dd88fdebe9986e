"""A model with a cached forward, for the naive reference: outputs of a prompt run the same tokens again and again."""

import copy
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class Remembering:
    """Model that returns its earlier output for the same tokens after the same KV cache, and updates the cache alike.

    Calls under other hooks than the model's own, such as the reference's early-exit passes, are always run.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.config, self.device = model.config, model.device
        self._model = model
        self._remembered: dict[bytes, tuple[Any, list[Any]]] = {}
        self._modules = list(model.modules())  # finding them again takes as long as running some
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
        """Return the numbers of all hooks; torch gives no number twice."""
        return [number for its in self._modules for number in (*its._forward_hooks, *its._forward_pre_hooks)]


def digest(inputs: Tensor, cache: DynamicCache) -> bytes:
    """Return a digest of the tokens, and of the keys and values bit by bit."""
    seen, layers = blake2b(repr((inputs.tolist(), cache.get_seq_length())).encode()), list[Any](cache.layers)
    for layer in layers:
        for part in (layer.keys, layer.values) if layer.is_initialized else ():
            seen.update(part.contiguous().view(torch.uint8).numpy())
    return seen.digest()


def copied(layers: list[Any]) -> list[Any]:
    """Return cache layers with copied keys and values."""
    copies = [copy.copy(layer) for layer in layers]
    for layer in copies:
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
    return copies
