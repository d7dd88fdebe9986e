"""Batched decoding: many rows (prompt × mode × KL factor × seed) advance together, each exits at its own layer.

A step is the teacher pass over all rows, the readout of every exitable layer with its KL, the choice of exits, the
student pass over the `frozen_residual` rows, the next tokens, the records. Rows of one prompt share its prefill; rows
that end leave, and waiting ones take their place.

The teacher sees nothing of a row but its text, the tokens so far: rows with the same text are one row to it and to the
readout, until they take different tokens.

Teacher and student agree up to and including the fork, the layer after the first exitable one: an exit changes what
later layers see, and the first layer after it still sees what it always saw. Up to there they are one pass and one
cache; the student runs from the fork on.

Shapes: B rows in flight, F of them `frozen_residual`, U texts of theirs, E exitable layers, X = E + 1 with the final
layer last, L layers, K recorded top tokens, T tokens, W width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.anatomy import Decoder, LayerPass
from eexit.batch import Batch
from eexit.cache import CacheView, KVCache
from eexit.config import Mode
from eexit.exits import choose_exits, exit_probabilities
from eexit.memory import cache_budget
from eexit.readout import Reading, read_layers, read_tokens
from eexit.rows import Decoding, Failure, Outcome, Request
from eexit.steps import Routes, Rows, send_routes, send_rows
from eexit.transfer import to_device, to_host

PROMPT_STEP: Final = 32  # a prompt's tokens are processed in multiples: see batch.SIZES


@dataclass(frozen=True)
class Prefix:
    """A prompt at full depth: its keys and values, and its last token's residual streams and reading."""

    token_ids: tuple[int, ...]
    cache: KVCache
    states_1XW: Tensor
    reading: Reading


