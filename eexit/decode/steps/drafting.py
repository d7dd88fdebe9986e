"""A round of rows that draft: tokens are proposed, and verified by one pass through all layers.

Lossless (LayerSkip, Elhoushi et al. 2024; Leviathan et al. 2023). An early layer reads the next tokens, one after the
other. Its layers are not run again to verify them: a draft is a token that exits there in a state that is left as it
was, and verifying is what all such tokens wait for. What is not accepted is taken back by going on from before it,
since no token attends to positions behind its own, and all are written anew.

Shapes: B rows in flight, N tokens in a pass, A the most tokens that any row drafts, X exitable layers and the final one
last, E without it, W width of the residual stream, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.layer_reading import Picked, Reader, read_tokens, rows_after
from eexit.decode.rows.requests import Decoding, RowSoFar
from eexit.decode.rows.transfer import to_device, to_host
from eexit.decode.sampling import Drafted, pick_tokens
from eexit.decode.steps.batch import Batch
from eexit.decode.token_pass import Tokens, run_to
from eexit.plan.configuration import Draft


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


def draft_round(batch: Batch) -> None:
    """One round of every row: each gets one token or more."""
    with batch.student.decoder.attending():
        # 1. Up to A tokens of each row are read after its early layer, and wait for the layers behind it.
        with record_function("drafting"):
            drafts = propose(batch)
        # 2. The last one of each row goes through all layers, and those that wait come along: one pass says what full
        #    depth would have said.
        with record_function("verifying"):
            picked = verify(batch, drafts)
    # 3. The drafts that it agrees with are kept, and its own next token after them.
    with record_function("records"):
        found = to_host({"token": picked.token_B, **picked.columns()})
        said_BA = np.zeros_like(drafts.token_BA)
        said_BA[drafts.row_index_N] = found.pop("token")
        keep(batch, drafts, said_BA, found)


def propose(batch: Batch) -> DraftedTokens:
    """Read tokens after each row's early layer, one after the other: they exit there, and wait."""
    decoding, decoder, kept = batch.decoding, batch.student.decoder, []
    n_generated_B = batch.n_generated[: batch.n_rows]
    configurations = [batch.requests[index].configuration for index in batch.request[: batch.n_rows].tolist()]
    drafts = [each for each in configurations if isinstance(each, Draft)]
    room_B = batch.limit[: batch.n_rows] - n_generated_B - 1  # a round may yield one token more than it drafts
    ahead_B = np.minimum([draft.n_tokens for draft in drafts], room_B)
    batch.make_room_for(int((n_generated_B + ahead_B).max()) + 1)
    token_BA = np.zeros((batch.n_rows, int(ahead_B.max()) + 1), np.int64)
    token_BA[:, 0] = batch.last_token()
    reader, input_index_B = Reader(decoder, decoding.readout), n_generated_B - 1
    layer_B = np.array([draft.layer for draft in drafts])
    rank_B = np.searchsorted(batch.layers.exits, layer_B)
    for index in range(int(ahead_B.max())):
        rows = np.flatnonzero(ahead_B > index)
        tokens = Tokens(rows, input_index_B[rows] + index, token_BA[rows, index])
        hidden_NW = run_to(batch.student, tokens, rank_B[rows])
        [u_N] = to_device([batch.u_token[rows, input_index_B[rows] + 1 + index]], decoder.device)
        logits_NV = decoder.head(reader.ready_each(hidden_NW, rows_after(layer_B[rows], decoder.device)))
        token_BA[rows, index + 1] = pick_tokens(logits_NV, decoding.temperature, decoding.top_p, u_N).cpu().numpy()
        if decoding.temperature > 0:
            kept.append(logits_NV)
    return DraftedTokens(ahead_B, token_BA, kept)


