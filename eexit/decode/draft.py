"""Greedy self-speculative decoding: an early layer drafts tokens, and one pass of the other layers verifies them.

Drafts are lossless (LayerSkip, Elhoushi et al. 2024). A draft is a token that exits at the early layer; verification
runs its deferred layers. After a rejected draft, a sequence moves to the right in the KV cache, so that all latest
tokens stay in one column.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.costs.operations import DraftRounds
from eexit.decode.batch import Batch
from eexit.decode.exit_visitor import ExitVisitor
from eexit.decode.requests import DecodingConfig, Outcome, PartialOutput, Request, RequestFailure
from eexit.decode.slots import Slot
from eexit.model.decoders import DecoderPair
from eexit.model.devices import to_device
from eexit.model.layers import ForwardInputs
from eexit.plan.configuration import Draft


class DraftBatch(Batch):
    """Requests of one `Draft`, with the counts of their rounds by request, as in `DraftRounds`."""

    def __init__(
        self, n_slots: int, length: int, decoders: DecoderPair, decoding: DecodingConfig, requests: Sequence[Request]
    ):
        [draft] = {request.configuration for request in requests}
        assert isinstance(draft, Draft)
        super().__init__(n_slots, length + draft.n_tokens, decoders, decoding, requests)
        self.draft, self.rank = draft, decoding.exitable_layers.index(draft.layer)
        self.deferred.most_tokens = math.inf  # all tokens of a round are verified in one pass
        self.rounds: defaultdict[int, list[list[int]]] = defaultdict(list)

    @torch.inference_mode()
    def step(self) -> int:
        """Run one round, in which each slot gets at least one token; return the number of new tokens."""
        token_B1 = self.inputs().token_BT
        n_drafts = min(self.draft.n_tokens, max(_room(slot) for slot in self.slots.in_flight))
        tokens = [token_B1]
        # 1. The early layer drafts one token after the other; the layers behind it are deferred.
        with record_function("drafting"):
            for index in range(n_drafts):
                visitor = self._visitor(self.rank)
                final_B1F = self.deferred.run(visitor, self._inputs(tokens[-1], index))
                tokens.append(self.head.decoder.lm_head(visitor.head_inputs(final_B1F)).argmax(-1)[:, None])
        token_BT = torch.cat(tokens, 1)
        # 2. The last draft goes through all layers, and the deferred tokens join: one pass at full depth.
        with record_function("verifying"):
            visitor = self._visitor(len(self.decoding.exitable_layers))
            head_input_BTF = self.deferred.run(visitor, self._inputs(tokens[-1], n_drafts))
            next_tokens = self.head.read_next_tokens(head_input_BTF.flatten(0, 1), token_BT.flatten())
            columns = {name: part.unflatten(0, token_BT.shape) for name, part in next_tokens.columns().items()}
        # 3. Drafts that equal full depth's next tokens are accepted, and its own next token follows.
        with record_function("records"):
            return self._accept(token_BT[:, 1:].tolist(), columns)

    def _visitor(self, rank: int) -> ExitVisitor:
        """Return the visitor of a pass in which all tokens exit at this index into X."""
        plan, ranks = self.slots.plan(), range(len(self.decoding.exitable_layers))[rank : rank + 1]
        plan = plan.with_exits(torch.full_like(self.slots.record_B, rank), can_all_exit=True, ranks=ranks)
        visitor = ExitVisitor(self.head, plan, (len(self.slots), 1))
        visitor.deepest = rank
        return visitor

    def _inputs(self, token_B1: Tensor, index: int) -> ForwardInputs:
        """Return `token_B1`, token `index` of each slot's round, as inputs; tokens beyond a limit will be rejected."""
        inputs = self.slots.inputs(self.slots.end + 1 + index)
        last_B1 = np.array([[len(slot.prompt) + slot.limit - 1] for slot in self.slots.in_flight])
        position_B1 = torch.minimum(inputs.position_BT + index, *to_device([last_B1], self.slots.device))
        return replace(inputs, token_BT=token_B1, position_BT=position_B1)

    def _accept(self, draft_BA: list[list[int]], columns: dict[str, Tensor]) -> int:
        """Accept drafts that equal full depth's next tokens, then its own, until a text ends; return their number."""
        table, n_given_B, n_agreed_B = self.slots, list[int](), list[int]()
        for slot, drafts, predicted in zip(table.in_flight, draft_BA, columns["token_id_T"].tolist(), strict=True):
            n_drafted = min(len(drafts), _room(slot))
            n_agreed = next((at for at in range(n_drafted) if drafts[at] != predicted[at]), n_drafted)
            n_given = next((n for n in range(1, n_agreed + 1) if self._ends(slot, predicted[:n])), n_agreed + 1)
            is_rejected = n_agreed < min(n_drafted, n_given)
            self.rounds[slot.index].append([slot.n_tokens - 1, n_drafted, min(n_agreed, n_given), int(is_rejected)])
            n_given_B.append(n_given)
            n_agreed_B.append(n_agreed)
        n_given_N, most = np.array(n_given_B), max(n_given_B)
        for index in range(most):
            slots = np.flatnonzero(n_given_N > index)
            slot_N, drafted_N = to_device([slots, index < np.array(n_agreed_B)[slots]], self.slots.device)
            exit_layer_N = torch.full_like(slot_N, table.layers[-1])
            given = {name: column[slot_N, index] for name, column in columns.items()}
            table.record(given | {"exit_layer_T": exit_layer_N, "drafted_T": drafted_N}, slots.tolist())
        # Columns of rejected drafts are overwritten: all sequences end in one column again.
        table.end += most
        if (n_given_N < most).any():
            [n_columns_B] = to_device([most - n_given_N], self.slots.device)
            self.deferred.cache.move_right(n_columns_B, table.end)
        return sum(n_given_B)

    def _ends(self, slot: Slot, token_ids: list[int]) -> bool:
        """Return True if these full-depth tokens, as the next tokens, end a request."""
        if token_ids[-1] in self.decoding.eos_token_ids:
            return True
        output, final = slot.output, int(self.slots.layers[-1])
        exit_layers = [*output.exit_layers, *[final] * len(token_ids)]
        after = PartialOutput(output.request, [*output.token_ids, *token_ids], exit_layers)
        return self.decoding.stop_fn is not None and self.decoding.stop_fn(after)

    def output(self, at: int) -> Outcome:
        outcome, slot = super().output(at), self.slots.in_flight[at]
        rounds = DraftRounds(*np.array(self.rounds.pop(slot.index, []), np.int64).reshape(-1, 4).T)
        if isinstance(outcome, RequestFailure):
            return outcome
        return replace(outcome, rounds=rounds, counts=rounds.counts(self.draft.layer, self.slots.layers))


def _room(slot: Slot) -> int:
    """Return the maximum number of drafts for a slot's next round, which may yield one token more than it drafts."""
    return slot.limit - slot.n_tokens - 1
