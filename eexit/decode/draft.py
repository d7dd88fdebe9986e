"""Rows that draft: tokens are proposed by an early layer, and verified by one pass through the others.

Lossless (LayerSkip, Elhoushi et al. 2024; Leviathan et al. 2023). A draft is a token that exits at the early layer in
a state that is left as it was, and verifying is what all such tokens owe: the early layers are not run again. What is
not accepted is taken back by moving the row to the right, so that the latest tokens of all rows are in one column.

Shapes: B rows in flight, A drafts of a round, N = A + 1 tokens of a row that are verified, X exitable layers and the
final one last, V vocabulary.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.costs import Rounds
from eexit.decode.exit_pass import KnownExits
from eexit.decode.reading import read_tokens
from eexit.decode.requests import Decoders, Decoding, Failure, Outcome, Request, RowSoFar
from eexit.decode.rows import to_device
from eexit.decode.sampling import Drafted, pick_tokens
from eexit.decode.step import OnlineBatch
from eexit.decode.student import Leaving
from eexit.model.layers import Inputs
from eexit.plan.configuration import Draft


class DraftingBatch(OnlineBatch):
    """Rows of one `Draft`: `rounds` are what came of them, by request, as `Rounds` has them."""

    def __init__(self, n_slots: int, length: int, decoders: Decoders, decoding: Decoding, requests: Sequence[Request]):
        [draft] = {request.configuration for request in requests}
        assert isinstance(draft, Draft)
        super().__init__(n_slots, length + draft.n_tokens, decoders, decoding, requests)
        self.draft = draft  # of all rows
        self.student.most_tokens = math.inf  # all tokens of a round are verified in one pass
        self.rounds: defaultdict[int, list[list[int]]] = defaultdict(list)

    @torch.inference_mode()
    def step(self) -> None:
        """One round of every row: each gets one token or more."""
        rows, inputs, decoder = self.rows, self.inputs(), self.student.decoder
        room_B = (rows.limit - rows.n_tokens)[: rows.n_rows] - 1  # a round may yield one token more than it drafts
        n_drafts = min(self.draft.n_tokens, int(room_B.max()))
        rows.make_room_for(int(rows.n_tokens[: rows.n_rows].max()) + n_drafts + 1)
        tokens, logits = [inputs.token_BT], list[Tensor]()
        # 1. Tokens are read after the early layer, one after the other, and owe the layers behind it.
        with record_function("drafting"):
            for index in range(n_drafts):
                visit = self._visit(self.decoding.exitable_layers.index(self.draft.layer))
                self.student.run(visit, self._inputs(tokens[-1], index))
                assert visit.ready_DH is not None
                logits.append(decoder.head(visit.ready_DH))
                u_B = self._draws(rows.asked.u_token_BP, index)
                token_B = pick_tokens(logits[-1], self.decoding.temperature, self.decoding.top_p, u_B)
                tokens.append(token_B[:, None])
        token_BN = torch.cat(tokens, 1)
        # 2. The last one goes through all layers, and those that owe come along: one pass says what full depth says.
        with record_function("verifying"):
            visit = self._visit(len(self.decoding.exitable_layers))
            ready_BNH = self.student.run(visit, self._inputs(tokens[-1], n_drafts))
            said = self._said(ready_BNH, token_BN, np.minimum(n_drafts, room_B), logits)
        # 3. The drafts that it agrees with are kept, and its own next token after them.
        with record_function("records"):
            self._keep(token_BN.cpu().numpy(), np.minimum(n_drafts, room_B), said)

    def _visit(self, rank: int) -> KnownExits:
        """Return the visit of a pass in which all tokens exit at this index into X."""
        known_B1 = torch.full((self.rows.n_rows, 1), rank, device=self.device)
        leaving = Leaving.of(self.student, self.rows, self.rows.n_rows)
        visit = KnownExits(leaving, self.decoding, known_B1, [rank])
        visit.deepest = rank
        return visit

    def _inputs(self, token_B1: Tensor, index: int) -> Inputs:
        """Return the tokens at an index of the round as inputs; those that a row has no room for are not kept."""
        [last_B1] = to_device([(self.rows.n_prompt + self.rows.limit - 1)[: self.rows.n_rows, None]], self.device)
        position_B1 = torch.minimum(self.rows.asked.position_B1 + index, last_B1)
        seen_BC = self.rows.seen(self.rows.end + 1 + index)
        return Inputs(token_B1, position_B1, seen_BC, self.rows.first_column)

    def _draws(self, u_BP: Tensor, index: int) -> Tensor:
        """Return the uniform draws for the tokens that follow those at an index of the round, (B,)."""
        at_B1 = (self.rows.asked.n_tokens_B1 + index).clamp(max=u_BP.shape[1] - 1)
        return u_BP.gather(1, at_B1)[:, 0]

    def _said(
        self, ready_BNH: Tensor, token_BN: Tensor, ahead_B: np.ndarray, logits: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return what full depth says after each token of the round, as columns (B, N, …)."""
        shape, asked, decoder = token_BN.shape, self.rows.asked, self.student.decoder
        u_BN = torch.stack([self._draws(asked.u_token_BP, index) for index in range(shape[1])], 1)
        drafted = None
        if self.decoding.temperature > 0 and logits:
            is_draft_BA = np.arange(shape[1] - 1) < ahead_B[:, None]
            row_D, index_D = np.nonzero(is_draft_BA)
            row, index = to_device([row_D, index_D], self.device)
            u_BA = torch.stack([self._draws(asked.u_exit_BP, at) for at in range(shape[1] - 1)], 1)
            drafted = Drafted(
                row * shape[1] + index, token_BN[row, index + 1], torch.stack(logits, 1)[row, index], u_BA[row, index],
                self.decoding.temperature, self.decoding.top_p,
            )  # fmt: skip
        ready_DH, u_D = ready_BNH.flatten(0, 1), u_BN.flatten()
        picked = read_tokens(decoder, self.decoding, ready_DH, u_D, drafted=drafted)
        return {name: column.unflatten(0, shape) for name, column in picked.columns().items()}

    def _keep(self, token_BN: np.ndarray, ahead_B: np.ndarray, said: dict[str, Tensor]) -> None:
        """Give each row the drafts that full depth agrees with and its own next token, up to one that ends the row."""
        rows, said_BN = self.rows, said["token_id_T"].cpu().numpy()
        index_A = np.arange(token_BN.shape[1] - 1)
        agrees_BA = (said_BN[:, :-1] == token_BN[:, 1:]) & (index_A < ahead_B[:, None])
        agreed_B = np.logical_and.accumulate(agrees_BA, 1).sum(1)
        is_end_BN = np.isin(said_BN, list(self.decoding.eos_token_ids))
        ends_BN = is_end_BN & (np.arange(said_BN.shape[1]) <= agreed_B[:, None])
        given_B = np.where(ends_BN.any(1), ends_BN.argmax(1), agreed_B) + 1
        if self.decoding.stops:
            given_B = np.array([self._until_stop(row, said_BN[row, :n]) for row, n in enumerate(given_B)])
        rejects_B = (agreed_B < ahead_B) & (given_B > agreed_B)
        accepted_B = np.minimum(agreed_B, given_B)
        columns = rows.n_tokens[: rows.n_rows] - 1, ahead_B, accepted_B, rejects_B.astype(np.int64)
        for index, of_row in zip(rows.request[: rows.n_rows].tolist(), np.stack(columns, 1).tolist(), strict=True):
            self.rounds[index].append(of_row)
        most = int(given_B.max())
        for index in range(most):
            slots = np.flatnonzero(given_B > index)
            [slot, drafted] = to_device([slots, index < agreed_B[slots]], self.device)
            final_N = torch.full_like(slot, self.decoders.teacher.n_layers - 1)
            of_all = {"exit_layer_T": final_N, "drafted_T": drafted}
            rows.record(of_all | {name: column[slot, index] for name, column in said.items()}, slots)
        # The tokens of the round that rows did not get are forgotten: all others end in one column again.
        rows.end += most
        if (given_B < most).any():
            [n_columns] = to_device([most - given_B], self.device)
            self.student.cache.move_right(n_columns, rows.end)

    def _until_stop(self, slot: int, token_id_N: np.ndarray) -> int:
        """Return how many of these tokens, said by full depth, a row gets if `Decoding.stops` may end it."""
        assert self.decoding.stops
        before, final = self.rows.so_far(slot), self.decoders.teacher.n_layers - 1
        for n_given in range(1, len(token_id_N)):
            token_ids = [*before.token_ids, *token_id_N[:n_given].tolist()]
            if self.decoding.stops(RowSoFar(before.request, token_ids, [*before.exit_layers, *[final] * n_given])):
                return n_given
        return len(token_id_N)

    def outcome(self, slot: int) -> Outcome:
        outcome, index = super().outcome(slot), int(self.rows.request[slot])
        if isinstance(outcome, Failure):
            return outcome
        rounds = Rounds.of(self.rounds.pop(index, []))
        return replace(outcome, rounds=rounds, counts=rounds.counts(self.draft.layer, self.rows.layer_X))
