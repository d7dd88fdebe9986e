"""A batch of requests in flight: their early-exit and full-depth passes, and a step of all."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.profiler import record_function

from eexit.cpu.token_subset import TokenSubset
from eexit.decode.deferred import DeferredTokens
from eexit.decode.exit_visitor import ExitVisitor
from eexit.decode.full_depth import SharedPrefixes, prefill, record_predictions
from eexit.decode.predictors import LMHead
from eexit.decode.requests import DecodingConfig, Outcome, Request
from eexit.decode.score import exit_in_prompt
from eexit.decode.slots import MISSED, SlotTable, undecided
from eexit.method.modes import MODES
from eexit.model.decoders import DecoderPair
from eexit.model.devices import to_device
from eexit.model.layers import ForwardInputs

OnTokens = Callable[[int], None]  # called with a number of tokens


class Batch:
    """Requests in flight; for requests of oracles, a full-depth pass runs beside the early-exit pass.

    There, a slot whose mode keeps the full-depth KV cache needs no early-exit pass, unless an adapter changes weights.
    """

    def __init__(
        self, n_slots: int, length: int, decoders: DecoderPair, decoding: DecodingConfig, requests: Sequence[Request],
        has_oracles: bool = False,
    ):  # fmt: skip
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        self.decoders, self.decoding, self.n_slots = decoders, decoding, n_slots
        self.slots = SlotTable(n_slots, decoding, requests, decoders.full_depth)
        self.head = LMHead(decoders.early_exit, decoding)
        self.full_depth_head = LMHead(decoders.full_depth, decoding)
        self.deferred = DeferredTokens(self.head, decoders.early_exit.cache(n_slots, length))
        self.full_depth = SharedPrefixes(self.full_depth_head, n_slots, length) if has_oracles else None

    @torch.inference_mode()
    def step(self) -> int:
        """Give every slot its next token; return the number of new tokens."""
        # 1. If there are oracles, the latest tokens go to full depth, where each exitable layer is read.
        inputs, plan, n_early = self.inputs(), self.slots.plan(), self.slots.n_early
        reference = self.full_depth.read(self.slots) if self.full_depth else None
        # 2. Exits that follow from the full-depth reference, or from nothing, are decided.
        plan.decide(reference)
        # 3. In the early-exit pass, online rules decide the other exits, and skipped layers follow the modes. Next
        #    tokens are read at exits: for slots without this pass, in the full-depth reference.
        if reference is None:
            visitor = self._run(ExitVisitor(self.head, plan, (n_early, 1)), inputs)
            exit_B, next_tokens, prob_BX = visitor.exit_N, visitor.next_tokens, visitor.probabilities()
            columns = {MISSED: visitor.misses()} if self.decoding.screen else {}
        else:
            exit_B, prob_BX = plan.draw(), plan.probabilities()
            next_tokens = self.full_depth_head.read_exits(reference, exit_B, plan.u_token_N)
            if n_early:
                visitor = ExitVisitor(self.head, plan.with_exits(exit_B[:n_early]), (n_early, 1))
                early = slice(n_early)
                next_tokens.fill(TokenSubset(early), self._run(visitor, inputs.select(early)).next_tokens)
            columns = reference.columns(next_tokens.token_N, self.decoding.record_full_depth)
        # 4. Everything is recorded.
        with record_function("records"):
            columns |= {"exit_prob_TX": prob_BX, "exit_score_TE": plan.score_NE, "exit_layer_T": plan.layer_X[exit_B]}
            self.slots.record(columns | next_tokens.columns())
        return len(self.slots)

    def _run(self, visitor: ExitVisitor, inputs: ForwardInputs) -> ExitVisitor:
        """Run the early-exit pass, and read the next tokens."""
        with record_function("early exit"):
            visitor.finish(self.deferred.run(visitor, inputs))
        return visitor

    def inputs(self) -> ForwardInputs:
        """Return the latest tokens, which no layer has run yet."""
        if n_columns := self.slots.shift():
            self.deferred.cache.move_left(n_columns)
            if self.full_depth:
                self.full_depth.cache.move_left(n_columns)
        return self.slots.inputs(self.slots.end + 1)

    def record_predictions(self, ended: Sequence[int], on_tokens: OnTokens) -> None:
        """Record full-depth predictions for the texts of slots `ended`, unless a full-depth pass ran with them."""
        if self.decoding.n_observed and not self.full_depth:
            prompts = self.deferred.cache if self.decoders.is_shared else None
            for has_exits, cache in ((False, prompts), (True, None)):
                slots = [at for at in ended if bool(self.slots.in_flight[at].prompt_exits) == has_exits]
                record_predictions(self.slots, slots, self.full_depth_head, cache, on_tokens)

    def output(self, at: int) -> Outcome:
        """Return the output of the request in a slot, or the reason of its failure."""
        return self.slots.outcome(self.slots.in_flight[at])

    # ---- requests come and go

    @torch.inference_mode()
    def admit(self, requests: Mapping[int, Request]) -> None:
        """Give these requests (number → request) slots and, without prompt exits, their first tokens."""
        slots = self.slots
        if len(slots):
            self.deferred.run_all(slots.plan(), slots.inputs(slots.end))
        self.deferred.blocks.clear()
        prompts = list(dict.fromkeys(request.prefilled for request in requests.values()))
        reading, caches = prefill(self.decoders, self.decoding, prompts, slots.end)
        for index, request in requests.items():
            mode = MODES.get(request.configuration.mode)
            follows_reference = self.full_depth and self.decoders.is_shared and not (mode and mode.modifies_kv)
            slots.add(index, request, not follows_reference)
        new = np.array([at for at, slot in enumerate(slots.in_flight) if slot.index in requests])
        prompt_N = np.array([prompts.index(requests[slots.in_flight[at].index].prefilled) for at in new])
        is_early_N = new < slots.n_early
        if is_early_N.any():
            source, target = to_device([prompt_N[is_early_N], new[is_early_N]], self.slots.device)
            self.deferred.cache.copy_rows(caches[self.decoders.early_exit], source, target)
        if self.full_depth:
            self.full_depth.admit(caches[self.decoders.full_depth], prompt_N, slots.in_flight, new)
        # With prompt exits, the prompt is run anew, and the next step runs its last token. Otherwise the first token
        # comes from the final layer: no exit is drawn for it.
        at_prompt_N = np.array([self._exit_in_prompt(at) for at in new.tolist()])
        new, prompt_N = new[~at_prompt_N], prompt_N[~at_prompt_N]
        if not len(new):
            return
        u_token_N = np.array([slots.in_flight[at].u_token_T[0] for at in new])
        prompt, u_token = to_device([prompt_N, u_token_N], self.slots.device)
        reading = reading.expand(prompt)
        next_tokens = self.full_depth_head.read_exits(reading, torch.full_like(prompt, -1), u_token)
        columns = reading.columns(next_tokens.token_N, self.decoding.record_full_depth) | next_tokens.columns()
        slots.record(columns | undecided(self.full_depth_head.layers, prompt), new.tolist())

    def _exit_in_prompt(self, at: int) -> bool:
        """Run the prompt of slot `at` with exits, if its configuration has prompt exits; return True if so."""
        slot = self.slots.in_flight[at]
        if not slot.output.request.configuration.prompt_exits:
            return False
        slot.prompt_exits, cache = exit_in_prompt(self.decoders, self.decoding, slot.output.request, self.slots.end)
        if at < self.slots.n_early:
            source, target = to_device([np.array([0]), np.array([at])], self.slots.device)
            self.deferred.cache.copy_rows(cache, source, target)
        return True

    @torch.inference_mode()
    def remove(self, ended: Sequence[int]) -> None:
        """Free these slots, which are in descending order, and move others up to fill the gaps."""
        if not ended:
            return
        before = {slot.record: at for at, slot in enumerate(self.slots.in_flight)}
        for at in ended:
            self.slots.remove(at)
        origin_B = np.array([before[slot.record] for slot in self.slots.in_flight[: self.slots.n_early]], np.int64)
        target_N = np.flatnonzero(origin_B != np.arange(len(origin_B)))
        origin, source, target = to_device([origin_B, origin_B[target_N], target_N], self.slots.device)
        if len(target_N):
            self.deferred.cache.copy_rows(self.deferred.cache, source, target)
        self.deferred.select(origin)
