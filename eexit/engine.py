"""Batched decoding: many rows (prompt × configuration × seed) advance together, and each exits at its own layer.

Rows of one prompt share its prefill. Rows that end leave the batch, and waiting requests take their slots (continuous
batching, as in Orca, Yu et al. 2022). What happens in a step is in `eexit.step`.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eexit.anatomy import Decoder
from eexit.batch import Batch, find_layers, students_of
from eexit.config import UsageError
from eexit.configuration import NORMAL
from eexit.memory import cache_budget
from eexit.rows import Decoding, Failure, Outcome, Request
from eexit.states import STATES
from eexit.step import Prefilled, decode_step, first_tokens, prefill
from eexit.transfer import to_device


def refuse_mode(mode: str, decoder: Decoder) -> None:
    """Raises `UsageError` if the model can't be run in this mode."""
    try:
        if mode != NORMAL:
            STATES[mode].check(decoder)
    except ValueError as error:
        raise UsageError(f"mode {mode} can't be used with this model: {error}") from error


class Engine:
    """Decodes requests with one decoder. Construct once, `generate` often."""

    def __init__(self, decoder: Decoder, decoding: Decoding):
        self.decoder, self.decoding = decoder, decoding
        self.n_slots = 0  # of the latest batch

    def generate(
        self, requests: Sequence[Request], progress: Callable[[int], None] = lambda n_tokens: None
    ) -> Iterator[tuple[int, Outcome]]:
        """Yields (index into requests, outcome) as rows end; calls `progress` with the number of tokens of each step.

        How many rows are in flight follows from the memory that their caches may take. Requests of one prompt share
        its prefill if they are next to each other.
        """
        waiting = []
        for index, request in enumerate(requests):
            refused = self._refusal(request)
            if refused:
                yield index, refused
            else:
                waiting.append(index)
        if not waiting:
            return
        waiting.reverse()
        batch = self._new_batch([requests[index] for index in waiting])
        prefilled: Prefilled | None = None
        while waiting or batch.n_rows:
            while waiting and batch.n_rows < batch.n_slots:
                prefilled = self._admit(batch, waiting, requests, prefilled)
                yield from self._retire(batch)
            if batch.n_rows:
                decode_step(self.decoder, self.decoding, batch)
                progress(batch.n_rows)
                yield from self._retire(batch)

    def _refusal(self, request: Request) -> Failure | None:
        n_prompt = len(request.prompt_token_ids)
        context = self.decoder.context_of(n_prompt)
        if n_prompt == 0:
            return Failure("the prompt is empty: nothing to continue from")
        if context is not None and n_prompt >= context:
            where = "" if context == self.decoder.context else ", where its rotary angles switch"
            return Failure(
                f"the prompt has {n_prompt} tokens, which leaves no room in the model's context of {context}{where}"
            )
        return None

    def _limit(self, request: Request) -> int:
        """How many tokens a row may generate: as asked, within the model's context."""
        room = self.decoding.max_new_tokens
        n_prompt = len(request.prompt_token_ids)
        context = self.decoder.context_of(n_prompt)
        return room if context is None else min(room, context - n_prompt)

    def _new_batch(self, requests: Sequence[Request]) -> Batch:
        length = max(len(request.prompt_token_ids) + self._limit(request) for request in requests)
        budget = self.decoding.cache_bytes
        if budget is None:
            budget = cache_budget(self.decoder.device, self.decoding.memory_share)
        fit = budget // self.row_bytes(length, requests)
        self.n_slots = max(1, min(len(requests), self.decoding.rows, fit))
        return Batch(self.n_slots, length, self.decoder.n_layers, self.decoding, requests)

    def row_bytes(self, length: int, requests: Sequence[Request]) -> int:
        """Bytes of a row in flight: the teacher's keys and values, the student's above the fork, and final logits."""
        n_layers = self.decoder.n_layers
        states = [STATES[name] for name in students_of(request.configuration for request in requests)]
        kept = 2 * n_layers - 1 - find_layers(self.decoding.exitable_layers, n_layers, states).fork
        logits = self.decoder.vocabulary * self.decoder.dtype.itemsize
        return self.decoder.cache_bytes_per_token * length * kept // n_layers + logits

    def _admit(
        self, batch: Batch, waiting: list[int], requests: Sequence[Request], prefilled: Prefilled | None
    ) -> Prefilled:
        """Fill free slots with waiting requests of one prompt, and give each its first token."""
        prompt = requests[waiting[-1]].prompt_token_ids
        if prefilled is None or prefilled.token_ids != prompt:
            prefilled = prefill(self.decoder, self.decoding, batch.layers, prompt)
        indices: list[int] = []
        while (
            waiting and batch.n_rows + len(indices) < batch.n_slots and requests[waiting[-1]].prompt_token_ids == prompt
        ):
            indices.append(waiting.pop())
        prefix = batch.unused_prefix()
        n_students = batch.n_students
        for index in indices:
            batch.add(index, requests[index], prefix, self._limit(requests[index]))
        layers = range(self.decoder.n_layers)
        batch.teacher.load(slice(prefix, prefix + 1), prefilled.cache, layers, len(prompt))
        if batch.n_students > n_students:
            new = slice(n_students, batch.n_students)
            batch.student.load(new, prefilled.cache, layers[batch.layers.fork + 1 :], len(prompt))
        slots = np.flatnonzero(batch.n_generated[: batch.n_rows] == 0)
        first_tokens(self.decoder, self.decoding, batch, slots, prefilled)
        return prefilled

    def _retire(self, batch: Batch) -> Iterator[tuple[int, Outcome]]:
        """Yield the outcomes of the rows that ended or failed, and free their slots."""
        ended = batch.ended()
        outcomes = [(int(batch.request[slot]), batch.outcome(slot)) for slot in ended]
        sources, targets = batch.remove(ended)
        if len(targets):
            batch.student.copy_slots(*to_device([sources, targets], self.decoder.device))
        yield from outcomes
