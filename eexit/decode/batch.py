"""A batch: slots of requests in flight, their full-depth and early-exit passes, and what a step of all does.

Shapes: B slots in flight, of which E have an early-exit pass, S slots, X exitable layers and then the final one.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.cpu.token_subset import TokenSubset
from eexit.decode.deferred import DeferredTokens
from eexit.decode.exit_visitor import ExitVisitor
from eexit.decode.full_depth import SharedPrefixes, observe, prefill
from eexit.decode.groups import ExitPlan
from eexit.decode.predictors import FullDepthReference, LMHead, NextTokens
from eexit.decode.requests import DecodingConfig, Outcome, Request
from eexit.decode.slots import MISSED, SlotTable, to_device
from eexit.method.modes import MODES
from eexit.model.decoders import DecoderPair
from eexit.model.layers import ForwardInputs

Tell = Callable[[int], None]  # of a number of tokens


class Batch:
    """Requests in flight, with or without a full-depth pass beside their early-exit pass.

    Oracles need one: their exits are known before the early-exit pass. If the decoders are the same, slots whose mode
    leaves the full-depth KV cache have that pass alone.
    """

    def __init__(
        self, n_slots: int, length: int, decoders: DecoderPair, decoding: DecodingConfig, requests: Sequence[Request],
        has_oracles: bool = False,
    ):  # fmt: skip
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        self.decoders, self.decoding, self.n_slots = decoders, decoding, n_slots
        self.slots = SlotTable(n_slots, decoding, requests, decoders.full_depth)
        self.head = LMHead(decoders.early_exit, decoding)
        self.deferred = DeferredTokens(self.head, decoders.early_exit.cache(n_slots, length))
        self.caches = [self.deferred.cache]  # in which slots have the same columns
        self.full_depth: SharedPrefixes | None = None
        if has_oracles:
            self.full_depth = SharedPrefixes(LMHead(decoders.full_depth, decoding), n_slots, length)
            self.caches.append(self.full_depth.cache)

    @property
    def device(self) -> torch.device:
        return self.decoders.full_depth.device

    @torch.inference_mode()
    def step(self) -> None:
        """Give every slot in flight its next token."""
        # 1. The latest tokens go to full depth, if there are oracles, and each exitable layer is read there.
        inputs, plan = self.inputs(), self.slots.plan()
        reference = self.full_depth.read(self.slots) if self.full_depth else None
        # 2. Exits are decided that follow from it, or from nothing.
        decided = plan.decide(reference)
        # 3. They go through the layers together, up to their exits; skipped layers do what the modes say. The next
        #    tokens are read where they exit.
        columns: dict[str, Tensor] = {}
        if reference is None:
            visitor = self._run(ExitVisitor(self.head, plan, decided, (self.slots.n_rows, 1)), inputs)
            exit_B, next_tokens = visitor.exit_N, visitor.next_tokens
            if self.decoding.screen:
                columns[MISSED] = visitor.misses()
            if plan.groups:
                columns |= {"exit_prob_TX": visitor.probabilities(), "exit_score_TE": decided.score_NE}
        else:
            exit_B = decided.draw(plan.u_exit_N)
            next_tokens = self._read_exits(exit_B, plan, reference)
            if n_early := self.slots.n_early:
                first = ExitVisitor(self.head, plan.first(n_early), decided.first(n_early), (n_early, 1))
                next_tokens.put(TokenSubset(slice(n_early)), self._run(first, inputs).next_tokens)
            columns |= {"exit_prob_TX": decided.probabilities(), "exit_score_TE": decided.score_NE}
            columns |= reference.columns(next_tokens.token_N, self.decoding.record_full_depth)
        # 4. Everything is recorded.
        with record_function("records"):
            self.record(columns | next_tokens.columns() | {"exit_layer_T": plan.layer_X[exit_B]})

    def _run(self, visitor: ExitVisitor, inputs: ForwardInputs) -> ExitVisitor:
        """Run the early-exit pass of the first slots, and read their next tokens."""
        with record_function("early exit"):
            visitor.finish(self.deferred.run(visitor, inputs.first(visitor.shape[0])))
        return visitor

    def _read_exits(self, exit_B: Tensor, plan: ExitPlan, reference: FullDepthReference) -> NextTokens:
        """Return next tokens as full depth reads them at exits, for slots without an early-exit pass."""
        if self.decoding.temperature == 0:
            return reference.next_tokens(exit_B)
        head, hidden_BXD = LMHead(self.decoders.full_depth, self.decoding), reference.hidden_UXD[reference.prefix_B]
        layers = [*self.decoding.exitable_layers, head.decoder.n_layers - 1]
        head_input_BF = head.head_input(hidden_BXD[:, -1], layers[-1])
        for rank, layer in enumerate(layers[:-1]):
            there = TokenSubset.from_flag(exit_B == rank)
            if there.has_tokens():
                there.put(head_input_BF, head.head_input(hidden_BXD[there.index, rank], layer))
        return head.next_tokens(head_input_BF, plan.u_token_N)

    def observe(self, slots: np.ndarray, observed: Tell) -> None:
        """Record what full depth predicts of texts that have ended, unless its pass ran beside them."""
        if self.decoding.n_observed and not self.full_depth:
            prompts = self.deferred.cache if self.decoders.is_shared else None
            observe(self.slots, LMHead(self.decoders.full_depth, self.decoding), prompts, slots, observed)

    def output(self, slot: int) -> Outcome:
        """Return what the request in a slot generated, or why it failed."""
        return self.slots.output(slot)

    # ---- requests come and go

    @torch.inference_mode()
    def admit(self, requests: Mapping[int, Request], limits: Mapping[int, int]) -> None:
        """Give these requests, by their numbers, slots, and the first token of each."""
        if self.slots.n_rows:
            self.deferred.settle(self.slots.plan(), self.slots.inputs(self.slots.end))
        self.deferred.blocks.clear()
        prompts = list(dict.fromkeys(request.prompt_token_ids for request in requests.values()))
        reference, caches = prefill(self.decoders, self.decoding, prompts, self.slots.end)
        for index, request in requests.items():
            self.slots.add(self._new_slot(request), index, request, limits[index])
        slots = np.flatnonzero(self.slots.n_tokens[: self.slots.n_rows] == 0)
        prompt_N = np.array([prompts.index(self.slots.prompt(slot)) for slot in slots.tolist()])
        early = slots < self.slots.n_early
        if early.any():
            source, target = to_device([prompt_N[early], slots[early]], self.device)
            self.deferred.cache.copy_rows(caches[self.decoders.early_exit], source, target)
        if self.full_depth:
            self.full_depth.begin(self.slots, caches[self.decoders.full_depth], slots, prompt_N)
        self._first_tokens(reference, slots, prompt_N)

    def _new_slot(self, request: Request) -> int:
        """Return a free slot; one with an early-exit pass is the first one behind those."""
        slot, mode = self.slots.n_rows, MODES.get(request.configuration.mode)
        if self.full_depth and self.decoders.is_shared and not (mode and mode.modifies_kv):
            return slot
        self.slots.move(self.slots.n_early, slot)
        self.slots.n_early += 1
        return self.slots.n_early - 1

    def _first_tokens(self, reference: FullDepthReference, slots: np.ndarray, prompt_N: np.ndarray) -> None:
        """Give new slots their first token, from the final layer of prefill: no exit is drawn for it."""
        decoder = self.decoders.full_depth
        [prompt, u_token_N] = to_device([prompt_N, self.slots.u_token[slots, 0]], self.device)
        reference = reference.of(prompt)
        if self.decoding.temperature > 0:
            head_input_NF = decoder.head_input(reference.hidden_UXD[prompt, -1])
            next_tokens = LMHead(decoder, self.decoding).next_tokens(head_input_NF, u_token_N)
        else:
            next_tokens = reference.next_tokens(torch.full_like(prompt, -1))
        columns = next_tokens.columns() | reference.columns(next_tokens.token_N, self.decoding.record_full_depth)
        self.slots.record(columns | {"exit_layer_T": torch.full_like(prompt, decoder.n_layers - 1)}, slots)

    @torch.inference_mode()
    def remove(self, slots: np.ndarray) -> None:
        """Free these slots, which are in descending order, and fill the gaps with requests from higher slots."""
        if not len(slots):
            return
        table, origin = self.slots, np.arange(self.slots.n_early)
        for slot in slots.tolist():
            if slot < table.n_early:
                table.n_early -= 1
                origin[slot] = origin[table.n_early]
                table.move(table.n_early, slot)
                slot = table.n_early
            table.move(table.n_rows - 1, slot)
            table.drop_last()
        origin = origin[: table.n_early]
        targets = np.flatnonzero(origin != np.arange(table.n_early))
        [kept, source, target] = to_device([origin, origin[targets], targets], self.device)
        if len(targets):
            self.deferred.cache.copy_rows(self.deferred.cache, source, target)
        self.deferred.keep(kept)

    # ---- what a step takes and gives

    def inputs(self) -> ForwardInputs:
        """Return the latest tokens, which no layer has run yet."""
        if n_columns := self.slots.shift():
            for cache in self.caches:
                cache.move_left(n_columns)
        return self.slots.inputs(self.slots.end + 1)

    def record(self, columns: Mapping[str, Tensor]) -> None:
        """Add a token to every slot, whose pass has filled one more column of the caches."""
        self.slots.end += 1
        self.slots.record(columns)
