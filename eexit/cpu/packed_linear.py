"""Linear layers whose weights are packed once into oneDNN's layout, instead of at every call.

The operators are those by which torch.compile packs frozen weights. With SmolLM2-135M and 27 rows on two cores, the
products of all layers take 23 ms in place of 36 in bfloat16, and 39 in place of 84 in float32.

A CPU without instructions for bfloat16 takes several times as long for such products as for float32. There, bfloat16
weights are packed in float32, which represents them exactly and takes as much memory as a float32 model. A product is
summed in float32, as on any CPU, and rounded once.

A CPU may multiply few rows faster with plain weights. Times of all products with one row, plain and packed:

- without instructions for bfloat16: 18 and 32 ms in bfloat16, 47 and 33 ms in float32
- with AMX: 24 and 19 ms in bfloat16, 22 and 35 ms in float32

Packing a model measures up to how many rows plain weights are faster. If they are for one row, and memory has room,
plain weights are kept. The minimum over several rounds counts, since other processes can double the times.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, takewhile
from pathlib import Path
from timeit import timeit
from typing import Any, Final, TypeGuard

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
    """Linear layer with a packed weight, in place of `nn.Linear`. Outputs have the plain weight's dtype.

    Inputs of at most `few_rows` rows are multiplied by the plain weight, which is kept only for them.
    """

    def __init__(self, linear: nn.Linear, few_rows: int = 0):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.few_rows = few_rows
        self.plain: tuple[nn.Linear, ...] = (linear,) if few_rows else ()  # in a tuple, so that it is no submodule
        self.dtype = linear.weight.dtype
        self.multiplied_in = self.dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
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
    """Return the weight (m, n) of a linear layer, packed or not, in its dtype. Raise `UsageError` if quantised."""
    weight = linear.weight
    if not isinstance(weight, Tensor) or not is_unquantized(weight):
        raise UsageError("a screen is made of the head's weights, which are quantised: decide on head")
    return weight.to_dense().to(linear.dtype) if isinstance(linear, PackedLinear) else weight


def plain_bias(linear: nn.Module) -> Tensor | None:
    """Return the bias (m,) of a linear layer, packed or not, in its dtype; None without one."""
    bias: Tensor | None = getattr(linear, "bias", None)
    return bias.to(linear.dtype) if isinstance(linear, PackedLinear) and bias is not None else bias


def is_unquantized(weight: object) -> bool:
    """Return True for a plain floating-point tensor, such as a GGUF weight that was dequantised at loading."""
    if not isinstance(weight, Tensor) or type(weight.data) is not Tensor:
        return False  # torchao's weights are tensors of classes of their own
    return weight.is_floating_point() and weight.itemsize > 1


def pack_linear_layers(*models: nn.Module) -> None:
    """Replace the models' linear layers by packed ones, in place.

    Layers that share memory become one. Layers that can't be packed stay as they are. So do quantised layers, since
    packing would multiply by dequantised weights, and those with hooks or a patched forward, which it would drop.
    """
    uses: dict[tuple[int | None, ...], list[tuple[nn.Module, str]]] = {}  # holds no weight
    for model in models:
        for name, module in model.named_modules():
            if _can_pack(module):
                memory = module.weight.data_ptr(), None if module.bias is None else module.bias.data_ptr()
                uses.setdefault(memory, []).append((model, name))
    few_rows = _few_rows([model.get_submodule(name) for (model, name), *_ in uses.values()])
    for alike in uses.values():
        model, name = alike[0]
        linear: Any = model.get_submodule(name)
        packed = PackedLinear(linear, few_rows)
        for model, name in alike:  # the plain weight is freed now
            model.set_submodule(name, packed)
    give_back_freed_memory()  # as much as the plain weights took


def _can_pack(module: nn.Module) -> TypeGuard[nn.Linear]:
    if type(module) is not nn.Linear or not is_unquantized(module.weight) or module.weight.device.type != "cpu":
        return False
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    has_operators = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return has_operators and module.weight.dtype in (torch.float32, torch.bfloat16)


def _few_rows(linears: Sequence[Any]) -> int:
    """Time both forms of these layers, and return the largest number of rows for which plain weights are kept.

    Return 0 if plain weights aren't faster, memory lacks room for both forms, or the weights are too small to time.
    """
    total_bytes = [*accumulate(linear.weight.nbytes for linear in linears)] or [0]
    if total_bytes[-1] < TIMED_BYTES or total_bytes[-1] * ROOM > _available_bytes():
        return 0
    plain = linears[: 1 + next(at for at, n_bytes in enumerate(total_bytes) if n_bytes >= TIMED_BYTES)]
    packed = [PackedLinear(linear) for linear in plain]
    seconds: dict[int, tuple[float, float]] = {}
    with torch.inference_mode():
        for rows in FEW:
            inputs = [torch.ones(rows, linear.in_features, dtype=linear.weight.dtype) for linear in plain]
            rounds = [(_seconds(plain, inputs), _seconds(packed, inputs)) for _ in range(ROUNDS)]
            seconds[rows] = min(of_plain for of_plain, _ in rounds), min(of_packed for _, of_packed in rounds)
    return faster_plain(seconds)


def faster_plain(seconds: Mapping[int, tuple[float, float]]) -> int:
    """Return the largest number of rows for which plain weights are worth keeping; 0 if there is none.

    `seconds` maps numbers of rows, in increasing order, to the times of plain and of packed weights.
    """
    return max(takewhile(lambda rows: seconds[rows][0] * WORTH <= seconds[rows][1], seconds), default=0)


def _seconds(layers: Sequence[Callable[[Tensor], Tensor]], inputs: Sequence[Tensor]) -> float:
    return timeit(lambda: [layer(input) for layer, input in zip(layers, inputs, strict=True)], number=1)


def _available_bytes() -> float:
    """Return the available memory, as Linux estimates it; elsewhere 0, so that only packed weights are kept."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return 0
