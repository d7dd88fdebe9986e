"""Linear layers whose weights are laid out once, as the CPU's matrix products want them, instead of at every call.

oneDNN's own layout, reached by the operators that torch's compiler uses for frozen weights. With SmolLM2-135M and 27
rows on two cores the products of all layers take 23 ms instead of 36 in bfloat16, 39 instead of 84 in float32.
"""

import ctypes
import sys

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """What `nn.Linear` computes, with a packed weight; the plain one is not kept."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with torch.no_grad():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight)
            self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return output


def pack_linear_layers(model: nn.Module) -> None:
    """Replace the model's linear layers by packed ones, one at a time; nothing happens where that isn't possible."""
    for name in [name for name, module in model.named_modules() if type(module) is nn.Linear]:  # holds no weight
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        if _can_pack(linear.weight):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PackedLinear(linear))
    _give_back_freed_memory()


def _give_back_freed_memory() -> None:
    """Loading made the plain weights in threads, whose heaps keep what is freed: as much as the model once more."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc
        trim(0)


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
