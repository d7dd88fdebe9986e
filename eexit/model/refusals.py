"""Checks that layers of a model can be visited, by its configuration and its modules, before anything is run.

The functions raise `UsageError`, saying what is missing.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from eexit.errors import UsageError, first_line


def refuse_unsupported(outer: Any, config: Any) -> None:
    """Raises `UsageError` for unsupported models; `config` is that of the language model within `outer`."""
    if outer.is_encoder_decoder:
        raise UsageError("it is an encoder-decoder; early exit needs a decoder-only language model")
    if not getattr(config, "num_hidden_layers", None):
        raise UsageError("its configuration has no num_hidden_layers; early exit needs a stack of decoder layers")
    try:
        layers, kinds = config.per_layer_config, set(get_layer_types_and_kwargs(config)[0])
    except ValueError as error:
        raise UsageError(f"its configuration contradicts itself: {first_line(error)}") from error
    if not all(getattr(layer, "num_attention_heads", None) for layer in layers):
        raise UsageError("it has no attention heads (a state-space model?); keys and values are needed")
    kinds -= {"full_attention", "sliding_attention"}
    if kinds == {"dummy"}:
        raise UsageError("it has layers that keep no keys and values of their own, since they share other layers'")
    if kinds:
        raise UsageError(
            f"it has layers of kind {', '.join(sorted(kinds))}; only full and sliding-window attention keep the keys "
            "and values per position that early exit needs"
        )


def refuse_compiled(model: nn.Module) -> None:
    """Raises `UsageError` for a model of which torch.compile has compiled a module, or the forward of one."""
    if any(_is_compiled(module) for module in model.modules()):
        raise UsageError("the model is compiled, and its layers can't be visited then: load it without torch.compile")


def _is_compiled(module: nn.Module) -> bool:
    by_class = type(module).__name__ == "OptimizedModule"
    return module._compiled_call_impl is not None or by_class or hasattr(module.forward, "_torchdynamo_orig_callable")


def refuse_autocast(device: torch.device) -> None:
    """Raises `UsageError` under torch.autocast, which has operators compute in another dtype than the weights' own."""
    if torch.is_autocast_enabled(device.type):
        autocast = torch.get_autocast_dtype(device.type)
        raise UsageError(
            f"torch.autocast is on, so that products are computed in another dtype than the weights': run it outside "
            f"of torch.autocast, and load the model with dtype={autocast} if that is wanted"
        )


def refuse_offloaded(model: PreTrainedModel) -> None:
    """Raises `UsageError` for a model of which a part is in the CPU's memory or on disk, and the rest on devices."""
    at = {name: parameter.device for name, parameter in model.named_parameters()}
    if len({device.type for device in at.values()}) <= 1:
        return
    left_out = next(name for kind in ("meta", "cpu") for name, device in at.items() if device.type == kind)
    where = "offloaded to the CPU's memory or to disk" if at[left_out].type == "meta" else "in the CPU's memory"
    others = sorted({str(device) for device in at.values() if device.type not in ("meta", "cpu")}) or ["the CPU"]
    raise UsageError(
        f"{left_out} is {where}, and other weights are on {', '.join(others)}: load it onto as many devices as hold "
        "all of it, with a device_map (of a sweep's actors, --gpus-per-actor), or give --quantize"
    )


def find_stack(model: PreTrainedModel, n_layers: int) -> tuple[str, str]:
    """The path of the module whose forward runs the layers, and the name of its list of layers."""
    for path, module in model.named_modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == n_layers and list(child[0].children()):
                _refuse_inputs(module)
                return path, name
    raise UsageError(f"it has no list of {n_layers} decoder layers, as many as its configuration names")


def takes(module: nn.Module, name: str) -> bool:
    """Whether a module's forward has an argument of this name."""
    return name in inspect.signature(module.forward).parameters


def _refuse_inputs(stack: nn.Module) -> None:
    if not takes(stack, "input_ids"):
        raise UsageError(
            f"{type(stack).__name__}, which runs its layers, takes embeddings made elsewhere, not token ids"
        )
    if takes(stack, "mems"):
        raise UsageError("it keeps memories of its own of what it has seen, and takes no cache of keys and values")
