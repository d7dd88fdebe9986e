"""The one place where a model's dtype meets that of what was learned for it, which is float32 whatever the model's.

This module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def affine(given: Tensor, *parts: Tensor) -> Tensor:
    """Multiply `given` by the weights (n, m), one after the other, and add the bias (m,), which is the last part.

    Computed and returned in the parts' dtype. What goes on into the model is handed over with `.to(given.dtype)`.
    """
    *weights, bias = parts
    given = given.to(bias.dtype)
    for weight in weights:
        given = given @ weight
    return given + bias
