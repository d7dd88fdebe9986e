"""How much memory the keys and values of rows in flight may take on their device."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import torch

from eexit.decode.decoders import Decoders
from eexit.decode.requests import Decoding, Request
from eexit.decode.step import fork_of
from eexit.model.cache import SLACK_COLUMNS
from eexit.model.layers import Decoder
from eexit.plan.configuration import NORMAL, Draft
from eexit.plan.model_facts import CPU_CACHE_BYTES

FREE_SHARE: Final = 0.8  # the rest is for activations and logits


def budget_of(decoder: Decoder, memory_share: float) -> int:
    """The budget in bytes for a decoder; over several devices, what the one that is full first has room for."""
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


def row_bytes(is_taught: bool, decoders: Decoders, decoding: Decoding, length: int, requests: Sequence[Request]) -> int:
    """Bytes of a row in flight: keys and values, logits, and its tokens, all of which may be owed.

    Beside a teacher that is the same decoder, nothing is owed, and the student's keys and values begin above the fork.
    Where drafts are sampled, the logits of a round's are kept. Two decoders take twice as much.
    """
    decoder, modes = decoders.teacher, {request.configuration.mode for request in requests}
    length += SLACK_COLUMNS
    keys, logits = decoder.cache_bytes_per_token * length, decoder.vocabulary * decoder.dtype.itemsize
    if decoders.are_one and is_taught:
        fork = fork_of(decoding, requests)
        return keys * (2 * decoder.n_layers - 1 - fork) // decoder.n_layers + logits
    owed = decoder.width * decoder.dtype.itemsize * min(decoding.max_new_tokens, length) if modes - {NORMAL} else 0
    if decoding.temperature > 0:
        drafts = (request.configuration for request in requests)
        logits *= 1 + max((each.n_tokens for each in drafts if isinstance(each, Draft)), default=0)
    return (keys + owed + logits) * (1 if decoders.are_one else 2)
