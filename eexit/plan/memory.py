"""How much memory a model takes, found without loading its weights."""

import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from eexit.errors import UsageError, first_line
from eexit.model.adapters import PREFIX, WEIGHTS, refuse_merging, refuse_without_peft
from eexit.model.file_digests import is_peft
from eexit.model.layers import context_of
from eexit.model.loading import choose_device, choose_dtype, not_loadable, read_config
from eexit.model.quantization import GROUP, INT4, refuse_left_whole
from eexit.model.refusals import find_stack, refuse_unsupported
from eexit.model.sources import locate
from eexit.plan.config import SweepConfig

_CHANGE: Final = re.compile(r"\.(?:lora_|base_layer\.|weight$|bias$)")  # what follows the name of a changed module


def estimate_memory(config: SweepConfig) -> tuple[int, int, int | None, tuple[int, int]]:
    """Bytes of the weights, and of a token's keys and values (teacher's and student's); nothing is loaded.

    Then how many tokens a row may have, None without a limit, and the bytes of a layer's weights and of the head's. The
    weights include those that a student does not share with the model; those that a checkpoint has quantised count as
    whole ones. Activations and the device's libraries need memory on top of that. Raises `UsageError` as
    `describe_model` does, and for an adapter that does not fit.
    """
    found = read_config(config, locate(config.model))
    text = found.get_text_config(decoder=True)
    try:
        refuse_unsupported(found, text)
    except UsageError as error:
        raise UsageError(f"model {config.model} is not supported: {error}") from error
    model = _without_weights(config, found)
    if config.quantize is not None:
        refuse_left_whole(config.quantize, model)
        if config.adapter is not None:
            refuse_merging(config.adapter, config.quantize)
    dtype, head = choose_dtype(config.dtype, choose_device("auto"), config.quantize), model.get_output_embeddings()
    size = dtype.itemsize
    held = partial(quantized_bytes, quantize=config.quantize, head=head, itemsize=size)
    weights = held(model) + (0 if config.adapter is None else own_weights(model, config.adapter) * size)
    parts = (0, 0)
    with suppress(UsageError):  # what is told when the model is loaded
        path, name = find_stack(model, text.num_hidden_layers)
        parts = held(getattr(model.get_submodule(path), name)[0]), 0 if head is None else held(head)
    return weights, 2 * _numbers_per_position(model, text) * size, context_of(text), parts


def _without_weights(config: SweepConfig, found: Any) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(found, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # a model's code may raise anything for such a configuration
        raise not_loadable(config, error) from error
    return model


@torch.inference_mode()
def _numbers_per_position(model: PreTrainedModel, text: Any) -> int:
    """How many numbers the keys and values of a position have: by a run on the meta device, or by the config."""
    cache = DynamicCache()
    with suppress(Exception):  # code that depends on values, such as routing to experts, fails on the meta device
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device="meta"), cache=cache, use_cache=True)
    n_layers: int = text.num_hidden_layers
    written: list[Any] = list(cache.layers)
    seen = [layer.keys.numel() + layer.values.numel() for layer in written if layer.is_initialized]
    return sum(seen) * n_layers // len(seen) if seen else sum(map(_numbers_named, text.per_layer_config))


def _numbers_named(layer: Any) -> int:
    heads: int = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    width: int = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return 2 * heads * width


def own_weights(model: nn.Module, folder: str) -> int:
    """How many weights a student with this adapter would not share with the model, whose device may be `meta`.

    Raises `UsageError` as `merged` does.
    """
    path = Path(folder).expanduser()
    if not is_peft(path):
        return sum(parameter.numel() for parameter in model.parameters())
    refuse_without_peft(folder)
    try:
        with safe_open(path / WEIGHTS, framework="pt") as held:
            names = {_CHANGE.split(name.removeprefix(PREFIX))[0] for name in held.keys()}  # noqa: SIM118
        changed = [model.get_submodule(name) for name in names]
    except Exception as error:  # safetensors' own, and torch's for a module that is not there
        raise UsageError(f"--adapter {folder} can't be used with this model: {first_line(error)}") from error
    return sum(parameter.numel() for module in changed for parameter in module.parameters(recurse=False))


def quantized_bytes(module: nn.Module, quantize: str | None, head: nn.Module | None, itemsize: int) -> int:
    """The bytes that the weights of a module without any, on the meta device, take once they are quantised."""
    total = sum(parameter.numel() for parameter in module.parameters()) * itemsize
    for each in module.modules() if quantize else ():
        if isinstance(each, nn.Linear) and each is not head:
            n_weights = each.weight.numel()
            packed = n_weights + 5 * each.out_features  # a scale in float32 for each output, and its zero point
            if quantize == INT4:
                packed = n_weights // 2 + 2 * itemsize * n_weights // GROUP
            total += packed - n_weights * itemsize
    return total
