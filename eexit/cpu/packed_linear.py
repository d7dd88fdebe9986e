"""Linear layers whose weights are packed once into the layout that oneDNN computes with, instead of at every call.

It uses the operators with which torch.compile packs frozen weights. With SmolLM2-135M and 27 rows on two cores, the
products of all layers take 23 ms instead of 36 in bfloat16, and 39 instead of 84 in float32.

A CPU without instructions for bfloat16 takes several times as long for such products as for those in float32. There,
bfloat16 weights are packed in float32, which holds them exactly: a product is summed in float32, as it is everywhere,
and rounded once. The weights then take as much memory as those of a float32 model.
"""

import ctypes
import sys

import torch
from torch import Tensor, nn

from eexit.errors import UsageError


class PackedLinear(nn.Module):
    """`nn.Linear` with a packed weight; the plain weight is not kept. Outputs have the plain weight's dtype."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype, self.multiplied_in = linear.weight.dtype, _multiplied_in(linear.weight.dtype)
        with torch.no_grad():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.to(self.multiplied_in))
            self.bias = None if linear.bias is None else linear.bias.to(self.multiplied_in)

    def forward(self, input: Tensor) -> Tensor:
        input = input.to(self.multiplied_in)
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return output.to(self.dtype)


def plain_weight(linear: nn.Module) -> Tensor:
    """The weight (m, n) of a linear layer, packed or not, in the dtype that it computes in.

    Raises `UsageError` for a quantised one.
    """
    weight = linear.weight
    if not isinstance(weight, Tensor) or not is_whole(weight):
        raise UsageError("shortlists and screens are made of the head's weights, which are quantised: decide on head")
    return weight.to_dense().to(linear.dtype) if isinstance(linear, PackedLinear) else weight


def plain_bias(linear: nn.Module) -> Tensor | None:
    """Its bias (m,), likewise; None without one."""
    bias: Tensor | None = getattr(linear, "bias", None)
    return bias.to(linear.dtype) if isinstance(linear, PackedLinear) and bias is not None else bias


def is_whole(weight: object) -> bool:
    """Whether these are the numbers themselves, as of a GGUF file that was dequantised when it was loaded."""
    if not isinstance(weight, Tensor) or type(weight.data) is not Tensor:
        return False  # torchao's weights are tensors of classes of their own
    return weight.is_floating_point() and weight.itemsize > 1


def pack_linear_layers(*models: nn.Module) -> None:
    """Replace the models' linear layers by packed ones, in place; those that can't be packed stay as they are, and so
    do quantised ones: a packed layer would compute with the numbers that they stand for.

    Layers that have the same memory, in one model or in several, become one packed layer.
    """
    uses: dict[tuple[int | None, ...], list[tuple[nn.Module, str]]] = {}  # holds no weight
    for model in models:
        for name, module in model.named_modules():
            if type(module) is nn.Linear and is_whole(module.weight) and _can_pack(module.weight):
                memory = module.weight.data_ptr(), None if module.bias is None else module.bias.data_ptr()
                uses.setdefault(memory, []).append((model, name))
    for alike in uses.values():
        model, name = alike[0]
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        packed = PackedLinear(linear)
        for model, name in alike:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed)
    _give_back_freed_memory()


def _give_back_freed_memory() -> None:
    """Return the freed plain weights to the operating system: malloc would keep as much memory as the model takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc has it
        trim(0)


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return weight.dtype in (torch.float32, torch.bfloat16)


def _multiplied_in(dtype: torch.dtype) -> torch.dtype:
    """What this CPU multiplies weights of a dtype in."""
    return dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
