"""A model's parts and devices, by its modules and configuration; and copies of it with modules replaced.

Copies share all weights, and the modules of the model itself never change. No model family is known by name.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from eexit.errors import UsageError


class ModuleProxy:
    """Replacement of a module that calls a function in place of its forward, with the module's attributes."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]):
        self.module, self.call = module, call

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.call(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self.module, name)


def replace_module(root: nn.Module, path: str, replacement: object) -> Any:
    """Return a copy of `root` that shares all its weights, with the module at `path` replaced."""
    shell = copied(root)
    head, _, rest = path.partition(".")
    child = replace_module(getattr(root, head), rest, replacement) if rest else replacement
    object.__setattr__(shell, head, child)
    return shell


def copied(module: nn.Module) -> Any:
    """Return a shallow copy of a module with its class's `forward`, without the hooks that accelerate adds."""
    shell: Any = object.__new__(type(module))
    fields = {name: each for name, each in vars(module).items() if name not in ("forward", "_old_forward", "_hf_hook")}
    object.__setattr__(shell, "__dict__", fields)
    return shell


def observed(root: nn.Module, paths: Iterable[str]) -> tuple[Any, list[tuple[str, object, Any]]]:
    """Return a copy of `root` that records calls of its modules at `paths`, and the list of calls, inner ones first.

    A call is recorded as the module's path, its first argument and its output.
    """
    calls: list[tuple[str, object, Any]] = []

    def note(path: str, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = module(*args, **kwargs)
        calls.append((path, args[0] if args else None, output))
        return output

    for path in paths:
        module = root.get_submodule(path)
        root = replace_module(root, path, ModuleProxy(module, partial(note, path, module)))
    return root, calls


def find_stack(model: PreTrainedModel, n_layers: int) -> tuple[str, str]:
    """Return the path of the module whose forward runs the layers, and the name of its list of layers.

    Raise `UsageError` if there is no such module, or its forward takes no token ids or no KV cache.
    """
    for path, module in model.named_modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == n_layers and list(child[0].children()):
                parameters = inspect.signature(module.forward).parameters
                if "input_ids" not in parameters:
                    what = f"{type(module).__name__}, which runs its layers,"
                    raise UsageError(f"{what} takes embeddings made elsewhere, not token ids")
                if "mems" in parameters:
                    raise UsageError("it keeps memories outside the KV cache, which it doesn't take")
                return path, name
    raise UsageError(f"it has no list of {n_layers} decoder layers, as many as its configuration names")


def devices_of(layers: Sequence[nn.Module]) -> list[torch.device]:
    """Return the device of each layer. Raise `UsageError` for a layer on several devices."""
    for index, layer in enumerate(layers):
        if len(devices := sorted({str(parameter.device) for parameter in layer.parameters()})) > 1:
            where = " and ".join(devices)
            raise UsageError(f"layer {index} is on {where}: give a device_map that has each layer on one device")
    return [device_of(layer) for layer in layers]


def device_of(module: nn.Module) -> torch.device:
    """Return a module's device; without parameters, all of its weights are packed, for the CPU."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


class _StackOutput(BaseModelOutputWithPast):
    """Output of a stack of layers; other fields that a model reads of it, such as router logits, are None."""

    def __getattr__(self, name: str) -> None:
        return None


def without(model: nn.Module, path: str) -> Any:
    """Return a copy of a model in which the module at `path` returns its input embeddings as the last hidden state."""

    def echo(*_: object, inputs_embeds: Tensor, **__: object) -> _StackOutput:
        return _StackOutput(last_hidden_state=inputs_embeds)

    return replace_module(model, path, ModuleProxy(model.get_submodule(path), echo))


def context_of(config: Any) -> int | None:
    """Return the number of positions that a model has; None without a limit."""
    names = ("max_position_embeddings", "max_seq_len", "max_target_positions")
    return next((length for name in names if (length := getattr(config, name, None))), None)


def switch_length(config: Any) -> int | None:
    """Return the number of tokens beyond which a model has its long rotary factors; None without LongRoPE."""
    parameters = getattr(config, "rope_parameters", None) or {}
    of_types = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    lengths = [each["original_max_position_embeddings"] for each in of_types if each.get("rope_type") == "longrope"]
    return min(lengths, default=None)
