"""The loop of rules that need no full-depth pass: no layer beyond the exit is run but what the state needs.

What the full-depth model would have said is found afterwards, by one pass over the finished text (`observe`).

Shapes: S slots, D tokens being decided, P places of a row's generated tokens, E exitable layers, X = E + 1 with the
final layer last, T tokens of texts, W width of the residual stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.costs.counting import LOOKS
from eexit.decode.exit_pass import deciding_of, exit_pass, last_tokens
from eexit.decode.layer_reading import Reading, read_layers
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding, Request
from eexit.decode.rows.slots import Slots, find_layers
from eexit.decode.rows.transfer import to_device, to_host
from eexit.decode.rows.waiting import Waiting
from eexit.decode.teacher import Prefilled, read_texts
from eexit.decode.token_pass import StudentRows, Tokens
from eexit.method.states import STATES, alters
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder

OBSERVED_TOKENS: Final = 128  # at a time
# Layers that attend by code of their own get a copy of a row's keys for each of its tokens: so many positions at most.
OBSERVED_POSITIONS: Final = 1 << 16


@dataclass(frozen=True)
class Complete:
    """Tokens that have been through all layers at full depth, and have not been read yet."""

    slot_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    input_index_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # among the row's generated tokens
    streams: Sequence[Tensor] = ()  # (…, X, W), of all tokens together

    def and_these(self, slot_T: np.ndarray, input_index_T: np.ndarray, streams_TXW: Tensor) -> "Complete":
        slots, indices = np.concatenate([self.slot_T, slot_T]), np.concatenate([self.input_index_T, input_index_T])
        return Complete(slots, indices, (*self.streams, streams_TXW))


def _n_collected(decoding: Decoding, modes: Sequence[str]) -> int:
    """After how many layers streams are to be observed, if tokens in some of these modes go through all layers as the
    teacher's do; else 0."""
    go_through = any(mode not in STATES or not alters(STATES[mode]) for mode in modes)
    return decoding.n_observed if go_through else 0


class OnlineBatch(Slots):
    """Slots for rows, their caches, and the tokens that have exited and do not have all keys and values yet.

    The student's cache is also the teacher's, unless they are two decoders: then the latter has the prompts at first.
    """

    observes_running: ClassVar = True  # tokens that go through all layers anyway

    def __init__(self, n_slots: int, length: int, decoders: Decoders, decoding: Decoding, requests: Sequence[Request]):
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        layers = find_layers(decoding.exitable_layers, decoders.student.n_layers, ())
        super().__init__(n_slots, decoding, layers, requests)
        caches = {decoder: KVCache(n_slots, length) for decoder in {decoders.teacher, decoders.student}}
        self.teacher = caches[decoders.teacher]
        self.complete = Complete()
        self.n_observed = np.zeros(n_slots, np.int64)  # of a row's decided tokens, those that are or were in `complete`
        room = self.u_exit.shape[1]
        self.counts = {
            "layers_T": np.zeros((n_slots, room), np.int64),
            "keys_T": np.zeros((n_slots, room), np.int64),
            "looks_TXK": np.zeros((n_slots, room, len(self.layers.exits), len(LOOKS)), np.int64),
        }
        # Tokens in modes that leave the state alone may go through all layers: their streams are the teacher's then.
        modes, exiting = [request.configuration.mode for request in requests], self.exiting(requests)
        collects = _n_collected(decoding, modes) if self.observes_running and decoders.are_one else 0
        n_inputs = min(decoding.max_new_tokens, length) if exiting else 0
        n_kept = min(collects, _n_collected(decoding, exiting))
        waiting = Waiting(decoders.student, layers, self.n_prompt, self.state, n_inputs, n_kept)
        cache = caches[decoders.student]
        self.student = StudentRows(
            decoders.student, layers.segments, cache, self.states, waiting,
            counts=self.counts, collects=collects, maps=decoding.state_maps,
        )  # fmt: skip

    @staticmethod
    def exiting(requests: Sequence[Request]) -> list[str]:
        """The modes of these requests in which tokens may exit."""
        return [mode for mode in STATES if any(request.configuration.mode == mode for request in requests)]

    @classmethod
    def row_bytes(cls, decoder: Decoder, decoding: Decoding, length: int, requests: Sequence[Request]) -> int:
        """Bytes of a row in flight: keys and values, logits, and its tokens, all of which may wait."""
        exiting, waiting = cls.exiting(requests), 0
        if exiting:
            waiting = Waiting.token_bytes(decoder, _n_collected(decoding, exiting) if cls.observes_running else 0)
        n_inputs = min(decoding.max_new_tokens, length)
        logits = decoder.vocabulary * decoder.dtype.itemsize
        return decoder.cache_bytes_per_token * length + waiting * n_inputs + logits

    def admit(self, requests: Mapping[int, Request], limit: int, prompt: Prefilled) -> None:
        """Give these requests, by their numbers, slots. They all have this prompt."""
        first = self.n_rows
        for index, request in requests.items():
            slot = self.add(index, request, limit)
            self.n_observed[slot] = 0
            for recorded in self.records.values():
                recorded[slot] = 0
        for cache, keys in {self.teacher: prompt.teacher, self.student.cache: prompt.student}.items():
            cache.load(slice(first, self.n_rows), keys, range(self.layers.n_layers), len(prompt.token_ids))

    def remove(self, slots: np.ndarray, device: torch.device) -> None:
        """Free these slots, which are in descending order, and fill the gaps with rows from higher slots."""
        origin = np.arange(self.n_rows)
        for slot in slots:
            self.n_rows -= 1
            self._move(self.n_rows, slot)
            origin[slot] = origin[self.n_rows]
        origin = origin[: self.n_rows]
        targets = np.flatnonzero(origin != np.arange(self.n_rows))
        if len(targets):
            source, target = to_device([origin[targets], targets], device)
            for cache in {self.teacher, self.student.cache}:
                cache.copy_slots(source, target)
            self.student.waiting.move(origin[targets], targets)
        self.student.waiting.clear(np.arange(self.n_rows, self.n_slots))

    def _of_rows(self) -> list[np.ndarray]:
        return [*super()._of_rows(), self.n_observed]