def verify(batch: Batch, drafts: DraftedTokens) -> Picked:
    """What full depth says after each token of the round."""
    student, decoding = batch.student, batch.decoding
    decoder, waiting, final = student.decoder, student.waiting, len(decoding.exitable_layers)
    row_N, index_N = drafts.row_index_N
    output_index_N = batch.n_generated[row_N] + index_N  # of the tokens that follow
    whole = np.flatnonzero(index_N == drafts.ahead_B[row_N])  # which have been through no layer yet
    slot_D, input_index_D = row_N[whole], output_index_N[whole] - 1
    tokens = Tokens(slot_D, input_index_D, drafts.token_BA[slot_D, index_N[whole]])
    hidden_NW = run_to(student, tokens, np.full(len(whole), final))
    if len(whole) < len(row_N):  # some were waiting
        waiting.hidden_SPW[waiting.at(slot_D, input_index_D)] = hidden_NW
        hidden_NW = waiting.hidden_SPW[waiting.at(row_N, output_index_N - 1)]
    [u_N] = to_device([batch.u_token[row_N, output_index_N]], decoder.device)
    drafted = sampled(decoding, drafts, batch.u_exit[row_N, output_index_N], decoder.device) if drafts.logits else None
    rows_N = [(decoder.n_layers - 1, torch.arange(len(row_N), device=decoder.device))]
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


def keep(batch: Batch, drafts: DraftedTokens, said_BA: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """Give each row the drafts that full depth agrees with and its own next token, up to one that ends the row."""
    token_BA, ahead_B, n_rows = drafts.token_BA, drafts.ahead_B, batch.n_rows
    index_A = np.arange(token_BA.shape[1] - 1)
    agrees_BA = (said_BA[:, :-1] == token_BA[:, 1:]) & (index_A < ahead_B[:, None])
    agreed_B = np.logical_and.accumulate(agrees_BA, 1).sum(1)
    ends_BA = np.isin(said_BA, list(batch.decoding.eos_token_ids)) & (np.arange(said_BA.shape[1]) <= agreed_B[:, None])
    given_B = np.where(ends_BA.any(1), ends_BA.argmax(1), agreed_B) + 1
    if batch.decoding.stops:
        given_B = np.array([_until_stop(batch, row, said_BA[row, :n]) for row, n in enumerate(given_B)])
    rejects_B = (agreed_B < ahead_B) & (given_B > agreed_B)
    accepted_B = np.minimum(agreed_B, given_B)
    columns = batch.n_generated[:n_rows] - 1, ahead_B, accepted_B, rejects_B.astype(np.int64)
    for index, of_row in zip(batch.request[:n_rows].tolist(), np.stack(columns, 1).tolist(), strict=True):
        batch.rounds[index].append(of_row)
    at_BA = np.zeros_like(said_BA)
    at_BA[drafts.row_index_N] = np.arange(int((ahead_B + 1).sum()))
    final = len(batch.decoding.exitable_layers)
    for index in range(int(given_B.max())):
        slots = np.flatnonzero(given_B > index)
        prob_BX = np.zeros((len(slots), final + 1), np.float32)
        prob_BX[:, final] = 1
        of_all = {
            "token_id_T": said_BA[slots, index],
            "exit_layer_T": np.full(len(slots), batch.layers.n_layers - 1),
            "exit_prob_TX": prob_BX,
            "evidence_TE": np.full((len(slots), final), np.nan, np.float32),
            "drafted_T": index < agreed_B[slots],
        }
        batch.record(slots, of_all | {name: values[at_BA[slots, index]] for name, values in found.items()})


def _until_stop(batch: Batch, slot: int, token_id_N: np.ndarray) -> int:
    """How many of these tokens, which full depth said, a row gets if it ends where `Decoding.stops` says so."""
    assert batch.decoding.stops
    before, final = batch.so_far(slot), batch.layers.n_layers - 1
    for n_given in range(1, len(token_id_N)):
        token_ids = [*before.token_ids, *token_id_N[:n_given].tolist()]
        if batch.decoding.stops(RowSoFar(before.request, token_ids, [*before.exit_layers, *[final] * n_given])):
            return n_given
    return len(token_id_N)
