"""Cached objects that tests share: tiny models, their decoders, and outputs of the naive reference.

Outputs of a prompt run the same tokens again and again, so the reference's forward passes are cached too.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model
from reference.drafts import draft_one
from reference.generation import copy_cache, generate_one
from tiny_models import tiny_model
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from eexit.cpu.packed_linear import pack_linear_layers
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.model.layers import Decoder
from eexit.plan.configuration import Draft

ATTENTION_MODULES: Final = ("q_proj", "v_proj", "o_proj", "Wqkv", "query_key_value", "c_attn")  # of any architecture

shared_model = cache(tiny_model)  # for tests that don't change it
unit_costs_of = cache(measure_unit_costs)


@cache
def decoder_of(model: PreTrainedModel) -> Decoder:
    return Decoder(model)


@cache
def packed_decoder_of(model: PreTrainedModel) -> Decoder:
    packed = copy.deepcopy(model)
    pack_linear_layers(packed)
    return Decoder(packed)


@cache
def reference_of(
    model: PreTrainedModel, request: Request, decoding: DecodingConfig, student: PreTrainedModel | None = None
) -> RequestOutput:
    if isinstance(request.configuration, Draft):
        return draft_one(remembering(model), decoder_of(model), request, decoding)
    own = None if student is None else (remembering(student), decoder_of(student))
    return generate_one(remembering(model), decoder_of(model), request, decoding, own)


def save_adapter(model: PreTrainedModel, folder: Path, modules: Sequence[str] = ATTENTION_MODULES) -> str:
    """Save a random LoRA adapter for the listed modules that the model has."""
    torch.manual_seed(1)
    there = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    config = LoraConfig(r=4, target_modules=[name for name in modules if name in there], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses what transformers has deprecated
        get_peft_model(copy.deepcopy(model), config).save_pretrained(str(folder))
    return str(folder)


class Remembering:
    """Model that returns its earlier output for the same tokens after the same KV cache, and updates the cache alike.

    It has what the reference uses: forward, configuration and device. Calls under other hooks than the model's own,
    such as the reference's early-exit passes, are always run.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.config, self.device = model.config, model.device
        self._model = model
        self._remembered: dict[bytes, tuple[Any, DynamicCache]] = {}
        self._modules = list(model.modules())  # finding them again takes as long as running some
        model(torch.tensor([[0]], device=model.device), output_hidden_states=True)  # transformers adds its own hooks
        self._own_hooks = self.hooks()

    def __call__(self, inputs: Tensor, cache: DynamicCache, **options: Any) -> Any:
        if self.hooks() != self._own_hooks:
            return self._model(inputs, cache=cache, **options)
        call = digest(inputs, cache)
        if call in self._remembered:
            output, after = self._remembered[call]
            cache.layers = copy_cache(after).layers
            return output
        output = self._model(inputs, cache=cache, **options)
        self._remembered[call] = output, copy_cache(cache)
        return output

    def hooks(self) -> list[int]:
        """Return the numbers of all hooks; torch gives no number twice."""
        return [number for its in self._modules for number in (*its._forward_hooks, *its._forward_pre_hooks)]


remembering: Callable[[PreTrainedModel], Any] = cache(Remembering)


def digest(inputs: Tensor, cache: DynamicCache) -> bytes:
    """Return a digest of the tokens, and of the keys and values bit by bit."""
    seen, layers = blake2b(repr((inputs.tolist(), cache.get_seq_length())).encode()), list[Any](cache.layers)
    for layer in layers:
        for part in (layer.keys, layer.values) if layer.is_initialized else ():
            seen.update(part.contiguous().view(torch.uint8).numpy())
    return seen.digest()