class Engine:
    """Decodes requests with one decoder. Construct once, `generate` often."""

    def __init__(self, decoder: Decoder, decoding: Decoding):
        self.decoder, self.decoding = decoder, decoding
        self.n_slots = 0  # rows that were in flight last, at most
        self.final = decoder.n_layers - 1
        self.n_exits = len(decoding.exitable_layers)
        self.fork = decoding.exitable_layers[0] + 1
        self.kept = {*decoding.exitable_layers, self.fork, self.final}
        self.exit_layers = np.array([*decoding.exitable_layers, self.final])
        # The student's layers, in stretches throughout which the same rows go on.
        starts = {self.fork + 1, *(layer + 1 for layer in decoding.exitable_layers if layer > self.fork)}
        self.stretches = list(pairwise([*sorted(starts), decoder.n_layers]))

    def generate(
        self, requests: Sequence[Request], progress: Callable[[int], None] = lambda n_tokens: None
    ) -> Iterator[tuple[int, Outcome]]:
        """Yields (index into requests, outcome) as rows end. `progress` gets the tokens of each step.

        Rows in flight follow from the memory their caches may take. Put requests of one prompt next to each other:
        they share its prefill.
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
        prefix: Prefix | None = None
        while waiting or batch.n_rows:
            while waiting and batch.n_rows < batch.n_slots:
                prefix = self._admit(batch, waiting, requests, prefix)
                yield from self._retire(batch)
            if batch.n_rows:
                self._decode_step(batch)
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
        """Tokens a row may make: as asked, within the model's context."""
        room = self.decoding.max_new_tokens
        n_prompt = len(request.prompt_token_ids)
        context = self.decoder.context_of(n_prompt)
        return room if context is None else min(room, context - n_prompt)

    def _new_batch(self, requests: Sequence[Request]) -> Batch:
        length = max(len(request.prompt_token_ids) + self._limit(request) for request in requests)
        has_student = any(request.mode == Mode.FROZEN_RESIDUAL for request in requests)
        budget = self.decoding.cache_bytes
        if budget is None:
            budget = cache_budget(self.decoder.device, self.decoding.memory_share)
        fit = budget // self.row_bytes(length, has_student)
        self.n_slots = max(1, min(len(requests), self.decoding.rows, fit))
        return Batch(self.n_slots, length, self.decoding)

    def row_bytes(self, length: int, has_student: bool) -> int:
        """Bytes of a row in flight: keys and values of every layer and the student's from the fork on; final logits."""
        n_layers = self.decoder.n_layers
        kept = n_layers + (n_layers - self.fork - 1 if has_student else 0)
        logits = self.decoder.vocabulary * self.decoder.dtype.itemsize
        return self.decoder.cache_bytes_per_token * length * kept // n_layers + logits

    # Prompts

    @torch.inference_mode()
    def _admit(self, batch: Batch, waiting: list[int], requests: Sequence[Request], prefix: Prefix | None) -> Prefix:
        """Fill free slots with waiting rows of one prompt, and give each its first token."""
        prompt = requests[waiting[-1]].prompt_token_ids
        if prefix is None or prefix.token_ids != prompt:
            prefix = self._prefill(prompt)
        indices: list[int] = []
        while (
            waiting and batch.n_rows + len(indices) < batch.n_slots and requests[waiting[-1]].prompt_token_ids == prompt
        ):
            indices.append(waiting.pop())
        text = batch.unused_text()
        n_frozen = batch.n_frozen
        for index in indices:
            batch.add(index, requests[index], text, self._limit(requests[index]))
        layers = range(self.decoder.n_layers)
        batch.teacher.load(slice(text, text + 1), prefix.cache, layers, len(prompt))
        if batch.n_frozen > n_frozen:
            batch.student.load(slice(n_frozen, batch.n_frozen), prefix.cache, layers[self.fork + 1 :], len(prompt))
        slots = np.flatnonzero(batch.n_generated[: batch.n_rows] == 0)
        self._first_token(batch, slots, prefix)
        return prefix

    def _prefill(self, prompt: tuple[int, ...]) -> Prefix:
        """Process a prompt at full depth; its last token is repeated behind it, where no other token sees it."""
        length = -(-len(prompt) // PROMPT_STEP) * PROMPT_STEP
        context = self.decoder.context_of(len(prompt))
        length = length if context is None else min(length, context)
        ids = np.array([[*prompt, *prompt[-1:] * (length - len(prompt))]])
        [token_BT] = to_device([ids], self.decoder.device)
        cache = KVCache(1, length)
        view = self.decoder.view(cache, torch.arange(length, device=self.decoder.device)[None], length)
        with self.decoder.attending():
            states_1XW, _, _ = self._teacher_pass(token_BT, view, len(prompt) - 1)
            return Prefix(prompt, cache, states_1XW, self._read(states_1XW))

    def _first_token(self, batch: Batch, slots: np.ndarray, prefix: Prefix) -> None:
        """The first token comes from the final layer: no exit is drawn for it."""
        exits = np.full(len(slots), self.n_exits)
        routes, [u_token_B] = self._routes(exits, 0), to_device([batch.u_token[slots, 0]], self.decoder.device)
        text_B = torch.zeros_like(routes.exit_B)
        reading, hidden_BW = prefix.reading.of(text_B), prefix.states_1XW[text_B, -1]
        self._finish_step(batch, slots, reading, exits, routes, reading.certain_BX, hidden_BW, u_token_B)

    # Steps

    @torch.inference_mode()
    def _decode_step(self, batch: Batch) -> None:
        rows, reach = send_rows(batch, self.decoder.device), int(batch.position().max()) + 1
        if len(rows.source_P):
            batch.teacher.copy_slots(rows.source_P, rows.target_P)
        with self.decoder.attending():
            with record_function("teacher"):
                view = self.decoder.view(batch.teacher, rows.position_U1, reach)
                states_UXW, fork_UW, layer_pass = self._teacher_pass(rows.token_U1, view)
            with record_function("readout"):
                reading = self._read(states_UXW).of(rows.text_B)
                exit_B, prob_BX = self._draw_exits(rows, reading)
            with record_function("student"):
                exits, hidden_BW = exit_B.cpu().numpy(), states_UXW[rows.text_B, exit_B]
                routes = self._routes(exits, batch.n_frozen)
                if batch.n_frozen:
                    text_F = rows.text_B[: batch.n_frozen]
                    view = self.decoder.view(batch.student, rows.position_U1[text_F], reach)
                    at_fork_FW, at_exit_FW = fork_UW[text_F], hidden_BW[: batch.n_frozen]
                    at_exit_FW[:] = self._student_pass(layer_pass, text_F, view, at_exit_FW, at_fork_FW, routes)
        slots = np.arange(batch.n_rows)
        self._finish_step(batch, slots, reading, exits, routes, prob_BX, hidden_BW, rows.u_token_B)

    def _read(self, states_BXW: Tensor) -> Reading:
        return read_layers(self.decoder, states_BXW, self.decoding.readout, self.decoding.record_top_k)

    def _teacher_pass(self, token_BT: Tensor, view: CacheView, last: int = -1) -> tuple[Tensor, Tensor, LayerPass]:
        """All layers for all rows: residual streams at each row's last token, or the one that is said to be.

        Returns those after the exitable layers and the final one (B, X, W), that after the fork (B, W), and the pass.
        """
        hidden_BTW, layer_pass = self.decoder.begin(token_BT, view)
        states = {}
        for layer in range(self.decoder.n_layers):
            hidden_BTW = layer_pass.block(layer, hidden_BTW)
            if layer in self.kept:
                states[layer] = hidden_BTW[:, last]
        exits = [states[layer] for layer in (*self.decoding.exitable_layers, self.final)]
        return torch.stack(exits, 1), states[self.fork], layer_pass

    def _draw_exits(self, rows: Rows, reading: Reading) -> tuple[Tensor, Tensor]:
        """Each row's exit (B,), an index into the exitable layers or E for the final one, and what it was drawn from.

        The probabilities (B, X) are all on the final layer for rows of `normal`, which draw no exit.
        """
        exit_B = choose_exits(reading.kl_BE, rows.kl_factor_B, rows.u_exit_B).masked_fill(~rows.decides_B, self.n_exits)
        prob_BX = exit_probabilities(reading.kl_BE, rows.kl_factor_B)
        return exit_B, torch.where(rows.decides_B[:, None], prob_BX, reading.certain_BX)

    def _routes(self, exits: np.ndarray, n_frozen: int) -> Routes:
        """Where rows go from their exits on, the first `n_frozen` with a student.

        The likeliest token of a row without a stream of its own was seen when its layers were read.
        """
        decoding = self.decoding
        known = (np.arange(len(exits)) >= n_frozen) & (decoding.temperature == 0)
        by_lens = (exits == self.n_exits) | (decoding.readout == "lens")
        unread = [(lens, np.flatnonzero(~known & (by_lens == lens))) for lens in (True, False)]
        starts = [start for start, _ in self.stretches] if n_frozen else []
        return send_routes(exits, self.exit_layers[exits[:n_frozen]], self.fork, starts, unread, self.decoder.device)

    def _student_pass(
        self, layer_pass: LayerPass, text_F: Tensor, view: CacheView, teacher_FW: Tensor, fork_FW: Tensor,
        routes: Routes,
    ) -> Tensor:  # fmt: skip
        """The residual stream (F, W) of each row at its exit layer, as the student's own cache makes it.

        A layer is run for the rows that have not exited before it; the others only give it their keys and values,
        from the residual stream they exited with. Rows that exit up to the fork have the teacher's, `teacher_FW`.
        """
        hidden_FW = torch.where(routes.at_fork_F[:, None], teacher_FW, fork_FW)
        for (start, end), (going, out) in zip(self.stretches, routes.stretches, strict=True):
            going_pass = layer_pass.among(text_F[going], view.among(going))
            out_pass = layer_pass.among(text_F[out], view.among(out))
            going_BTW, out_BTW = hidden_FW[going, None], hidden_FW[out, None]
            for layer in range(start, end):
                if len(out):
                    out_pass.write_keys(layer, out_BTW)
                if len(going):
                    going_BTW = going_pass.block(layer, going_BTW)
            hidden_FW[going] = going_BTW[:, 0]
        return hidden_FW

    def _finish_step(
        self, batch: Batch, slots: np.ndarray, reading: Reading, exits: np.ndarray, routes: Routes, prob_BX: Tensor,
        hidden_BW: Tensor, u_token_B: Tensor,
    ) -> None:  # fmt: skip
        """Take the next tokens from where the rows exit, and note it all."""
        with record_function("sampling"):
            picked = reading.picked(routes.exit_B)
            for lens, row_B in routes.unread:
                if len(row_B):
                    read = read_tokens(self.decoder, hidden_BW[row_B], lens, self.decoding, u_token_B[row_B])
                    picked.put(row_B, read)
        with record_function("records"):
            columns = {
                "token_id_T": picked.token_B,
                "kl_TE": reading.kl_BE,
                "exit_prob_TE": prob_BX,
                "logprob_T": reading.logprob(picked.token_B),
                "final_token_id_T": reading.likeliest_BX[:, -1],
                "entropy_T": reading.entropy_B,
                "top_token_id_TXK": reading.top_token_BXK,
                "top_prob_TXK": reading.top_prob_BXK,
                "exit_logprob_T": picked.log_p_B,
                "exit_top_token_id_TK": picked.top_token_BK,
                "exit_top_prob_TK": picked.top_prob_BK,
            }
            batch.record(slots, exit_layer_T=self.exit_layers[exits], **to_host(columns))

    def _retire(self, batch: Batch) -> Iterator[tuple[int, Outcome]]:
        """Hand out the rows that ended, or went astray, and free their slots."""
        ended = batch.ended()
        outcomes = [(int(batch.request[slot]), batch.outcome(slot)) for slot in ended]
        sources, targets = batch.remove(ended)
        if len(targets):
            batch.student.copy_slots(*to_device([sources, targets], self.decoder.device))
        yield from outcomes
