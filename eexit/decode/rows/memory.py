"""How much memory the keys and values of rows in flight may take on their device."""

from collections import Counter
from typing import Final

import torch

from eexit.model.decoder import Decoder
from eexit.plan.model_facts import CPU_CACHE_BYTES

FREE_SHARE: Final = 0.8  # the rest is for activations and logits


def budget_of(decoder: Decoder, memory_share: float) -> int:
    """The budget in bytes for a decoder; over several devices, what the one that is full first has room for."""
    if not decoder.devices:
        return cache_budget(decoder.device, memory_share)
    n_layers = Counter(decoder.devices)
    return min(cache_budget(each, memory_share) * decoder.n_layers // n for each, n in n_layers.items())


def cache_budget(device: torch.device, memory_share: float) -> int:
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
