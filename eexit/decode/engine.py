"""Batched decoding: many requests advance together, and each token exits at its own layer.

Requests with the same prompt share its prefill. Requests that end free their slots for waiting ones (continuous
batching, as in Orca, Yu et al. 2022).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import torch

from eexit.decode.batch import Batch, OnTokens
from eexit.decode.draft import DraftBatch
from eexit.decode.requests import DecodingConfig, Outcome, Request, RequestFailure
from eexit.decode.slots import max_length
from eexit.method.modes import MODES
from eexit.model.cache import SLACK_COLUMNS
from eexit.model.decoders import DecoderPair
from eexit.model.layers import Decoder
from eexit.plan.configuration import NORMAL, Draft, EarlyExit, NoExit
from eexit.plan.model_inspection import CPU_CACHE_BYTES

PREFILLED_COLUMNS: Final = 4096  # of a KV cache, in which prompts are prefilled together before slots have them
FREE_SHARE: Final = 0.8  # of free memory; the rest is for activations and logits
DEFERRED_BYTES: Final = 3 * 8  # of a deferred token besides hidden states: id, position, exit


class Engine:
    """Decoder of requests; an adapter may give the early-exit pass other weights, the student's.

    The student has the same architecture. It decodes requests of all modes with exits, without prompt exits after a
    first token from the full-depth decoder. The full-depth pass always has the original weights.
    """

    def __init__(self, decoder: Decoder, decoding: DecodingConfig, student: Decoder | None = None):
        self.decoder, self.decoding, self.student = decoder, decoding, student
        self.decoders = DecoderPair(decoder, student or decoder)
        self.n_slots = 0  # of the latest batch

    def generate(
        self, requests: Sequence[Request], progress: OnTokens = lambda n_tokens: None,
        observed: OnTokens = lambda n_tokens: None,
    ) -> Iterator[tuple[int, Outcome]]:  # fmt: skip
        """Yield (index into requests, outcome) as requests end. Available memory limits the number of slots.

        `progress` is called with the number of tokens of each step, and with 0 after each block of deferred tokens;
        `observed`, often, with the number of tokens of finished texts that went through the full-depth pass.
        """
        refusals = {index: failure for index, request in enumerate(requests) if (failure := self._refusal(request))}
        yield from refusals.items()
        waiting = [index for index in range(len(requests)) if index not in refusals]
        has_oracles = any(requests[index].is_oracle for index in waiting)
        batches = defaultdict[tuple[DecoderPair, bool, object], list[int]](list)
        for index in waiting:
            batches[self._batch_key(requests[index], has_oracles)].append(index)
        for (decoders, is_of_oracles, _), indices in batches.items():
            batch = self._new_batch(is_of_oracles, decoders, [requests[index] for index in indices])
            batch.deferred.on_block = partial(progress, 0)
            yield from self._decode(batch, requests, indices[::-1], progress, observed)
            del batch  # frees its KV caches before the next one's are made

    def _batch_key(self, request: Request, has_oracles: bool) -> tuple[DecoderPair, bool, object]:
        """Return the conditions that a batch's requests share: decoders, a full-depth pass or none, and further ones.

        `normal` goes with the oracles of the same decoder, if there are some.
        """
        configuration, n_prompt = request.configuration, len(request.prompt_token_ids)
        decoders = self.decoders if isinstance(configuration, EarlyExit) else DecoderPair(self.decoder, self.decoder)
        is_normal = isinstance(configuration, NoExit) and decoders == self.decoders
        draft = (configuration, self._reaches_context(request)) if isinstance(configuration, Draft) else None
        is_beyond_switch = self.decoder.context_of(n_prompt) == self.decoder.context
        return decoders, request.is_oracle or (is_normal and has_oracles), (draft, is_beyond_switch)

    def _decode(
        self, batch: Batch, requests: Sequence[Request], waiting: list[int], progress: OnTokens, observed: OnTokens
    ) -> Iterator[tuple[int, Outcome]]:
        """Decode `requests`, admitting those at the indices in `waiting` from its end; yield each index and outcome."""
        slots = batch.slots
        while waiting or len(slots):
            while waiting and len(slots) < batch.n_slots:
                batch.admit({index: requests[index] for index in _next(waiting, requests, batch)})
                yield from self._retire(batch, observed)
            if len(slots):
                progress(batch.step())
                yield from self._retire(batch, observed)

    def _refusal(self, request: Request) -> RequestFailure | None:
        n_prompt = len(request.prompt_token_ids)
        context = self.decoder.context_of(n_prompt)
        if self.decoding.temperature > 0 and isinstance(request.configuration, Draft):
            return RequestFailure(f"drafts are greedy, and temperature is {self.decoding.temperature:g}: set it to 0")
        if n_prompt == 0:
            return RequestFailure("the prompt is empty: nothing to continue from")
        if context is not None and n_prompt >= context:
            where = "" if context == self.decoder.context else ", where its rotary angles switch"
            return RequestFailure(
                f"the prompt has {n_prompt} tokens, which leaves no room in the model's context of {context}{where}"
            )
        return None

    def _reaches_context(self, request: Request) -> bool:
        """Return True if drafts of other slots could be in columns beyond the model's context."""
        if self.decoder.context is None or not isinstance(request.configuration, Draft):
            return False
        return max_length(request, self.decoding, self.decoder) + request.configuration.n_tokens > self.decoder.context

    def _new_batch(self, has_oracles: bool, decoders: DecoderPair, requests: Sequence[Request]) -> Batch:
        length = max(max_length(request, self.decoding, self.decoder) for request in requests)
        budget = budget_of(self.decoder, self.decoding.memory_share)
        n_affordable = budget // row_bytes(has_oracles, decoders, self.decoding, length, requests)
        most = 1 if any(map(self._reaches_context, requests)) else self.decoding.max_rows
        self.n_slots = max(1, min(len(requests), most, n_affordable))
        if isinstance(requests[0].configuration, Draft):
            return DraftBatch(self.n_slots, length, decoders, self.decoding, requests)
        return Batch(self.n_slots, length, decoders, self.decoding, requests, has_oracles)

    def _retire(self, batch: Batch, observed: OnTokens) -> Iterator[tuple[int, Outcome]]:
        """Record and free slots of finished requests; yield each index and outcome. `observed` is as in `generate`."""
        ended = batch.slots.ended()
        batch.record_predictions(ended, observed)
        outcomes = [(batch.slots.in_flight[at].index, batch.output(at)) for at in ended]
        batch.remove(ended)
        yield from outcomes


