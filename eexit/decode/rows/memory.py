"""How much memory the keys and values of rows in flight may take on their device."""

from typing import Final

import torch

from eexit.plan.model_facts import CPU_CACHE_BYTES

FREE_SHARE: Final = 0.8  # the rest is for activations and logits


def cache_budget(device: torch.device, memory_share: float = 1.0) -> int:
    """The budget in bytes: on a GPU, most of what is free within this process's share; elsewhere CPU_CACHE_BYTES.

    Memory that torch's allocator has reserved but does not use counts as free. Apple GPUs share the CPU's memory, and
    get the CPU's budget.
    """
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return CPU_CACHE_BYTES
    free, total = module.mem_get_info(device)
    used = module.memory_allocated(device)
    free += module.memory_reserved(device) - used
    return int(FREE_SHARE * max(0, min(free, memory_share * total - used)))
