"""The rows in flight, and what holds their keys and values.

Rows with a student fill the first slots, so that every pass works on a leading part of the student's cache. Each row
has one, but where the teacher beside it is the same decoder: there, rows have a student if exits alter what their later
tokens see, and up to the fork it is the teacher.

Shapes: S slots, P indices of a row's generated tokens, X exitable layers and then the final one, K kinds of
looks.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from eexit.decode.costs.counting import LOOKS, full_depth
from eexit.decode.costs.draft_rounds import Rounds
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.prefixes import Prefixes
from eexit.decode.rows.requests import Decoding, Failure, Outcome, Request
from eexit.decode.rows.slots import Slots, find_layers
from eexit.decode.rows.transfer import to_device
from eexit.decode.rows.waiting import Waiting
from eexit.decode.teacher import Prefilled
from eexit.decode.token_pass import StudentRows, Through
from eexit.method.states import STATES, alters
from eexit.model.cache import KVCache
from eexit.plan.configuration import DRAFT, NORMAL, Draft, Normal


class Batch(Slots):
    """Slots for rows, their `student`, and for oracles their `teacher`; one batch has rows with a teacher or without.

    Without a teacher, what full depth would have said is found once a row has ended: `texts` is the cache in which its
    text goes through all layers then, of which `complete` tokens and the first `n_observed` of a row need no more. Rows
    that draft have `rounds`, by request, as `draft_rounds.Rounds` has them.
    """

    def __init__(self, n_slots: int, length: int, decoders: Decoders, decoding: Decoding, requests: Sequence[Request]):
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        modes, is_taught = {request.configuration.mode for request in requests}, _are_taught(requests)
        exiting = modes - {NORMAL}
        self.shares = is_taught and decoders.are_one  # the teacher's pass, up to the fork
        altering = _altering(modes) if self.shares else None
        layers = find_layers(decoding.exitable_layers, decoders.teacher.n_layers, altering)
        super().__init__(n_slots, decoding, layers, requests)
        self.decoders, self.drafts = decoders, DRAFT in modes
        self.rounds: dict[int, list[list[int]]] = defaultdict(list)
        if altering is not None:
            self.states = altering
        self.teacher = Prefixes(n_slots, length) if is_taught else None
        self.n_students = 0
        if not (is_taught or self.drafts):  # of a teacher's pass nothing is a row's own; of drafts, rounds say it
            room = self.u_exit.shape[1]
            self.counts = {
                "layers_T": np.zeros((n_slots, room), np.int64),
                "keys_T": np.zeros((n_slots, room), np.int64),
                "looks_TXK": np.zeros((n_slots, room, len(layers.exits), len(LOOKS)), np.int64),
            }
        # Tokens in modes that leave the state alone may go through all layers: their streams are the teacher's then.
        collects = _n_collected(decoding, modes) if decoders.are_one and not is_taught else 0
        n_inputs = min(decoding.max_new_tokens, length) if exiting and not self.shares else 0
        n_kept = min(collects, _n_collected(decoding, exiting))
        waiting = Waiting(decoders.student, layers, self.n_prompt, self.state, n_inputs, n_kept)
        self.student = StudentRows(
            decoders.student, layers.segments, KVCache(n_slots, length), self.states, waiting,
            counts=self.counts, collects=collects, maps=decoding.state_maps,
        )  # fmt: skip
        has_own_texts = not (decoders.are_one or is_taught)
        self.texts = KVCache(n_slots, length) if has_own_texts else self.student.cache
        self.complete: list[Through] = []
        self.n_observed = np.zeros(n_slots, np.int64)  # of a row's decided tokens, those that are or were `complete`

    @staticmethod
    def row_bytes(decoders: Decoders, decoding: Decoding, length: int, requests: Sequence[Request]) -> int:
        """Bytes of a row in flight: keys and values, logits, and its tokens, all of which may wait.

        Beside a teacher that is the same decoder, none waits, and the student's keys and values begin above the fork.
        Where drafts are sampled, the logits of a round's are kept. Two decoders take twice as much.
        """
        decoder, modes = decoders.teacher, {request.configuration.mode for request in requests}
        keys, logits = decoder.cache_bytes_per_token * length, decoder.vocabulary * decoder.dtype.itemsize
        if decoders.are_one and _are_taught(requests):
            fork = find_layers(decoding.exitable_layers, decoder.n_layers, _altering(modes)).fork
            return keys * (2 * decoder.n_layers - 1 - fork) // decoder.n_layers + logits
        exiting, n_inputs = modes - {NORMAL}, min(decoding.max_new_tokens, length)
        waiting = Waiting.token_bytes(decoder, _n_collected(decoding, exiting)) * n_inputs if exiting else 0
        if decoding.temperature > 0:
            drafts = (request.configuration for request in requests)
            logits *= 1 + max((each.n_tokens for each in drafts if isinstance(each, Draft)), default=0)
        return (keys + waiting + logits) * (1 if decoders.are_one else 2)

    def _new_slot(self, request: Request) -> int:
        slot = super()._new_slot(request)
        if self.shares and request.configuration.mode not in self.states:
            return slot
        self._move(self.n_students, slot)
        self.n_students += 1
        return self.n_students - 1

    def admit(self, requests: Mapping[int, Request], limit: int, prompt: Prefilled) -> None:
        """Give these requests, by their numbers, slots. They all have this prompt."""
        before, n_tokens, layers = self.n_students, len(prompt.token_ids), range(self.layers.n_layers)
        prefix = self.teacher.begin(self.n_rows, prompt.teacher, len(layers), n_tokens) if self.teacher else 0
        for index, request in requests.items():
            slot = self.add(index, request, limit)
            self.n_observed[slot] = 0
            if self.teacher:
                self.teacher.slot_S[slot] = prefix
        if self.n_students > before:
            new, own = slice(before, self.n_students), layers[self.layers.fork + 1 :]
            self.student.cache.load(new, prompt.student, own, n_tokens)
            if self.texts is not self.student.cache:
                self.texts.load(new, prompt.teacher, layers, n_tokens)

    def outcome(self, slot: int) -> Outcome:
        """The trace of the row in a slot, or why it failed; beside a teacher, `normal` runs all of its pass."""
        outcome, index = super().outcome(slot), int(self.request[slot])
        if isinstance(outcome, Failure):
            return outcome
        match self.requests[index].configuration:
            case Draft(layer):
                rounds = Rounds.of(self.rounds.pop(index, []))
                return replace(outcome, rounds=rounds, counts=rounds.counts(layer, self.layers.exits))
            case Normal() if self.teacher:
                n_decided, n_exits = len(outcome.token_id_T) - 1, len(self.layers.exits) - 1
                return replace(outcome, counts=full_depth(n_decided, self.layers.n_layers, n_exits))
        return outcome

    @torch.inference_mode()
    def remove(self, slots: np.ndarray) -> None:
        """Free these slots, which are in descending order, and fill the gaps with rows from higher slots."""
        origin = np.arange(self.n_students)
        for slot in slots:
            if slot < self.n_students:
                self.n_students -= 1
                origin[slot] = origin[self.n_students]
                self._move(self.n_students, slot)
                slot = self.n_students
            self.n_rows -= 1
            self._move(self.n_rows, slot)
        origin = origin[: self.n_students]
        targets = np.flatnonzero(origin != np.arange(self.n_students))
        if len(targets):
            source, target = to_device([origin[targets], targets], self.student.decoder.device)
            for cache in {self.student.cache, self.texts}:
                cache.copy_slots(source, target)
            self.student.waiting.move(origin[targets], targets)
        self.student.waiting.clear(np.arange(self.n_students, self.n_slots))

    def _of_rows(self) -> list[np.ndarray]:
        prefixes = [self.teacher.slot_S] if self.teacher else []
        return [*super()._of_rows(), self.n_observed, *prefixes]


def _are_taught(requests: Iterable[Request]) -> bool:
    return any(request.is_oracle for request in requests)


def _altering(modes: Iterable[str]) -> list[str]:
    """Those of these modes whose exits alter what later tokens see."""
    return [name for name, state in STATES.items() if name in modes and alters(state)]


def _n_collected(decoding: Decoding, modes: Iterable[str]) -> int:
    """After how many layers streams are to be observed, if tokens in some of these modes go through all layers as the
    teacher's do, and are not taken back as drafts are; else 0."""
    go_through = any(mode != DRAFT and (mode not in STATES or not alters(STATES[mode])) for mode in modes)
    return decoding.n_observed if go_through else 0
