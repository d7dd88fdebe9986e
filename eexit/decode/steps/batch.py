"""The rows in flight beside their teacher, and their caches.

Rows with a student fill the first slots, so that every pass works on a leading part of the cache. The teacher depends
on nothing of a row but its prefix, which is all of its tokens so far: rows with equal prefixes share one slot of the
teacher's cache, until they generate different tokens.

Shapes: N slots, B rows in flight, U unique prefixes (padded: see `padded`), P prefixes to be copied, E exitable layers,
X = E + 1, K top tokens, T tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from eexit.decode.costs.counting import full_depth
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding, Outcome, Request
from eexit.decode.rows.slots import NONE, Slots, find_layers
from eexit.decode.rows.transfer import to_device
from eexit.decode.teacher import Prefilled
from eexit.decode.trace import Trace
from eexit.method.states import STATES, alters
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.plan.configuration import Configuration

# Every new number of rows makes oneDNN compile its matrix products once more, which takes 0.9 ms and 0.65 MB on a CPU.
MAX_BATCH_SIZES: Final = 16


def padded(rows: np.ndarray, most: int) -> np.ndarray:
    """Repeat the last of these rows, so that their number is one of at most MAX_BATCH_SIZES up to `most`."""
    step = -(-most // MAX_BATCH_SIZES)
    n_rows = min(-(-len(rows) // step) * step, most)
    return np.pad(rows, (0, n_rows - len(rows)), mode="edge")


def students_of(configurations: Iterable[Configuration]) -> list[str]:
    """The modes whose exits alter what later tokens see, so that their rows need a student's cache."""
    modes = {configuration.mode for configuration in configurations}
    return [name for name, state in STATES.items() if name in modes and alters(state)]


class Batch(Slots):
    """Slots for rows, and their caches: the student's has a slot per row, the teacher's a slot per unique prefix."""

    def __init__(self, n_slots: int, length: int, decoders: Decoders, decoding: Decoding, requests: Sequence[Request]):
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        students = students_of(request.configuration for request in requests)
        layers = find_layers(decoding.exitable_layers, decoders.teacher.n_layers, (STATES[name] for name in students))
        super().__init__(n_slots, decoding, layers, requests)
        self.states = students
        self.teacher, self.student = KVCache(n_slots, length), KVCache(n_slots, length)
        self.prefix = np.zeros(n_slots, np.int64)
        self.n_students = 0

    @staticmethod
    def row_bytes(decoder: Decoder, decoding: Decoding, length: int, requests: Sequence[Request]) -> int:
        """Bytes of a row in flight: the teacher's keys and values, the student's above the fork, and final logits."""
        n_layers = decoder.n_layers
        states = [STATES[name] for name in students_of(request.configuration for request in requests)]
        kept = 2 * n_layers - 1 - find_layers(decoding.exitable_layers, n_layers, states).fork
        logits = decoder.vocabulary * decoder.dtype.itemsize
        return decoder.cache_bytes_per_token * length * kept // n_layers + logits

    def unused_prefix(self) -> int:
        """A slot of the teacher's cache that no row uses."""
        return int(np.setdiff1d(np.arange(self.n_slots), self.prefix[: self.n_rows])[0])

    def _new_slot(self, request: Request) -> int:
        slot = super()._new_slot(request)
        if request.configuration.mode not in self.states:
            return slot
        self._move(self.n_students, slot)
        self.n_students += 1
        return self.n_students - 1

    def admit(self, requests: Mapping[int, Request], limit: int, prompt: Prefilled) -> None:
        """Give these requests, by their numbers, slots. They all have this prompt."""
        prefix, before = self.unused_prefix(), self.n_students
        for index, request in requests.items():
            self.prefix[self.add(index, request, limit)] = prefix
        n_tokens, layers = len(prompt.token_ids), range(self.layers.n_layers)
        self.teacher.load(slice(prefix, prefix + 1), prompt.teacher, layers, n_tokens)
        if self.n_students > before:
            above = layers[self.layers.fork + 1 :]
            self.student.load(slice(before, self.n_students), prompt.student, above, n_tokens)

    def outcome(self, slot: int) -> Outcome:
        """The trace of the row in a slot, or why it failed; `normal` runs all of the teacher's pass, and one read."""
        outcome = super().outcome(slot)
        if isinstance(outcome, Trace) and self.rule[slot] == NONE:
            whole = full_depth(len(outcome.token_id_T) - 1, self.layers.n_layers, len(self.layers.exits) - 1)
            return replace(outcome, counts=whole)
        return outcome

    def split_prefixes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give rows that shared a prefix, and then generated different tokens, different slots of the teacher's cache.

        The U unique prefixes fill the first slots. Returns one row of each prefix (U,), padded, and the slots of the
        teacher's cache that have to be copied: from (P,) and to (P,).
        """
        prefix_B = self.prefix[: self.n_rows]
        _, row_U, group_B = np.unique((prefix_B << 32) + self.last_token(), return_index=True, return_inverse=True)
        source_U = prefix_B[row_U]
        stays_U = (np.diff(source_U, prepend=-1) > 0) & (source_U < len(source_U))
        slot_U = source_U.copy()
        slot_U[~stays_U] = np.setdiff1d(np.arange(len(source_U)), source_U[stays_U])
        prefix_B[:] = slot_U[group_B]
        return padded(row_U[np.argsort(slot_U)], self.n_slots), source_U[~stays_U], slot_U[~stays_U]

    def remove(self, slots: np.ndarray, device: torch.device) -> None:
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
            self.student.copy_slots(*to_device([origin[targets], targets], device))

    def _of_rows(self) -> list[np.ndarray]:
        return [*super()._of_rows(), self.prefix]
