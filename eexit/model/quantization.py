"""Weights in few bits: quantised by torchao while a model is loaded, or as a checkpoint brings them.

A linear layer with such a weight is called like any other, so that only code that reads weights differs. Embeddings and
the LM head stay as they are, as transformers' quantisers leave them.
"""

from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel, TorchAoConfig

from eexit.cpu.packed_linear import PackedLinear, is_unquantized
from eexit.errors import UsageError
from eexit.output.text import with_weights

INT8, INT4 = "int8", "int4"
GROUP: Final = 32  # neighbouring weights of an output that share a scale and a zero point in int4
_BY_CLASS: Final = {"Int8Tensor": INT8, "Int4OpaqueTensor": INT4, "Int4TilePackedTo4dTensor": INT4}  # of torchao


def quantization_of(model: PreTrainedModel) -> str | None:
    """Return how the model's weights are quantised, such as int8 or gptq; None if none is."""
    weights: list[Any] = [*model.parameters()]  # and those of linear layers, which may hold theirs otherwise
    weights += [getattr(module, "weight", None) for module in model.modules() if hasattr(module, "in_features")]
    classes = {type(getattr(weight, "data", None)).__name__ for weight in weights if not is_unquantized(weight)}
    other = method_of(model.config) or "of an unknown kind"
    return " and ".join(sorted({_BY_CLASS.get(name, other) for name in classes})) or None


def precision_of(model: PreTrainedModel) -> str:
    """Return a model's dtype and quantisation in words, such as "bfloat16 with int8 weights"."""
    return dtype_name(model.dtype) + with_weights(quantization_of(model))


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype as `--dtype` takes it, such as `float32`."""
    return str(dtype).removeprefix("torch.")


def method_of(config: Any) -> str | None:
    """Return the quantisation method in a checkpoint's configuration, such as gptq; None without one."""
    held = getattr(config, "quantization_config", None)
    method = held.get("quant_method") if isinstance(held, dict) else getattr(held, "quant_method", None)
    return None if method is None else str(getattr(method, "value", method))


def refuse_quantize(quantize: str | None, config: Any) -> None:
    """Raise `UsageError` if a checkpoint with this configuration can't be quantised here."""
    if quantize is None:
        return
    if find_spec("torchao") is None:
        raise UsageError(f"--quantize {quantize} needs torchao, which is not installed: pip install 'eexit[quantized]'")
    if (method := method_of(config)) is not None:
        raise UsageError(f"--quantize {quantize}: the model is quantised already ({method}), leave --quantize out")


def quantizing(quantize: str, device: torch.device, dtype: torch.dtype) -> TorchAoConfig:
    """Return the configuration with which transformers quantises the weights of linear layers as it loads them.

    On CPUs, torchao has int4 in its prototypes. On GPUs, its kernel takes bfloat16; other dtypes raise `UsageError`.
    """
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if quantize == INT8:
        return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))
    if device.type == "cpu":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return TorchAoConfig(PrototypeInt4WeightOnlyConfig(GROUP, set_inductor_config=False))
    if dtype != torch.bfloat16:
        raise UsageError(f"--quantize {quantize} computes in bfloat16 on {device.type}: give --dtype bfloat16")
    packing: Any = "tile_packed_to_4d"
    return TorchAoConfig(Int4WeightOnlyConfig(GROUP, set_inductor_config=False, int4_packing_format=packing))


def refuse_left_whole(quantize: str, model: PreTrainedModel) -> None:
    """Raise `UsageError` for a model with matrices, other than embeddings and head, that torchao does not quantise.

    On the meta device nothing is quantised yet, and the same matrices are refused.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or module is model.get_output_embeddings():
            continue
        can_quantize = isinstance(module, nn.Linear) and (quantize == INT8 or module.in_features % GROUP == 0)
        for child, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1 and is_unquantized(parameter) and not (parameter.is_meta and can_quantize):
                raise UsageError(
                    f"--quantize {quantize} is for linear layers (in int4, of a multiple of {GROUP} inputs), and the "
                    f"model's {name}.{child} is of none: leave --quantize out"
                )


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes of a loaded module's weights, quantised and packed weights as they are."""
    tensors = [tensor for tensor in module.state_dict(keep_vars=True).values() if isinstance(tensor, Tensor)]
    tensors += [each.weight for each in module.modules() if isinstance(each, PackedLinear)]
    return sum(part.numel() * part.element_size() for tensor in tensors for part in parts_of(tensor))


def parts_of(tensor: Tensor) -> list[Tensor]:
    """Return the plain tensors that make up a tensor, such as numbers and scales of a quantised one."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in parts_of(getattr(tensor, name))]
