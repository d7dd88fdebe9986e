"""The loop of mode `draft`: tokens are read ahead after an early layer, and verified by one pass of the others.

Lossless (LayerSkip, Elhoushi et al. 2024; Leviathan et al. 2023). A draft's early layers are not run again to verify
it: their keys and values stay, and so do the residual streams that they gave. What is not accepted is taken back by
going on from before it, since no token attends to positions behind its own, and all are written anew.

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
from eexit.decode.exit_pass import padded_for
from eexit.decode.layer_reading import Picked, prepare_for_head, read_tokens
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding, Failure, Outcome, Request
from eexit.decode.rows.transfer import to_device, to_host
from eexit.decode.sampling import Drafted, pick_tokens
from eexit.decode.steps.online import OnlineBatch
from eexit.model.decoder import Decoder
from eexit.model.views import TokensView
from eexit.plan.drafts import Draft


class DraftBatch(OnlineBatch):
    """Slots for rows that draft, with one cache, and what came of each row's rounds."""

    defers = False

    def __init__(self, n_slots: int, length: int, decoders: Decoders, decoding: Decoding, requests: Sequence[Request]):
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        super().__init__(n_slots, length, decoders, decoding, requests)
        self.counts = {}  # they follow from the rounds
        self.rank = np.zeros(n_slots, np.int64)  # of the early layer among X
        self.rounds: dict[int, list[tuple[int, int, int, int]]] = {}  # by request: see `drafts.Rounds`

    @staticmethod
    def row_bytes(decoder: Decoder, decoding: Decoding, length: int, requests: Sequence[Request]) -> int:
        """Bytes of a row in flight: keys and values, and logits, which are kept of all drafts if they are sampled."""
        most = max(draft_of(request).most for request in requests)
        logits = decoder.vocabulary * decoder.dtype.itemsize * (1 + (most if decoding.temperature > 0 else 0))
        return decoder.cache_bytes_per_token * length + logits + (most + 1) * decoder.width * decoder.dtype.itemsize

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
    assert request.configuration.draft
    return request.configuration.draft


@dataclass(frozen=True)
class Ahead:
    """The tokens of a round, the last one of each row and then its drafts, and their streams after the early layer."""

    token_BA: Tensor  # (B, A + 1)
    stream_BAW: Tensor
    logits: Sequence[Tensor]  # that drafts were sampled from, (·, V) per step; empty if greedy


@torch.inference_mode()
def draft_step(decoders: Decoders, decoding: Decoding, batch: DraftBatch, costs: SerialCosts | None = None) -> None:
    """One round of every row: each gets one token or more. Rows that draft as many as suit need the `costs`."""
    decoder, ahead_B = decoders.student, batch.ahead(costs)
    batch.make_room_for(int((batch.n_generated[: batch.n_rows] + ahead_B).max()) + 1)
    with decoder.attending():
        # 1. Up to A tokens are read one after the other, after each row's early layer.
        with record_function("drafting"):
            drafts = draft(decoder, decoding, batch, ahead_B)
        # 2. One pass of the layers that are left, over all tokens of the round, says what full depth would have said.
        with record_function("verifying"):
            row_N, index_N = np.nonzero(np.arange(ahead_B.max() + 1) <= ahead_B[:, None])
            picked = verify(decoder, decoding, batch, drafts, ahead_B, row_N, index_N)
    # 3. The drafts that it agrees with are kept, and its own next token after them.
    with record_function("records"):
        found = to_host({"token": picked.token_B, **picked.columns()})
        said_BA = np.zeros((batch.n_rows, ahead_B.max() + 1), np.int64)
        said_BA[row_N, index_N] = found.pop("token")
        keep(batch, drafts.token_BA.cpu().numpy(), said_BA, ahead_B, found, row_N, index_N)


def draft(decoder: Decoder, decoding: Decoding, batch: DraftBatch, ahead_B: np.ndarray) -> Ahead:
    """Read tokens ahead; the last one of each row goes through the early layers too, since it is to be verified on."""
    n_rows, most = batch.n_rows, int(ahead_B.max())
    rank_B, position_B, n_generated_B = batch.rank[:n_rows], batch.position(), batch.n_generated[:n_rows]
    [token_B] = to_device([batch.last_token().astype(np.int64)], decoder.device)
    token_BA = token_B.new_zeros(n_rows, most + 1)
    token_BA[:, 0] = token_B
    stream_BAW = torch.zeros(n_rows, most + 1, decoder.width, dtype=decoder.dtype, device=decoder.device)
    kept = []
    for index in range(most + 1):
        rows = np.flatnonzero(ahead_B >= index)
        [row] = to_device([rows], decoder.device)
        token_N, position_N, rank_N = token_BA[row, index], position_B[rows] + index, rank_B[rows]
        hidden_NW = run_layers(decoder, batch, rows, position_N, token_N, None, np.zeros_like(rows), rank_N)
        stream_BAW[row, index] = hidden_NW
        reading = np.flatnonzero(ahead_B[rows] > index)
        if not len(reading):
            continue
        of_rank = [np.flatnonzero(rank_N[reading] == rank) for rank in range(len(decoding.exitable_layers))]
        u = batch.u_token[rows[reading], n_generated_B[rows[reading]] + index]
        [at, to, u_B, *of_rank_E] = to_device([reading, rows[reading], u, *of_rank], decoder.device)
        ready_BH = prepare_for_head(decoder, hidden_NW[at], [*of_rank_E, at[:0]], decoding)
        logits_BV = decoder.head(ready_BH)
        token_BA[to, index + 1] = pick_tokens(logits_BV, decoding.temperature, decoding.top_p, u_B)
        if decoding.temperature > 0:
            kept.append(logits_BV)
    return Ahead(token_BA, stream_BAW, kept)


