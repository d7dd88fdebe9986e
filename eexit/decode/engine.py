"""Batched decoding: many rows (prompt × configuration × seed) advance together, and each exits at its own layer.

Rows of one prompt share its prefill. Rows that end leave the batch, and waiting requests take their slots (continuous
batching, as in Orca, Yu et al. 2022). Rows of oracles decode beside their teacher, the full-depth pass, and those of
`normal` with them; all others, and `normal` where there is no oracle, without one, and rows that draft by themselves.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import torch

from eexit.decode.batch import Batch, Tell
from eexit.decode.draft import DraftBatch
from eexit.decode.requests import DecodingConfig, Outcome, Request, RequestFailure
from eexit.errors import UsageError
from eexit.method.modes import MODES
from eexit.model.cache import SLACK_COLUMNS
from eexit.model.decoders import DecoderPair
from eexit.model.layers import Decoder
from eexit.plan.configuration import NORMAL, Draft, EarlyExit, NoExit
from eexit.plan.model_inspection import CPU_CACHE_BYTES

ORACLES: Final = "beside a full-depth pass"
ONLINE: Final = "without one"
PREFILLED_COLUMNS: Final = 4096  # of a cache, in which prompts go through the layers together before rows have them
DEFERRED_BYTES: Final = 3 * 8  # of a deferred token besides hidden states: id, position, exit
FREE_SHARE: Final = 0.8  # the rest is for activations and logits


def refuse_mode(mode: str, decoder: Decoder) -> None:
    """Raises `UsageError` if the model can't be run in this mode."""
    try:
        if mode in MODES:
            MODES[mode].check(decoder)
    except ValueError as error:
        raise UsageError(f"mode {mode} can't be used with this model: {error}") from error


class Engine:
    """Decodes requests with one decoder, or with a student's beside it. Construct once, `generate` often.

    A `student` is a decoder of the same architecture with weights of its own: it decodes the rows of all modes with
    exits, each after a first token that is the decoder's. What the full-depth model says is always the decoder's.
    """

    def __init__(self, decoder: Decoder, decoding: DecodingConfig, student: Decoder | None = None):
        self.decoder, self.decoding, self.student = decoder, decoding, student
        self.decoders = DecoderPair.from_decoders(decoder, student)
        self.n_slots = 0  # of the latest batch

    def generate(
        self,
        requests: Sequence[Request],
        progress: Tell = lambda n_tokens: None,
        observed: Tell = lambda n_tokens: None,
    ) -> Iterator[tuple[int, Outcome]]:
        """Yields (index into requests, outcome) as rows end; calls `progress` with the number of tokens of each step,
        and with 0 after each block of deferred tokens within one.

        `observed` is called with the number of tokens of finished texts that full depth was asked about, often.

        How many rows are in flight follows from the memory that their caches may take. Rows of one prompt that begin
        at the same time share its prefill.
        """
        waiting = []
        for index, request in enumerate(requests):
            if refused := self._refusal(request):
                yield index, refused
            else:
                waiting.append(index)
        decoders_of = [
            self.decoders if isinstance(request.configuration, EarlyExit) else self.decoders.without_student
            for request in requests
        ]
        for decoders in dict.fromkeys(decoders_of):
            indices = [index for index in waiting if decoders_of[index] == decoders]
            yield from self._generate(decoders, requests, indices, progress, observed)

    def _generate(
        self, decoders: DecoderPair, requests: Sequence[Request], waiting: Sequence[int], progress: Tell, observed: Tell
    ) -> Iterator[tuple[int, Outcome]]:
        has_oracles = any(requests[index].is_oracle for index in waiting)
        together: defaultdict[tuple[str, bool], list[int]] = defaultdict(list)
        for index in waiting:
            together[self._batch_of(requests[index], has_oracles)].append(index)
        for key in sorted(together):
            yield from self._decode(key[0] == ORACLES, decoders, requests, together[key], progress, observed)

    def _batch_of(self, request: Request, has_oracles: bool) -> tuple[str, bool]:
        """Return what the requests of a batch have in common."""
        beyond_switch = self.decoder.context_of(len(request.prompt_token_ids)) == self.decoder.context
        match request.configuration:
            case Draft() as draft:
                return f"drafts {draft}, {self._reaches_context(request)}", beyond_switch
            case NoExit() if not has_oracles:
                return ONLINE, beyond_switch
            case EarlyExit() if not request.is_oracle:
                return ONLINE, beyond_switch
        return ORACLES, beyond_switch

    def _decode(
        self, has_oracles: bool, decoders: DecoderPair, requests: Sequence[Request], waiting: list[int], progress: Tell,
        observed: Tell,
    ) -> Iterator[tuple[int, Outcome]]:  # fmt: skip
        batch = self._new_batch(has_oracles, decoders, [requests[index] for index in waiting])
        batch.deferred.tell_block = partial(progress, 0)
        waiting.reverse()
        while waiting or batch.slots.n_rows:
            while waiting and batch.slots.n_rows < batch.n_slots:
                indices = _next(waiting, requests, batch)
                limits = {index: self._limit(requests[index]) for index in indices}
                batch.admit({index: requests[index] for index in indices}, limits)
                yield from self._retire(batch, observed)
            if batch.slots.n_rows:
                before = int(batch.slots.n_tokens[: batch.slots.n_rows].sum())
                batch.step()
                progress(int(batch.slots.n_tokens[: batch.slots.n_rows].sum()) - before)
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

    def _limit(self, request: Request) -> int:
        """Return how many tokens a row may generate: as asked, within the model's context."""
        room = self.decoding.max_new_tokens
        n_prompt = len(request.prompt_token_ids)
        context = self.decoder.context_of(n_prompt)
        return room if context is None else min(room, context - n_prompt)

    def _reaches_context(self, request: Request) -> bool:
        """Return True if drafts of other slots may be in columns beyond the model's context beside this one."""
        if self.decoder.context is None or not isinstance(request.configuration, Draft):
            return False
        length = len(request.prompt_token_ids) + self._limit(request)
        return length + request.configuration.n_tokens > self.decoder.context

    def _new_batch(self, has_oracles: bool, decoders: DecoderPair, requests: Sequence[Request]) -> Batch:
        length = max(len(request.prompt_token_ids) + self._limit(request) for request in requests)
        budget = budget_of(self.decoder, self.decoding.memory_share)
        fit = budget // row_bytes(has_oracles, decoders, self.decoding, length, requests)
        most = 1 if any(map(self._reaches_context, requests)) else self.decoding.max_rows
        self.n_slots = max(1, min(len(requests), most, fit))
        if isinstance(requests[0].configuration, Draft):
            return DraftBatch(self.n_slots, length, decoders, self.decoding, requests)
        return Batch(self.n_slots, length, decoders, self.decoding, requests, has_oracles)

    def _retire(self, batch: Batch, observed: Tell) -> Iterator[tuple[int, Outcome]]:
        """Yield the outcomes of the rows that ended or failed, and free their slots."""
        ended = batch.slots.ended()
        batch.observe(ended, observed)
        outcomes = [(int(batch.slots.request[slot]), batch.output(slot)) for slot in ended.tolist()]
        batch.remove(ended)
        yield from outcomes