def _next(waiting: list[int], requests: Sequence[Request], batch: Batch) -> list[int]:
    """Take the next requests from the end of `waiting`: as many as fit into free slots and into one prefill."""
    indices: list[int] = []
    prompts: set[tuple[int, ...]] = set()
    while waiting and len(batch.slots) + len(indices) < batch.n_slots:
        prompts.add(requests[waiting[-1]].prompt_token_ids)
        if indices and len(prompts) * batch.slots.end > PREFILLED_COLUMNS:
            break
        indices.append(waiting.pop())
    return indices


def budget_of(decoder: Decoder, memory_share: float) -> int:
    """Return the bytes that a decoder's KV cache may have; the device that fills up first limits a model on several."""
    n_layers = Counter(decoder.devices)
    return min(cache_budget(each, memory_share) * decoder.n_layers // n for each, n in n_layers.items())


def cache_budget(device: torch.device, memory_share: float) -> int:
    """Return the bytes for KV caches: on a GPU, most of this process's free share; elsewhere CPU_CACHE_BYTES.

    Memory that torch's allocator has reserved but does not use counts as free. Apple GPUs share the CPU's budget.
    """
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return CPU_CACHE_BYTES
    free, total = module.mem_get_info(device)
    used = module.memory_allocated(device)
    free += module.memory_reserved(device) - used
    return int(FREE_SHARE * max(0, min(free, memory_share * total - used)))


def row_bytes(
    has_oracles: bool, decoders: DecoderPair, decoding: DecodingConfig, length: int, requests: Sequence[Request]
) -> int:
    """Return the bytes of a slot: its KV cache, logits, and tokens, all of which may be deferred.

    A deferred token has its hidden state, hidden states that custom modes need, its id, position and exit. Oracles of
    the same decoder defer none. Two passes take twice as much.
    """
    decoder, modes = decoders.full_depth, {request.configuration.mode for request in requests}
    length += SLACK_COLUMNS
    cache, logits = decoder.cache_bytes_per_token * length, decoder.vocabulary * decoder.dtype.itemsize
    if decoders.is_shared and has_oracles:
        return 2 * cache + logits
    deferred = 0
    if modes - {NORMAL}:
        n_states = 1 + len({need for mode in modes if mode in MODES for need in MODES[mode].needs})
        token = n_states * decoder.width * decoder.dtype.itemsize + DEFERRED_BYTES
        deferred = token * min(decoding.max_new_tokens, length)
    return (cache + deferred + logits) * (1 if decoders.is_shared else 2)
