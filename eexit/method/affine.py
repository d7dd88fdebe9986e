"""The one place where a model's dtype meets that of what was learned for it, which is float32 whatever the model's.

This module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def affine(given: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply `given` by the weight (n, m), and add the bias (m,).

    Computed and returned in their dtype. What goes on into the model is handed over with `.to(given.dtype)`.
    """
    return given.to(bias.dtype) @ weight + bias


def has_float64(device: torch.device) -> bool:
    """Whether tensors there can be float64, as they can't on Apple's GPUs."""
    return device.type != "mps"


def in_float64(part: Tensor) -> Tensor:
    """Where it is or, if that device has no float64, on the CPU."""
    return (part if has_float64(part.device) else part.cpu()).double()
