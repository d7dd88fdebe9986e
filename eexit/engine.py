"""Batched decoding: many rows (prompt × mode × KL factor × seed) advance together, each exits at its own layer.

A step is the teacher pass over all rows, the readout of every exitable layer with its KL, the choice of exits, the
student pass over the `frozen_residual` rows, the next tokens, the records. Rows of one prompt share its prefill; rows
that end leave, and waiting ones take their place.

Teacher and student agree up to and including the fork, the layer after the first exitable one: an exit changes what
later layers see, and the first layer after it still sees what it always saw. Up to there they are one pass and one
cache; the student runs from the fork on.

Shapes: B rows in flight, F of them `frozen_residual`, E exitable layers, L layers, T tokens, W width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eexit.anatomy import Decoder, LayerPass
from eexit.batch import Batch
from eexit.cache import CacheView, KVCache
from eexit.config import Mode
from eexit.exits import choose_exits, exit_probabilities
from eexit.readout import Reading, read_layers, read_tokens
from eexit.rows import Decoding, Failure, Outcome, Request


@dataclass(frozen=True)
class Prefix:
    """A prompt at full depth: its keys and values, and the residual streams (1, W) at its last token."""

    token_ids: tuple[int, ...]
    cache: KVCache
    states: dict[int, Tensor]


class Engine:
    """Decodes requests with one decoder. Construct once, `generate` often."""

    def __init__(self, decoder: Decoder, decoding: Decoding):
        self.decoder, self.decoding = decoder, decoding
        self.final = decoder.n_layers - 1
        self.fork = decoding.exitable_layers[0] + 1
        self.kept = {*decoding.exitable_layers, self.fork, self.final}
        self.exit_layers = torch.tensor([*decoding.exitable_layers, self.final], device=decoder.device)

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
        n_prompt, context = len(request.prompt_token_ids), self.decoder.context
        if n_prompt == 0:
            return Failure("the prompt is empty: nothing to continue from")
        if context is not None and n_prompt >= context:
            return Failure(
                f"the prompt has {n_prompt} tokens, which leaves no room in the model's context of {context}"
            )
        return None

    def _limit(self, request: Request) -> int:
        """Tokens a row may make: as asked, within the model's context."""
        room = self.decoding.max_new_tokens
        return room if self.decoder.context is None else min(room, self.decoder.context - len(request.prompt_token_ids))

    def _new_batch(self, requests: Sequence[Request]) -> Batch:
        length = max(len(request.prompt_token_ids) + self._limit(request) for request in requests)
        has_student = any(request.mode == Mode.FROZEN_RESIDUAL for request in requests)
        row_bytes = self.decoder.cache_bytes_per_token * length * (2 if has_student else 1)
        n_slots = max(1, min(len(requests), self.decoding.rows, self.decoding.cache_bytes // row_bytes))
        return Batch(n_slots, self.decoding, [KVCache(n_slots, length), KVCache(n_slots, length)])

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
        # Frozen rows first: each takes its place at once, and no row moves that has no cache yet.
        indices.sort(key=lambda index: requests[index].mode != Mode.FROZEN_RESIDUAL)
        for index in indices:
            slot = batch.add(index, requests[index], self._limit(requests[index]))
            teacher, student = batch.caches
            teacher.load([slot], prefix.cache, range(self.decoder.n_layers), len(prompt))
            if requests[index].mode == Mode.FROZEN_RESIDUAL:
                student.load([slot], prefix.cache, range(self.fork + 1, self.decoder.n_layers), len(prompt))
        slots = np.flatnonzero(batch.n_generated[: batch.n_rows] == 0)
        self._first_token(batch, slots, prefix)
        return prefix

    def _prefill(self, prompt: tuple[int, ...]) -> Prefix:
        """Process a prompt at full depth."""
        cache = KVCache(1, len(prompt))
        token_BT = torch.tensor([prompt], device=self.decoder.device)
        view = CacheView(cache, torch.arange(len(prompt), device=self.decoder.device)[None], len(prompt))
        with self.decoder.attending():
            states, _ = self._teacher_pass(token_BT, view)
        return Prefix(prompt, cache, states)

    def _first_token(self, batch: Batch, slots: np.ndarray, prefix: Prefix) -> None:
        """The first token comes from the final layer: no exit is drawn for it."""
        states = {layer: state_1W.expand(len(slots), -1) for layer, state_1W in prefix.states.items()}
        reading = self._read({layer: state_BW[:1] for layer, state_BW in states.items()})
        reading = Reading(*(part.expand(len(slots), *part.shape[1:]) for part in vars(reading).values()))
        exit_B = torch.full((len(slots),), len(self.decoding.exitable_layers), device=self.decoder.device)
        u_token_B = self._tensor(batch.u_token[slots, 0])
        self._finish_step(batch, slots, reading, exit_B, self._probabilities(reading, batch, slots, first=True),
                          states[self.final], u_token_B)  # fmt: skip

    # Steps

    @torch.inference_mode()
    def _decode_step(self, batch: Batch) -> None:
        slots = np.arange(batch.n_rows)
        token_BT = self._tensor(batch.last_token().astype(np.int64))[:, None]
        position = batch.n_prompt[slots] + batch.n_generated[slots] - 1
        position_BT, reach = self._tensor(position)[:, None], int(position.max()) + 1
        u_exit_B = self._tensor(batch.u_exit[slots, batch.n_generated[slots]])
        u_token_B = self._tensor(batch.u_token[slots, batch.n_generated[slots]])
        teacher, student = batch.caches
        with self.decoder.attending():
            states, layer_pass = self._teacher_pass(token_BT, CacheView(teacher, position_BT, reach))
            reading = self._read(states)
            exit_B = self._exits(reading, batch, slots, u_exit_B)
            hidden_BW = torch.stack([states[layer] for layer in self.exit_layers.tolist()])[exit_B, self._tensor(slots)]
            if batch.n_frozen:
                view = CacheView(student, position_BT[: batch.n_frozen], reach)
                exit_F = exit_B[: batch.n_frozen]
                hidden_BW[: batch.n_frozen] = self._student_pass(layer_pass, view, states, exit_F)
        self._finish_step(batch, slots, reading, exit_B, self._probabilities(reading, batch, slots),
                          hidden_BW, u_token_B)  # fmt: skip

    def _teacher_pass(self, token_BT: Tensor, view: CacheView) -> tuple[dict[int, Tensor], LayerPass]:
        """All layers for all rows: the residual streams (B, W) at each row's last token after the layers to keep."""
        hidden_BTW, layer_pass = self.decoder.begin(token_BT, view)
        states = {}
        for layer in range(self.decoder.n_layers):
            hidden_BTW = layer_pass.block(layer, hidden_BTW, view)
            if layer in self.kept:
                states[layer] = hidden_BTW[:, -1]
        return states, layer_pass

    def _student_pass(
        self, layer_pass: LayerPass, view: CacheView, states: dict[int, Tensor], exit_F: Tensor
    ) -> Tensor:
        """The residual stream (F, W) of each row at its exit layer, as the student's own cache makes it.

        A layer is run for the rows that have not exited before it; the others only give it their keys and values,
        from the residual stream they exited with.
        """
        exit_layer_F = self.exit_layers[exit_F]
        hidden_FW = states[self.fork][: len(exit_F)].clone()
        for layer in self.decoding.exitable_layers:
            if layer <= self.fork:
                out = exit_layer_F == layer
                hidden_FW[out] = states[layer][: len(exit_F)][out]
        exited_F = exit_layer_F <= self.fork
        going, out = (~exited_F).nonzero()[:, 0], exited_F.nonzero()[:, 0]
        for layer in range(self.fork + 1, self.decoder.n_layers):
            if len(out):
                layer_pass.write_keys(layer, hidden_FW[out, None], view.among(out, keys_only=True))
            if len(going):
                hidden_FW[going] = layer_pass.block(layer, hidden_FW[going, None], view.among(going))[:, 0]
            if layer in self.decoding.exitable_layers:
                exited_F |= exit_layer_F == layer
                going, out = (~exited_F).nonzero()[:, 0], exited_F.nonzero()[:, 0]
        return hidden_FW

    def _read(self, states: dict[int, Tensor]) -> Reading:
        exit_states = [states[layer] for layer in self.decoding.exitable_layers]
        return read_layers(self.decoder, exit_states, states[self.final], self.decoding.readout)

    def _exits(self, reading: Reading, batch: Batch, slots: np.ndarray, u_B: Tensor) -> Tensor:
        """Each row's exit as an index into the exitable layers, E for the final one (always so in `normal`)."""
        exit_B = choose_exits(reading.kl_BE, self._tensor(batch.kl_factor[slots]), u_B)
        return exit_B.masked_fill(~self._tensor(batch.decides[slots]), len(self.decoding.exitable_layers))

    def _probabilities(self, reading: Reading, batch: Batch, slots: np.ndarray, first: bool = False) -> Tensor:
        """The distribution (B, E + 1) each exit was drawn from: all on the final layer where none was drawn."""
        prob_BE = exit_probabilities(reading.kl_BE, self._tensor(batch.kl_factor[slots]))
        certain_E = torch.zeros_like(prob_BE[0])
        certain_E[-1] = 1
        decides_B = self._tensor(batch.decides[slots] & (not first))
        return torch.where(decides_B[:, None], prob_BE, certain_E)

    def _finish_step(
        self, batch: Batch, slots: np.ndarray, reading: Reading, exit_B: Tensor, prob_BE: Tensor,
        hidden_BW: Tensor, u_token_B: Tensor,
    ) -> None:  # fmt: skip
        """Read the next tokens where the rows exit, and note everything."""
        decoding = self.decoding
        lens_B = (exit_B == len(decoding.exitable_layers)) | (decoding.readout == "lens")
        token_B = read_tokens(self.decoder, hidden_BW, lens_B, decoding.temperature, decoding.top_p, u_token_B)
        columns = {
            "token_id_T": token_B,
            "exit_layer_T": self.exit_layers[exit_B],
            "kl_TE": reading.kl_BE,
            "exit_prob_TE": prob_BE,
            "logprob_T": reading.logprob(token_B),
            "final_token_id_T": reading.final_token_B,
            "entropy_T": reading.entropy_B,
        }
        batch.record(slots, **{name: column.cpu().numpy() for name, column in columns.items()})

    def _retire(self, batch: Batch) -> Iterator[tuple[int, Outcome]]:
        """Hand out the rows that ended, or went astray, and free their slots."""
        for slot in batch.ended():
            yield int(batch.request[slot]), batch.outcome(slot)
            batch.remove(slot)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.decoder.device)
