"""The loop of mode `draft`: tokens are read ahead after an early layer, and verified by one pass of the others.

Lossless (LayerSkip, Elhoushi et al. 2024; Leviathan et al. 2023). A draft's early layers are not run again to verify
it: a draft is a token that exits there in a state that is left as it was, and verifying is what all such tokens wait
for. What is not accepted is taken back by going on from before it, since no token attends to positions behind its own,
and all are written anew.

Shapes: B rows in flight, N tokens in a pass, A the most tokens that any row drafts, X exitable layers and the final one
last, E without it, W width of the residual stream, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.costs.draft_rounds import Rounds, SerialCosts
from eexit.decode.layer_reading import Picked, Reader, read_tokens, rows_after
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding, Failure, Outcome, Request, RowSoFar
from eexit.decode.rows.transfer import to_device, to_host
from eexit.decode.sampling import Drafted, pick_tokens
from eexit.decode.steps.online import OnlineBatch
from eexit.decode.token_pass import Tokens, run_to
from eexit.model.decoder import Decoder
from eexit.plan.configuration import Draft


class DraftBatch(OnlineBatch):
    """Slots for rows that draft, with one cache, and what came of each row's rounds."""

    observes_running = False

    def __init__(self, n_slots: int, length: int, decoders: Decoders, decoding: Decoding, requests: Sequence[Request]):
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        super().__init__(n_slots, length, decoders, decoding, requests)
        self.counts.clear()  # they follow from the rounds
        self.rank = np.zeros(n_slots, np.int64)  # of the early layer among X
        self.rounds: dict[int, list[tuple[int, int, int, int]]] = {}  # by request: see `Rounds`

    @classmethod
    def row_bytes(cls, decoder: Decoder, decoding: Decoding, length: int, requests: Sequence[Request]) -> int:
        """The bytes of a row and, if tokens are sampled, of the logits of all drafts of a round."""
        most = max(draft_of(request).most for request in requests) if decoding.temperature > 0 else 0
        kept = decoder.vocabulary * decoder.dtype.itemsize * most
        return super().row_bytes(decoder, decoding, length, requests) + kept

    @staticmethod
    def exiting(requests: Sequence[Request]) -> list[str]:
        """The modes of these requests: all drafts wait to be verified."""
        return sorted({request.configuration.mode for request in requests})

    def add(self, index: int, request: Request, limit: int) -> int:
        slot = super().add(index, request, limit)
        self.rank[slot] = self.decoding.exitable_layers.index(draft_of(request).layer)
        self.rounds[index] = []
        return slot

    def ahead(self, costs: SerialCosts | None) -> np.ndarray:
        """How many tokens each row drafts now, (B,): a round may yield one more, which its limit leaves room for.

        Rows that draft as many as suit need the `costs`.
        """
        wanted = [self._wanted(int(index), costs) for index in self.request[: self.n_rows]]
        ahead_B: np.ndarray = np.minimum(wanted, self.limit[: self.n_rows] - self.n_generated[: self.n_rows] - 1)
        return ahead_B

    def _wanted(self, index: int, costs: SerialCosts | None) -> int:
        draft = draft_of(self.requests[index])
        if draft.n_tokens is not None:
            return draft.n_tokens
        assert costs
        accepted, rejected = (sum(one_round[column] for one_round in self.rounds[index]) for column in (2, 3))
        return costs.best_length(draft.layer, accepted, accepted + rejected)

    def note(self, row: int, n_drafted: int, n_accepted: int, rejected: bool) -> None:
        """Keep what came of a round; the row has not been given its tokens yet."""
        input_index = int(self.n_generated[row]) - 1
        self.rounds[int(self.request[row])].append((input_index, n_drafted, n_accepted, int(rejected)))

    def until_stop(self, slot: int, token_id_N: np.ndarray) -> int:
        """How many of these tokens, which full depth said, a row gets if it ends where `Decoding.stops` says so."""
        assert self.decoding.stops
        before, final = self.so_far(slot), self.layers.n_layers - 1
        for n_given in range(1, len(token_id_N)):
            token_ids = [*before.token_ids, *token_id_N[:n_given].tolist()]
            if self.decoding.stops(RowSoFar(before.request, token_ids, [*before.exit_layers, *[final] * n_given])):
                return n_given
        return len(token_id_N)

    def outcome(self, slot: int) -> Outcome:
        outcome = super().outcome(slot)
        if isinstance(outcome, Failure):
            return outcome
        index = int(self.request[slot])
        rounds = Rounds(*np.array(self.rounds.pop(index), np.int64).reshape(-1, 4).T)
        counts = rounds.counts(draft_of(self.requests[index]).layer, self.layers.exits)
        return replace(outcome, rounds=rounds, counts=counts)

    def _of_rows(self) -> list[np.ndarray]:
        return [*super()._of_rows(), self.rank]


