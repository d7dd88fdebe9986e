"""Linear layers whose weights are packed once into the layout that oneDNN computes with, instead of at every call.

It uses the operators with which torch.compile packs frozen weights. With SmolLM2-135M and 27 rows on two cores, the
products of all layers take 23 ms instead of 36 in bfloat16, and 39 instead of 84 in float32.

A CPU without instructions for bfloat16 takes several times as long for such products as for those in float32. There,
bfloat16 weights are packed in float32, which holds them exactly: a product is summed in float32, as it is everywhere,
and rounded once. The weights then take as much memory as those of a float32 model.

A CPU may multiply one row, or a few, faster with the plain weights: on one without instructions for bfloat16, the
products of one row take 18 ms instead of 32 in bfloat16, and 47 instead of 33 in float32; on one with AMX, 24 instead
of 19, and 22 instead of 35. Up to how many rows is measured when a model is packed; if it is one at least, and memory
has room for both, the plain weights are kept for them. Times are the least of some rounds, since whatever else runs on
a machine can double those of packed weights.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from eexit.cpu.freed_memory import give_back_freed_memory
from eexit.errors import UsageError

FEW: Final = (1, 2, 4)  # rows that plain weights may multiply faster
ROUNDS: Final = 7  # in each of which products with both forms are timed
TIMED_BYTES: Final = 2**27  # of weights, more than caches hold
WORTH: Final = 1.2  # times as fast as packed ones, so that it is worth keeping plain weights beside them
ROOM: Final = 4  # times the plain weights' bytes that must be available for them to be kept


class PackedLinear(nn.Module):
    """`nn.Linear` with a packed weight. Outputs have the plain weight's dtype.

    With `few_rows`, the linear layer itself is kept for so many rows or fewer; without, its weight is not kept.
    """

    def __init__(self, linear: nn.Linear, few_rows: int = 0):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.few_rows = few_rows
        self.plain: tuple[nn.Linear, ...] = (linear,) if few_rows else ()  # in a tuple, so that it is no part of this
        self.dtype, self.multiplied_in = linear.weight.dtype, _multiplied_in(linear.weight.dtype)
        with torch.no_grad():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.to(self.multiplied_in))
            self.bias = None if linear.bias is None else linear.bias.to(self.multiplied_in)

    def forward(self, input: Tensor) -> Tensor:
        if input.numel() <= self.few_rows * self.in_features:
            return nn.functional.linear(input, self.plain[0].weight, self.plain[0].bias)
        input = input.to(self.multiplied_in)
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return output.to(self.dtype)


def plain_weight(linear: nn.Module) -> Tensor:
    """The weight (m, n) of a linear layer, packed or not, in the dtype that it computes in.

    Raises `UsageError` for a quantised one.
    """
    weight = linear.weight
    if not isinstance(weight, Tensor) or not is_unquantized(weight):
        raise UsageError("a screen is made of the head's weights, which are quantised: decide on head")
    return weight.to_dense().to(linear.dtype) if isinstance(linear, PackedLinear) else weight


def plain_bias(linear: nn.Module) -> Tensor | None:
    """Its bias (m,), likewise; None without one."""
    bias: Tensor | None = getattr(linear, "bias", None)
    return bias.to(linear.dtype) if isinstance(linear, PackedLinear) and bias is not None else bias


def is_unquantized(weight: object) -> bool:
    """Whether these are the numbers themselves, as of a GGUF file that was dequantised when it was loaded."""
    if not isinstance(weight, Tensor) or type(weight.data) is not Tensor:
        return False  # torchao's weights are tensors of classes of their own
    return weight.is_floating_point() and weight.itemsize > 1


def pack_linear_layers(*models: nn.Module) -> None:
    """Replace the models' linear layers by packed ones, in place.

    Layers that can't be packed stay as they are, and so do quantised layers, whose packed form would compute with the
    numbers that they stand for, and layers with hooks or a forward of their own, which packing would drop.

    Layers that have the same memory, in one model or in several, become one packed layer.
    """
    uses: dict[tuple[int | None, ...], list[tuple[nn.Module, str]]] = {}  # holds no weight
    for model in models:
        for name, module in model.named_modules():
            if (
                type(module) is nn.Linear
                and is_unquantized(module.weight)
                and _can_pack(module.weight)
                and _is_untouched(module)
            ):
                memory = module.weight.data_ptr(), None if module.bias is None else module.bias.data_ptr()
                uses.setdefault(memory, []).append((model, name))
    first = [model.get_submodule(name) for (model, name), *_ in uses.values()]
    few_rows = _few_rows([linear for linear in first if isinstance(linear, nn.Linear)])
    del first  # each plain weight is freed as soon as it is packed
    for alike in uses.values():
        model, name = alike[0]
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        packed = PackedLinear(linear, few_rows)
        for model, name in alike:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed)
    give_back_freed_memory()  # as much as the plain weights took


def _few_rows(linears: Sequence[nn.Linear]) -> int:
    """How many rows are multiplied faster with the plain weights of these layers, as timed here; 0 without any, or
    without room for both.
    """
    n_bytes = sum(linear.weight.nbytes for linear in linears)
    if n_bytes < TIMED_BYTES or n_bytes * ROOM > _available_bytes():
        return 0
    timed: list[nn.Linear] = []
    for linear in linears:
        timed.append(linear)
        if sum(each.weight.nbytes for each in timed) >= TIMED_BYTES:
            break
    packed = [PackedLinear(linear) for linear in timed]
    seconds: dict[int, tuple[float, float]] = {}
    with torch.inference_mode():
        for rows in FEW:
            inputs = [torch.ones(rows, linear.in_features, dtype=linear.weight.dtype) for linear in timed]
            rounds = [(_seconds(timed, inputs), _seconds(packed, inputs)) for _ in range(ROUNDS)]
            seconds[rows] = min(plain for plain, _ in rounds), min(packed for _, packed in rounds)
    return faster_plain(seconds)


def faster_plain(seconds: Mapping[int, tuple[float, float]]) -> int:
    """Up to how many rows plain weights multiply so much faster that they are worth keeping, or 0.

    `seconds` are both times by the number of rows, plain first.
    """
    fewest = 0
    for rows, (plain, packed) in seconds.items():
        if plain * WORTH > packed:
            break
        fewest = rows
    return fewest


def _seconds(layers: Sequence[Callable[[Tensor], Tensor]], inputs: Sequence[Tensor]) -> float:
    """How long it takes to put each input through its layer."""
    began = time.perf_counter()
    for layer, input in zip(layers, inputs, strict=True):
        layer(input)
    return time.perf_counter() - began


def _available_bytes() -> float:
    """Of memory, as Linux estimates it; elsewhere none, so that only packed weights are kept."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return 0


def _is_untouched(module: nn.Module) -> bool:
    """Return True for a module without forward hooks, and with the forward of its class."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return weight.dtype in (torch.float32, torch.bfloat16)


def _multiplied_in(dtype: torch.dtype) -> torch.dtype:
    """What this CPU multiplies weights of a dtype in."""
    return dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
