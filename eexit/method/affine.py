"""The one place where a model's dtype meets that of what was learned for it, which is float32 whatever the model's.

This module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def affine(given: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply `given` by the weight (n, m), and add the bias (m,).

    Computed and returned in their dtype. What goes on into the model is handed over with `.to(given.dtype)`.
    """
    return given.to(bias.dtype) @ weight + bias