@torch.inference_mode()
def online_step(decoders: Decoders, decoding: Decoding, batch: OnlineBatch) -> None:
    """Give every row in flight its next token."""
    exit_step(decoding, batch)
    if len(batch.complete.slot_T) >= OBSERVED_TOKENS:
        read_complete(decoders.teacher, decoding, batch)


@torch.inference_mode()
def taught_step(decoders: Decoders, decoding: Decoding, batch: OnlineBatch) -> None:
    """Give every row of an oracle its next token, if the teacher is another decoder, which runs the last ones first."""
    tokens, exits = last_tokens(batch), batch.layers.exits
    with record_function("teacher"):
        reading = read_texts(decoders.teacher, decoding, exits, batch.teacher, tokens, batch.n_prompt)
    exit_step(decoding, batch, reading)
    if decoding.n_observed:
        record_reading(batch, tokens.slot_D, tokens.input_index_D, reading)
    batch.n_observed[tokens.slot_D] += 1


def exit_step(decoding: Decoding, batch: OnlineBatch, reading: Reading | None = None) -> None:
    """Run the tokens that are being decided up to their exits, and record what comes of it."""
    # 1. Layer by layer, tokens leave where their rules say; their next tokens are read there. Tokens that have exited
    #    before come along where a later one goes deeper.
    tokens, deciding = last_tokens(batch), deciding_of(batch, batch.student.decoder.device)
    taken = exit_pass(batch.student, decoding, tokens, deciding, reading)
    # 2. What was looked at is counted, as what was run has been.
    batch.counts["looks_TXK"][tokens.slot_D, tokens.input_index_D] += taken.looks_DXK
    # 3. What these tokens generated is recorded.
    with record_function("records"):
        columns = {
            "token_id_T": taken.picked.token_B,
            "exit_prob_TX": taken.prob_DX,
            "evidence_TE": taken.evidence_DE,
            **taken.picked.columns(),
        }
        exit_layer = batch.layers.exits[taken.exit_D]
        batch.record(tokens.slot_D, {"exit_layer_T": exit_layer, **to_host(columns)})
    # 4. Tokens that are through all layers are to be read as the teacher's, many at a time.
    for through in taken.through:
        np.add.at(batch.n_observed, through.slot_N, 1)
        batch.complete = batch.complete.and_these(through.slot_N, through.input_index_N, through.streams_NXW)


@record_function("observation")
@torch.inference_mode()
def observe(decoder: Decoder, decoding: Decoding, batch: OnlineBatch, slots: np.ndarray) -> None:
    """Record what the teacher says of rows that have ended: the columns that an oracle's loop has at once.

    Tokens that have not been through all its layers go through them, many at a time, in their rows' slots.
    """
    if not len(slots):
        return
    read_complete(decoder, decoding, batch)  # before slots are filled anew
    exits = batch.layers.exits[-decoding.n_observed :]
    first, end = batch.n_observed[slots], batch.n_generated[slots] - 1  # the last token has none behind it
    slot_T = np.repeat(slots, end - first)
    input_index_T = np.concatenate([np.arange(*ends) for ends in zip(first, end, strict=True)])
    batch.teacher.unhide(*to_device([slots.copy()], decoder.device))
    size = OBSERVED_TOKENS
    if decoder.attends_itself:
        size = min(size, max(1, OBSERVED_POSITIONS // int((batch.n_prompt + batch.n_generated)[slots].max())))
    for start in range(0, len(slot_T), size):
        slot, input_index = slot_T[start : start + size], input_index_T[start : start + size]
        tokens = Tokens(slot, input_index, batch.records["token_id_T"][slot, input_index].astype(np.int64))
        reading = read_texts(decoder, decoding, exits, batch.teacher, tokens, batch.n_prompt)
        record_reading(batch, slot, input_index, reading)


def read_complete(decoder: Decoder, decoding: Decoding, batch: OnlineBatch) -> None:
    """Read and record the tokens that are through all layers."""
    complete, batch.complete = batch.complete, Complete()
    if len(complete.slot_T):
        with decoder.attending():
            reading = read_layers(decoder, torch.cat(list(complete.streams)), decoding)
        record_reading(batch, complete.slot_T, complete.input_index_T, reading)


def record_reading(batch: OnlineBatch, slot_T: np.ndarray, input_index_T: np.ndarray, reading: Reading) -> None:
    """Record what the full-depth model says of the tokens behind these."""
    next_token = batch.records["token_id_T"][slot_T, input_index_T + 1].astype(np.int64)
    [next_T] = to_device([next_token], reading.entropy_B.device)
    for name, values in to_host(reading.columns(next_T, batch.decoding.observe)).items():
        batch.records[name][slot_T, input_index_T + 1] = values
