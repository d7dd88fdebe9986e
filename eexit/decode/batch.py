"""A batch: rows in flight with their student, whose caches follow them as they come and go.

What a step does is in the classes that stand on this one: `eexit.decode.step` has rows of online rules and those beside
a teacher, `eexit.decode.draft` rows that draft.

Shapes: B rows in flight, S slots, X exitable layers and then the final one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from eexit.decode.exit_pass import Deciding
from eexit.decode.reading import read_tokens
from eexit.decode.requests import Decoders, Decoding, Outcome, Request
from eexit.decode.rows import Rows, to_device
from eexit.decode.student import Leaving, Student
from eexit.decode.teacher import Prefilled, prefill
from eexit.model.layers import Inputs

Tell = Callable[[int], None]  # of a number of tokens


class Batch(ABC):
    """Rows in flight, of which the first `n_students` have a row of the student's cache each."""

    first_layer = 0  # of the student's; those before are run by the teacher beside it

    def __init__(self, n_slots: int, length: int, decoders: Decoders, decoding: Decoding, requests: Sequence[Request]):
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        self.decoders, self.decoding, self.n_slots = decoders, decoding, n_slots
        self.rows = Rows(n_slots, decoding, requests, decoders.teacher)
        cache = decoders.student.cache(n_slots, length)
        self.student, self.n_students = Student(decoders.student, cache, decoding.exitable_layers), 0
        self.caches = [cache]  # in which the rows have the same columns

    @property
    def device(self) -> torch.device:
        return self.decoders.teacher.device

    @abstractmethod
    def step(self) -> None:
        """Give every row in flight its next tokens."""

    @abstractmethod
    def observe(self, slots: np.ndarray, observed: Tell) -> None:
        """Record what full depth says of rows that have ended, as far as that is not known."""

    def outcome(self, slot: int) -> Outcome:
        """Return the trace of the row in a slot, or why it failed."""
        return self.rows.outcome(slot)

    # ---- rows come and go

    @torch.inference_mode()
    def admit(self, requests: Mapping[int, Request], limits: Mapping[int, int]) -> None:
        """Give these requests, by their numbers, slots, and the first token of each."""
        self._settle()
        prefilled = prefill(
            self.decoders, self.decoding, [request.prompt_token_ids for request in requests.values()], self.rows.end
        )
        for index, request in requests.items():
            self.rows.add(self._new_slot(request), index, request, limits[index])
        slots = np.flatnonzero(self.rows.n_tokens[: self.rows.n_rows] == 0)
        prompt_N = np.array([prefilled.index_of[self.rows.prompt(slot)] for slot in slots.tolist()])
        self._load(prefilled, slots, prompt_N)
        self._first_tokens(prefilled, slots, prompt_N)

    def _new_slot(self, request: Request) -> int:
        """Return a free slot for a row; one with a student takes the first slot behind other students'."""
        slot = self.rows.n_rows
        if self.has_student(request):
            self.rows.move(self.n_students, slot)
            slot, self.n_students = self.n_students, self.n_students + 1
        return slot

    def has_student(self, request: Request) -> bool:
        """Whether a row needs a student."""
        return True

    def _load(self, prefilled: Prefilled, slots: np.ndarray, prompt_N: np.ndarray) -> None:
        """Start new rows with the keys and values of their prompts."""
        with_student = slots < self.n_students
        if with_student.any():
            source, target = to_device([prompt_N[with_student], slots[with_student]], self.student.decoder.device)
            self.student.cache.copy_rows(prefilled.student, source, target, self.first_layer)

    def _first_tokens(self, prefilled: Prefilled, slots: np.ndarray, prompt_N: np.ndarray) -> None:
        """Give new rows their first token, from the final layer of their prompts' pass: no exit is drawn for it."""
        decoder = self.decoders.teacher
        [prompt, u_token_N] = to_device([prompt_N, self.rows.u_token[slots, 0]], self.device)
        reading = prefilled.reading.of(prompt)
        if self.decoding.temperature > 0:
            picked = read_tokens(decoder, self.decoding, decoder.normed(prefilled.final_UW[prompt]), u_token_N)
        else:
            picked = reading.picked(torch.full_like(prompt, -1))
        columns = picked.columns() | reading.columns(picked.token_B, self.decoding.observe)
        self.rows.record(columns | {"exit_layer_T": torch.full_like(prompt, decoder.n_layers - 1)}, slots)

    @torch.inference_mode()
    def remove(self, slots: np.ndarray) -> None:
        """Free these slots, which are in descending order, and fill the gaps with rows from higher slots."""
        if not len(slots):
            return
        origin = np.arange(self.n_students)
        for slot in slots.tolist():
            if slot < self.n_students:
                self.n_students -= 1
                origin[slot] = origin[self.n_students]
                self.rows.move(self.n_students, slot)
                slot = self.n_students
            self.rows.move(self.rows.n_rows - 1, slot)
            self.rows.drop_last()
        origin = origin[: self.n_students]
        targets = np.flatnonzero(origin != np.arange(self.n_students))
        [kept, source, target] = to_device([origin, origin[targets], targets], self.device)
        if len(targets):
            self.student.cache.copy_rows(self.student.cache, source, target, self.first_layer)
        self.student.keep(kept)

    def _settle(self) -> None:
        """Run the deferred tokens of rows in flight."""
        if self.student.deferred and self.rows.n_rows:
            leaving = Leaving.of(self.student, self.rows, self.rows.n_rows)
            self.student.settle(leaving, self._latest(self.rows.end))
        self.student.deferred.clear()

    # ---- what a step asks

    def inputs(self) -> Inputs:
        """Return the rows' latest tokens, which no layer has run yet."""
        if n_columns := self.rows.shift():
            for cache in self.caches:
                cache.move_left(n_columns)
        return self._latest(self.rows.end + 1)

    def _latest(self, end: int) -> Inputs:
        """Return the rows' latest tokens as inputs whose columns end before column `end`."""
        asked = self.rows.asked
        return Inputs(asked.token_B1, asked.position_B1, self.rows.seen(end), self.rows.first_column)

    def deciding(self) -> Deciding:
        """Return what decides the exits of the rows' latest tokens."""
        asked = self.rows.asked
        u_exit_B, u_token_B = (u_BP.gather(1, asked.n_tokens_B1)[:, 0] for u_BP in (asked.u_exit_BP, asked.u_token_BP))
        return Deciding(
            self.rows.rules, asked.rule_B, asked.parameter_BE, u_exit_B, u_token_B, self.rows.all_exit,
            checked=self.rows.checked,
        )  # fmt: skip

    def record(self, columns: Mapping[str, Tensor]) -> None:
        """Add a token to every row, whose pass has filled one more column of the caches."""
        self.rows.end += 1
        self.rows.record(columns)
