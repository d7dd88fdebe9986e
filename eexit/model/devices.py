"""Copies to devices."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

ALIGNMENT_BYTES: Final = 8  # of arrays that are copied together: enough for any dtype


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Return arrays as tensors on a device, copied together and asynchronously; on a CPU, they share memory."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    ends = np.cumsum([-(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for array in arrays])
    whole = torch.empty(int(ends[-1]), dtype=torch.uint8)
    for array, start in zip(arrays, [0, *ends], strict=False):
        whole.numpy()[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    can_pin = device.type != "mps"
    sent = (whole.pin_memory() if can_pin else whole).to(device, non_blocking=can_pin)
    return [
        sent[start : start + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        for array, start in zip(arrays, [0, *ends], strict=False)
    ]
