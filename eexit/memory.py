"""How much memory rows in flight may take, on the device where they are."""

from typing import Final

import torch

from eexit.rows import CPU_CACHE_BYTES

FREE_SHARE: Final = 0.8  # the rest is for activations and logits


def cache_budget(device: torch.device, memory_share: float = 1.0) -> int:
    """Bytes: of a card most of what is free, and free in this process's share of it; elsewhere CPU_CACHE_BYTES.

    What torch's allocator holds for this process and does not use is free. An Apple GPU has the CPU's memory.
    """
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return CPU_CACHE_BYTES
    free, total = module.mem_get_info(device)
    used = module.memory_allocated(device)
    free += module.memory_reserved(device) - used
    return int(FREE_SHARE * max(0, min(free, memory_share * total - used)))
