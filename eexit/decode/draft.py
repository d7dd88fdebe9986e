"""Greedy self-speculative decoding: an early layer drafts tokens, and one pass of the other layers verifies them.

Lossless (LayerSkip, Elhoushi et al. 2024). A draft is a token that exits at the early layer, and whose skipped
layers are deferred; verification runs them. After a rejected
draft, a sequence moves to the right in the KV cache, so that all latest tokens are in one column.

Shapes: B slots in flight, A drafts of a round, N = A + 1 tokens of a sequence that are verified.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.batch import Batch
from eexit.decode.costs import DraftRounds
from eexit.decode.exit_visitor import ExitVisitor
from eexit.decode.groups import Decisions
from eexit.decode.requests import DecodingConfig, Outcome, PartialOutput, Request, RequestFailure
from eexit.decode.slots import to_device
from eexit.model.decoders import DecoderPair
from eexit.model.layers import ForwardInputs
from eexit.plan.configuration import Draft


class DraftBatch(Batch):
    """Requests of one `Draft`; `rounds` are their rounds by request, as `DraftRounds` has them."""

    def __init__(
        self, n_slots: int, length: int, decoders: DecoderPair, decoding: DecodingConfig, requests: Sequence[Request]
    ):
        [draft] = {request.configuration for request in requests}
        assert isinstance(draft, Draft)
        super().__init__(n_slots, length + draft.n_tokens, decoders, decoding, requests)
        self.draft = draft  # of all slots
        self.deferred.most_tokens = math.inf  # all tokens of a round are verified in one pass
        self.rounds: defaultdict[int, list[list[int]]] = defaultdict(list)

    @torch.inference_mode()
    def step(self) -> None:
        """Run one round: each slot gets one token or more."""
        slots, inputs, decoder = self.slots, self.inputs(), self.head.decoder
        room_B = (slots.limit - slots.n_tokens)[: slots.n_rows] - 1  # a round may yield one token more than it drafts
        n_drafts = min(self.draft.n_tokens, int(room_B.max()))
        slots.make_room_for(int(slots.n_tokens[: slots.n_rows].max()) + n_drafts + 1)
        tokens = [inputs.token_BT]
        # 1. Tokens are read after the early layer, one after the other; the layers behind it are deferred.
        with record_function("drafting"):
            for index in range(n_drafts):
                visitor = self._visitor(self.decoding.exitable_layers.index(self.draft.layer))
                final_B1F = self.deferred.run(visitor, self._inputs(tokens[-1], index))
                tokens.append(decoder.lm_head(visitor.head_inputs(final_B1F)).argmax(-1)[:, None])
        token_BN = torch.cat(tokens, 1)
        # 2. The last one goes through all layers, and the deferred ones come along: one pass at full depth.
        with record_function("verifying"):
            visitor = self._visitor(len(self.decoding.exitable_layers))
            head_input_BNF = self.deferred.run(visitor, self._inputs(tokens[-1], n_drafts))
            next_tokens = self.head.next_tokens(head_input_BNF.flatten(0, 1), token_BN.flatten())
            columns = {name: each.unflatten(0, token_BN.shape) for name, each in next_tokens.columns().items()}
        # 3. The drafts that it agrees with are accepted, and its own next token after them.
        with record_function("records"):
            self._accept(token_BN.cpu().numpy(), np.minimum(n_drafts, room_B), columns)

    def _visitor(self, rank: int) -> ExitVisitor:
        """Return the visitor of a pass in which all tokens exit at this index into X."""
        n_exits, plan = len(self.decoding.exitable_layers), self.slots.plan()
        decided = Decisions.exits_at(torch.full_like(plan.u_exit_N, rank, dtype=torch.long), n_exits)
        plan = replace(plan, can_all_exit=True, ranks=range(n_exits)[rank : rank + 1])
        visitor = ExitVisitor(self.head, plan, decided, (len(plan.u_exit_N), 1))
        visitor.deepest = rank
        return visitor

    def _inputs(self, token_B1: Tensor, index: int) -> ForwardInputs:
        """Return the tokens at an index of the round as inputs; those that a slot has no room for are not kept."""
        slots = self.slots
        [last_B1] = to_device([(slots.n_prompt + slots.limit - 1)[: slots.n_rows, None]], self.device)
        position_B1 = torch.minimum(slots.on_device.position_B1 + index, last_B1)
        return ForwardInputs(token_B1, position_B1, slots.seen(slots.end + 1 + index), slots.first_column)

    def _accept(self, token_BN: np.ndarray, ahead_B: np.ndarray, columns: dict[str, Tensor]) -> None:
        """Give each slot the drafts that full depth agrees with and its own next token, up to one that ends it."""
        table, predicted_BN = self.slots, columns["token_id_T"].cpu().numpy()
        index_A = np.arange(token_BN.shape[1] - 1)
        agrees_BA = (predicted_BN[:, :-1] == token_BN[:, 1:]) & (index_A < ahead_B[:, None])
        agreed_B = np.logical_and.accumulate(agrees_BA, 1).sum(1)
        is_end_BN = np.isin(predicted_BN, list(self.decoding.eos_token_ids))
        ends_BN = is_end_BN & (np.arange(predicted_BN.shape[1]) <= agreed_B[:, None])
        given_B = np.where(ends_BN.any(1), ends_BN.argmax(1), agreed_B) + 1
        if self.decoding.stop_fn:
            given_B = np.array([self._until_stop(row, predicted_BN[row, :n]) for row, n in enumerate(given_B)])
        rejects_B = (agreed_B < ahead_B) & (given_B > agreed_B)
        accepted_B = np.minimum(agreed_B, given_B)
        counts = table.n_tokens[: table.n_rows] - 1, ahead_B, accepted_B, rejects_B.astype(np.int64)
        for index, of_row in zip(table.request[: table.n_rows].tolist(), np.stack(counts, 1).tolist(), strict=True):
            self.rounds[index].append(of_row)
        most = int(given_B.max())
        for index in range(most):
            slots = np.flatnonzero(given_B > index)
            [slot, drafted] = to_device([slots, index < agreed_B[slots]], self.device)
            final_N = torch.full_like(slot, self.decoders.full_depth.n_layers - 1)
            of_all = {"exit_layer_T": final_N, "drafted_T": drafted}
            table.record(of_all | {name: column[slot, index] for name, column in columns.items()}, slots)
        # The tokens of the round that slots did not get are forgotten: all others end in one column again.
        table.end += most
        if (given_B < most).any():
            [n_columns] = to_device([most - given_B], self.device)
            self.deferred.cache.move_right(n_columns, table.end)

    def _until_stop(self, slot: int, token_id_N: np.ndarray) -> int:
        """Return how many of these tokens, said by full depth, a row gets if `DecodingConfig.stops` may end it."""
        assert self.decoding.stop_fn
        before, final = self.slots.so_far(slot), self.decoders.full_depth.n_layers - 1
        for n_given in range(1, len(token_id_N)):
            token_ids = [*before.token_ids, *token_id_N[:n_given].tolist()]
            if self.decoding.stop_fn(
                PartialOutput(before.request, token_ids, [*before.exit_layers, *[final] * n_given])
            ):
                return n_given
        return len(token_id_N)

    def output(self, slot: int) -> Outcome:
        outcome, index = super().output(slot), int(self.slots.request[slot])
        if isinstance(outcome, RequestFailure):
            return outcome
        rounds = DraftRounds.of(self.rounds.pop(index, []))
        return replace(outcome, rounds=rounds, counts=rounds.counts(self.draft.layer, self.slots.layer_X))
