"""Are vectors the same, but for rounding: heads, or residual streams of single tokens, each compared separately.

Shapes: B rows, T tokens, W width of the residual stream.
"""

from typing import Final

import torch
from torch import Tensor

from eexit.errors import UsageError
from eexit.model.layerwise import Layerwise

# Relative tolerances. Inputs of attention and what layers add come from the same operations on the same numbers, though
# perhaps in matrix products of other sizes. Our attention sums in another order.
SAME_OPERATIONS: Final = {torch.float32: 1e-4, torch.float16: 0.005, torch.bfloat16: 0.03}
ATTENTION_TOLERANCE: Final = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


def require_same_embedding(decoder: Layerwise, where: str, ours: Tensor, expected: Tensor) -> None:
    try:
        require_same(f"the embedding of {where}", ours, expected)
    except UsageError as error:
        if decoder.takes_positions:
            raise
        raise UsageError("it takes no position_ids, and rows of different length stand side by side") from error


def require_same_added(what: str, entering: Tensor, ours: Tensor, expected: Tensor) -> None:
    """Compare what was added to the residual stream, apart from what its magnitude makes it lose by rounding."""
    _require(what, added_apart(entering, ours, expected), SAME_OPERATIONS[expected.dtype])


def require_same(what: str, ours: Tensor, expected: Tensor, tolerance: float | Tensor | None = None) -> None:
    """Compare vectors along the last dimension. Raises `UsageError` if they differ by more, relative to their size."""
    require_shape(what, ours, expected)
    tolerance = SAME_OPERATIONS[expected.dtype] if tolerance is None else tolerance
    _require(what, _relative(norm(ours.float() - expected.float()), norm(expected)), tolerance)


def added_apart(entering_BTW: Tensor, ours_BTW: Tensor, expected_BTW: Tensor) -> Tensor:
    """How far what was added to each residual stream is from what should have been, relative to that, (B, T).

    What the magnitude of the residual stream makes it lose by rounding does not count.
    """
    require_shape("the residual stream", ours_BTW, expected_BTW)
    ours, expected = ours_BTW.float(), expected_BTW.float()
    apart = norm(ours - expected) - norm(torch.finfo(expected_BTW.dtype).eps * expected)
    return _relative(apart.clamp(min=0), norm(expected - entering_BTW.float()))


def norm(numbers: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(numbers.float(), dim=-1)
    return length


def _relative(apart: Tensor, size: Tensor) -> Tensor:
    return torch.where(apart == 0, 0, apart / size)  # where both are 0, too; NaN propagates


def _require(what: str, relative: Tensor, tolerance: float | Tensor) -> None:
    if not (relative <= tolerance).all():
        raise UsageError(f"{what} is {relative.max():.1%} off the model's own")


def require_shape(what: str, ours: Tensor, expected: Tensor) -> None:
    if ours.shape != expected.shape:
        raise UsageError(f"{what} has the shape {tuple(ours.shape)}, the model's own {tuple(expected.shape)}")