def _next(waiting: list[int], requests: Sequence[Request], batch: Batch) -> list[int]:
    """Take requests from the end of `waiting` that a batch has free slots for, and whose prompts are few enough."""
    taken: list[int] = []
    prompts: set[tuple[int, ...]] = set()
    while waiting and batch.slots.n_rows + len(taken) < batch.n_slots:
        prompts.add(requests[waiting[-1]].prompt_token_ids)
        if taken and len(prompts) * batch.slots.end > PREFILLED_COLUMNS:
            break
        taken.append(waiting.pop())
    return taken


def budget_of(decoder: Decoder, memory_share: float) -> int:
    """Return the bytes that a decoder's rows may take; over several devices, by the one that is full first."""
    n_layers = Counter(decoder.devices)
    return min(cache_budget(each, memory_share) * decoder.n_layers // n for each, n in n_layers.items())


def cache_budget(device: torch.device, memory_share: float) -> int:
    """Return the bytes that rows may take: on a GPU, most of this process's free share; elsewhere CPU_CACHE_BYTES.

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


def row_bytes(
    has_oracles: bool, decoders: DecoderPair, decoding: DecodingConfig, length: int, requests: Sequence[Request]
) -> int:
    """Return the bytes of a slot: keys and values, logits, and its tokens, all of which may be deferred.

    Of a deferred token, its hidden state is kept, those that custom modes need, and its id, position and exit. Beside
    full depth by the same decoder, none is deferred. Two passes take twice as much.
    """
    decoder, modes = decoders.full_depth, {request.configuration.mode for request in requests}
    length += SLACK_COLUMNS
    keys, logits = decoder.cache_bytes_per_token * length, decoder.vocabulary * decoder.dtype.itemsize
    if decoders.is_shared and has_oracles:
        return 2 * keys + logits
    deferred = 0
    if modes - {NORMAL}:
        n_states = 1 + len({need for mode in modes if mode in MODES for need in MODES[mode].needs})
        token = n_states * decoder.width * decoder.dtype.itemsize + DEFERRED_BYTES
        deferred = token * min(decoding.max_new_tokens, length)
    return (keys + deferred + logits) * (1 if decoders.is_shared else 2)