def draft_of(request: Request) -> Draft:
    """What a row of this loop drafts."""
    assert isinstance(request.configuration, Draft)
    return request.configuration


@dataclass(frozen=True)
class DraftedTokens:
    """The tokens of a round: the last one of each row, and then its drafts."""

    ahead_B: np.ndarray  # how many of them are drafts
    token_BA: np.ndarray  # (B, A + 1)
    logits: Sequence[Tensor]  # that drafts were sampled from, (·, V) per step; empty if greedy

    @property
    def row_index_N(self) -> tuple[np.ndarray, np.ndarray]:
        """The row of each token, and its index in it, which is 0 for those that were there before the round."""
        row_N, index_N = np.nonzero(np.arange(self.token_BA.shape[1]) <= self.ahead_B[:, None])
        return row_N, index_N


@torch.inference_mode()
def draft_step(decoders: Decoders, decoding: Decoding, batch: DraftBatch, costs: SerialCosts | None = None) -> None:
    """One round of every row: each gets one token or more. Rows that draft as many as suit need the `costs`."""
    ahead_B = batch.ahead(costs)
    batch.make_room_for(int((batch.n_generated[: batch.n_rows] + ahead_B).max()) + 1)
    with decoders.student.attending():
        # 1. Up to A tokens are read one after the other, after each row's early layer: they exit there, and wait.
        with record_function("drafting"):
            drafts = draft(decoding, batch, ahead_B)
        # 2. The last one of each row goes through all layers, and those that wait come along: one pass says what full
        #    depth would have said.
        with record_function("verifying"):
            picked = verify(decoding, batch, drafts)
    # 3. The drafts that it agrees with are kept, and its own next token after them.
    with record_function("records"):
        found = to_host({"token": picked.token_B, **picked.columns()})
        said_BA = np.zeros_like(drafts.token_BA)
        said_BA[drafts.row_index_N] = found.pop("token")
        keep(batch, drafts, said_BA, found)


def draft(decoding: Decoding, batch: DraftBatch, ahead_B: np.ndarray) -> DraftedTokens:
    """Read tokens ahead, one after the other."""
    decoder, kept = batch.student.decoder, []
    reader = Reader(decoder, decoding.readout)
    input_index_B, rank_B = batch.n_generated[: batch.n_rows] - 1, batch.rank[: batch.n_rows]
    token_BA = np.zeros((batch.n_rows, int(ahead_B.max()) + 1), np.int64)
    token_BA[:, 0] = batch.last_token()
    for index in range(token_BA.shape[1] - 1):
        rows = np.flatnonzero(ahead_B > index)
        tokens = Tokens(rows, input_index_B[rows] + index, token_BA[rows, index])
        hidden_NW = run_to(batch.student, tokens, rank_B[rows])
        [u_N] = to_device([batch.u_token[rows, input_index_B[rows] + 1 + index]], decoder.device)
        logits_NV = decoder.head(
            reader.ready_each(hidden_NW, rows_after(batch.layers.exits[rank_B[rows]], decoder.device))
        )
        token_BA[rows, index + 1] = pick_tokens(logits_NV, decoding.temperature, decoding.top_p, u_N).cpu().numpy()
        if decoding.temperature > 0:
            kept.append(logits_NV)
    return DraftedTokens(ahead_B, token_BA, kept)


