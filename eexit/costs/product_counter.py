"""Multiply-adds of matrix products, counted operator by operator in the thread that runs them.

Nothing is set on the process or on the model, so other threads may run the same model meanwhile.
"""

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from eexit.cpu.packed_linear import PackedLinear, is_unquantized
from eexit.model.adapters import sharing
from eexit.model.layers import Decoder


class ProductCounter(TorchDispatchMode):
    """Counter of the multiply-adds of the operators that this thread runs within the context."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without annotations
        self._flops, self._formulas = 0, _formulas()
        self._began: list[int] = []  # flops before each linear module that runs

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, formula = kwargs or {}, self._formulas.get(operator.overloadpacket)
        if formula is None and _is_composite(operator):
            with self:
                return operator.decompose(*args, **kwargs)
        result = operator(*args, **kwargs)
        if formula is not None:
            self._flops += formula(*args, **kwargs, out_val=result)
        return result

    def count(self, run: Callable[..., Any], *args: Any) -> tuple[Any, int]:
        """Return a function's result, and the number of multiply-adds that it took."""
        before = self._flops
        result = run(*args)
        return result, (self._flops - before) // 2

    def watching(self, decoder: Decoder) -> Decoder:
        """Return a decoder that this counter can count, by hooks on linear modules with unknown operators.

        Most operators for quantised weights are unknown, and some are not torch's. Linear modules with such weights are
        counted by shape, in a copy of the model that shares all weights.
        """
        if all(_is_counted(module) for module in decoder.model.modules()):
            return decoder
        watched = Decoder(sharing(decoder.model))
        for module in watched.model.modules():
            if not _is_counted(module):
                module.register_forward_pre_hook(self._begin)
                module.register_forward_hook(self._end)
        return watched

    def _begin(self, *_: object) -> None:
        self._began.append(self._flops)

    def _end(self, module: Any, _: object, output: Tensor) -> None:
        if self._began.pop() == self._flops:
            self._flops += 2 * output.numel() * module.in_features


def _is_counted(module: nn.Module) -> bool:
    """Return True if all products of the module itself are operators with a formula."""
    if not hasattr(module, "in_features") or isinstance(module, PackedLinear):
        return True
    return is_unquantized(getattr(module, "weight", None))


@cache
def _is_composite(operator: Any) -> bool:
    return bool(operator._can_decompose())


# Operators without a formula of torch's, by namespace and name. Not every machine has them all.
OTHER_PRODUCTS: Final[dict[tuple[str, str], Callable[..., int]]] = {
    # (…, queries, n), (…, positions, n) and (…, positions, m), whichever kernel the device has for it
    ("aten", "scaled_dot_product_attention"): lambda query, key, value, *_, **__: (
        2 * prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    ),
    ("mkldnn", "_linear_pointwise"): lambda input, *_, out_val, **__: 2 * out_val.numel() * input.shape[-1],
    # each row of (n_rows, n) times one of the experts' matrices (n_experts, n, m)
    **dict.fromkeys(
        (("aten", "_grouped_mm"), ("transformers", "grouped_mm_fallback")),
        lambda input, weight, *_, **__: 2 * input.numel() * weight.shape[-1],
    ),
}


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return the flops of each operator that multiplies matrices, as functions of its arguments and `out_val`."""
    others = {(space, name): getattr(getattr(torch.ops, space), name, None) for space, name in OTHER_PRODUCTS}
    return flop_registry | {operator: OTHER_PRODUCTS[key] for key, operator in others.items() if operator is not None}