def verify(
    decoder: Decoder, decoding: Decoding, batch: DraftBatch, drafts: Ahead, ahead_B: np.ndarray, row_N: np.ndarray,
    index_N: np.ndarray,
) -> Picked:  # fmt: skip
    """What full depth says after each token of the round; `index_N` is 0 for those that were there before it."""
    rank_N, position_N = batch.rank[row_N], batch.position()[row_N] + index_N
    output_index_N = batch.n_generated[row_N] + index_N  # of the tokens that follow
    [row, index, u_B] = to_device([row_N, index_N, batch.u_token[row_N, output_index_N]], decoder.device)
    hidden_NW = run_layers(
        decoder, batch, row_N, position_N, drafts.token_BA[row, index], drafts.stream_BAW[row, index], rank_N + 1,
        np.full_like(rank_N, len(decoding.exitable_layers)),
    )  # fmt: skip
    drafted = None
    if drafts.logits:
        order = np.lexsort((row_N, index_N))  # the order in which drafts were made
        has_draft = order[index_N[order] < ahead_B[row_N[order]]]
        made, u = np.sort(has_draft), batch.u_exit[row_N, output_index_N]
        [made_D, logits_D, u_D] = to_device([made, np.argsort(has_draft), u[made]], decoder.device)
        token_D, logits_DV = drafts.token_BA[row[made_D], index[made_D] + 1], torch.cat(list(drafts.logits))[logits_D]
        drafted = Drafted(made_D, token_D, logits_DV, u_D, decoding.temperature, decoding.top_p)
    nowhere = row[:0]
    rows_X = [*[nowhere] * len(decoding.exitable_layers), torch.arange(len(row), device=row.device)]
    return read_tokens(decoder, hidden_NW, rows_X, decoding, u_B, drafted=drafted)


def run_layers(
    decoder: Decoder, batch: DraftBatch, slot_N: np.ndarray, position_N: np.ndarray, token_N: Tensor,
    hidden_NW: Tensor | None, first_N: np.ndarray, last_N: np.ndarray,
) -> Tensor:  # fmt: skip
    """The residual streams of tokens after segments `first_N` to `last_N` of the layers, cut at X; (N, W).

    `hidden_NW` are those that enter the first one, None for the first of all.
    """
    slot, position_N1 = to_device([slot_N, position_N[:, None]], decoder.device)
    view = TokensView(batch.student, slot, position_N1, int(position_N.max()) + 1, decoder.attends_itself)
    embedded_N1W, layer_pass = decoder.begin(token_N[:, None], view)
    hidden_NW = embedded_N1W[:, 0] if hidden_NW is None else hidden_NW
    for rank, (start, end) in enumerate(batch.layers.segments):
        running = np.flatnonzero((first_N <= rank) & (rank <= last_N))
        if not len(running):
            continue
        [row] = to_device([padded_for(decoder.device, running)], decoder.device)
        running_pass, running_BTW = layer_pass.among(row, view.among(row)), hidden_NW[row, None]
        for layer in range(start, end):
            running_BTW = running_pass.block(layer, running_BTW)
        hidden_NW[row] = running_BTW[:, 0]
    return hidden_NW


def keep(
    batch: DraftBatch, token_BA: np.ndarray, said_BA: np.ndarray, ahead_B: np.ndarray, found: dict[str, np.ndarray],
    row_N: np.ndarray, index_N: np.ndarray,
) -> None:  # fmt: skip
    """Give each row the drafts that full depth agrees with and its own next token, up to one that ends the row."""
    index_A = np.arange(token_BA.shape[1] - 1)
    agrees_BA = (said_BA[:, :-1] == token_BA[:, 1:]) & (index_A < ahead_B[:, None])
    agreed_B = np.logical_and.accumulate(agrees_BA, 1).sum(1)
    ends_BA = np.isin(said_BA, list(batch.decoding.eos_token_ids)) & (np.arange(said_BA.shape[1]) <= agreed_B[:, None])
    given_B = np.where(ends_BA.any(1), ends_BA.argmax(1), agreed_B) + 1
    for row in range(batch.n_rows):
        batch.note(
            row, int(ahead_B[row]), min(int(agreed_B[row]), int(given_B[row])),
            agreed_B[row] < ahead_B[row] and given_B[row] > agreed_B[row],
        )  # fmt: skip
    at_BA = np.zeros_like(said_BA)
    at_BA[row_N, index_N] = np.arange(len(row_N))
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