def verify(decoding: Decoding, batch: DraftBatch, drafts: DraftedTokens) -> Picked:
    """What full depth says after each token of the round."""
    student, rows = batch.student, np.arange(batch.n_rows)
    decoder, waiting, final = student.decoder, student.waiting, len(decoding.exitable_layers)
    last_index_B = batch.n_generated[rows] - 1 + drafts.ahead_B
    last = Tokens(rows, last_index_B, drafts.token_BA[rows, drafts.ahead_B])
    waiting.hidden_SPW[waiting.at(rows, last_index_B)] = run_to(student, last, np.full(len(rows), final))
    row_N, index_N = drafts.row_index_N
    output_index_N = batch.n_generated[row_N] + index_N  # of the tokens that follow
    hidden_NW = waiting.hidden_SPW[waiting.at(row_N, output_index_N - 1)]
    [u_N] = to_device([batch.u_token[row_N, output_index_N]], decoder.device)
    drafted = sampled(decoding, drafts, batch.u_exit[row_N, output_index_N], decoder.device) if drafts.logits else None
    rows_N = rows_after(np.full(len(row_N), decoder.n_layers - 1), decoder.device)
    return read_tokens(decoder, decoding, hidden_NW, rows_N, u_N, drafted=drafted)


def sampled(decoding: Decoding, drafts: DraftedTokens, u_accept_N: np.ndarray, device: torch.device) -> Drafted:
    """The drafts of a round as tokens that full depth may accept."""
    row_N, index_N = drafts.row_index_N
    order = np.lexsort((row_N, index_N))  # the order in which drafts were made
    has_draft = order[index_N[order] < drafts.ahead_B[row_N[order]]]
    made = np.sort(has_draft)
    token = drafts.token_BA[row_N[made], index_N[made] + 1]
    [made_D, token_D, logits_D, u_D] = to_device([made, token, np.argsort(has_draft), u_accept_N[made]], device)
    return Drafted(made_D, token_D, torch.cat(list(drafts.logits))[logits_D], u_D, decoding.temperature, decoding.top_p)


def keep(batch: DraftBatch, drafts: DraftedTokens, said_BA: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """Give each row the drafts that full depth agrees with and its own next token, up to one that ends the row."""
    token_BA, ahead_B = drafts.token_BA, drafts.ahead_B
    index_A = np.arange(token_BA.shape[1] - 1)
    agrees_BA = (said_BA[:, :-1] == token_BA[:, 1:]) & (index_A < ahead_B[:, None])
    agreed_B = np.logical_and.accumulate(agrees_BA, 1).sum(1)
    ends_BA = np.isin(said_BA, list(batch.decoding.eos_token_ids)) & (np.arange(said_BA.shape[1]) <= agreed_B[:, None])
    given_B = np.where(ends_BA.any(1), ends_BA.argmax(1), agreed_B) + 1
    if batch.decoding.stops:
        given_B = np.array([batch.until_stop(row, said_BA[row, :n]) for row, n in enumerate(given_B)])
    for row in range(batch.n_rows):
        batch.note(
            row, int(ahead_B[row]), min(int(agreed_B[row]), int(given_B[row])),
            agreed_B[row] < ahead_B[row] and given_B[row] > agreed_B[row],
        )  # fmt: skip
    at_BA = np.zeros_like(said_BA)
    at_BA[drafts.row_index_N] = np.arange(int((ahead_B + 1).sum()))
    final = len(batch.decoding.exitable_layers)
    for index in range(int(given_B.max())):
        slots = np.flatnonzero(given_B > index)
        prob_BX = np.zeros((len(slots), final + 1), np.float32)
        prob_BX[:, final] = 1
        columns = {
            "token_id_T": said_BA[slots, index],
            "exit_layer_T": np.full(len(slots), batch.layers.n_layers - 1),
            "exit_prob_TX": prob_BX,
            "evidence_TE": np.full((len(slots), final), np.nan, np.float32),
            "drafted_T": index < agreed_B[slots],
        }
        batch.record(slots, columns | {name: values[at_BA[slots, index]] for name, values in found.items()})
