"""Arrays to the device and back, many in one copy: on a GPU each copy costs microseconds or a synchronisation."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

ALIGNMENT_BYTES: Final = 8  # enough for any dtype


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """The arrays as tensors on the device, copied asynchronously; on a CPU they share the arrays' memory."""
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


def index_among(chosen: np.ndarray, n_rows: int, device: torch.device) -> Tensor | slice:
    """Some of so many rows, ascending, as an index on the device; all of them are a slice, which copies nothing."""
    return slice(None) if len(chosen) == n_rows else to_device([chosen], device)[0]


def to_host(columns: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """All columns in one copy, as fp32, in which integers up to 16 million are exact."""
    flat = [column.reshape(column.shape[0], -1).float() for column in columns.values()]
    whole = torch.cat(flat, 1).cpu()
    parts = whole.split([part.shape[1] for part in flat], 1)
    return {
        name: part.reshape(column.shape).numpy() for (name, column), part in zip(columns.items(), parts, strict=True)
    }
