"""One decoding step of all rows beside their teacher: the method itself, part by part, for oracles.

Each row exits by its own rule, and its state says what the exit leaves behind. The teacher is the full-depth pass. It
depends on nothing of a row but its prefix, which is all of its tokens so far, so that teacher and readout run once for
all rows with equal prefixes. The student is the pass whose cache exits alter. Up to and including the fork layer,
teacher and student are the same pass with the same cache; the student runs the layers above it.

Shapes: B rows in flight, F of them with a student, U unique prefixes, E exitable layers, X = E + 1 with the final layer
last, T tokens, W width of the residual stream.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.exit_pass import Deciding, Decision, decide, last_tokens
from eexit.decode.layer_reading import Picked, Reading, read_layers, read_tokens
from eexit.decode.rows.batch import Batch
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding
from eexit.decode.rows.slots import NONE, Slots
from eexit.decode.rows.transfer import to_device, to_host
from eexit.decode.teacher import Prefilled, teacher_pass
from eexit.decode.token_pass import run_to
from eexit.model.decoder import Decoder


@dataclass(frozen=True)
class Step:
    """Everything a step has computed for the rows in `slots` before their next tokens are taken."""

    slots: np.ndarray
    u_token_B: Tensor
    reading: Reading
    decision: Decision
    exit_layer_B: np.ndarray
    hidden_BW: Tensor  # each row's residual stream at its exit layer


@torch.inference_mode()
def decode_step(decoders: Decoders, decoding: Decoding, batch: Batch) -> None:
    """Give every row in flight its next token; teacher and student are one decoder."""
    decoder, n_students, reach = decoders.teacher, batch.n_students, int(batch.position().max()) + 1
    # 1. Rows that generated different tokens no longer share a prefix.
    row_U, *copies = batch.split_prefixes()
    last_token_U1, last_U1 = batch.last_token()[row_U, None].astype(np.int64), batch.position()[row_U, None]
    token_U1, position_U1, prefix_B, source_P, target_P = to_device(
        [last_token_U1, last_U1, batch.prefix[: batch.n_rows], *copies], decoder.device
    )
    if len(source_P):
        batch.teacher.copy_slots(source_P, target_P)
    with decoder.attending():
        # 2. The teacher: the last token of every prefix goes through all layers.
        with record_function("teacher"):
            view, kept = decoder.view(batch.teacher, position_U1, reach), [*batch.layers.exits, batch.layers.fork]
            streams_UXW, fork_U1W = teacher_pass(decoder, kept, token_U1, view).tensor_split([len(kept) - 1], 1)
        # 3. Every exitable layer is read and compared with the final layer; each row's rule decides where it exits.
        with record_function("readout"):
            reading, (tokens, deciding) = (
                read_layers(decoder, streams_UXW, decoding).of(prefix_B),
                last_tokens(batch, decoder.device),
            )
            decision = decide(deciding, reading)
        # 4. The students run up to their exits, with their own caches; their states say what deeper layers then hold.
        with record_function("student"):
            exit_B, hidden_BW = decision.exit_D.cpu().numpy(), streams_UXW[prefix_B, decision.exit_D]
            exit_layer_B = batch.layers.exits[exit_B]
            if n_students:
                at_exit_FW, goes_on_F = hidden_BW[:n_students], exit_layer_B[:n_students] > batch.layers.fork
                [goes_on_F1] = to_device([goes_on_F[:, None]], decoder.device)
                entering_FW = torch.where(goes_on_F1, fork_U1W[prefix_B[:n_students], 0], at_exit_FW)
                at_exit_FW[:] = run_to(batch.student, tokens.first(n_students, entering_FW), exit_B[:n_students])
    # 5. The next tokens are read where the rows exit. 6. Everything is recorded.
    step = Step(np.arange(batch.n_rows), deciding.u_token_D, reading, decision, exit_layer_B, hidden_BW)
    record(batch, step, take_tokens(decoder, decoding, step, n_students))


@torch.inference_mode()
def first_tokens(decoder: Decoder, decoding: Decoding, batch: Slots, slots: np.ndarray, prefilled: Prefilled) -> None:
    """Give new rows their first token, from the final layer of their prompt's pass: no exit is drawn for it."""
    [prefix_B, u_B] = to_device([np.zeros_like(slots), batch.u_token[slots, 0]], decoder.device)
    reading = prefilled.reading.of(prefix_B)
    never_BE = torch.zeros_like(reading.kl_BE)
    decision = decide(Deciding([], np.full(len(slots), NONE), never_BE, u_B, u_B))
    exit_layer_B = np.full(len(slots), decoder.n_layers - 1)
    step = Step(slots, u_B, reading, decision, exit_layer_B, prefilled.states_1XW[prefix_B, -1])
    record(batch, step, take_tokens(decoder, decoding, step))


@record_function("sampling")
def take_tokens(decoder: Decoder, decoding: Decoding, step: Step, n_students: int = 0) -> Picked:
    """The next tokens, from the layers that the rows exit at.

    Those of greedy rows without a student, which the first `n_students` have, are known from the teacher's reading.
    """
    picked = step.reading.picked(step.decision.exit_D)
    n_unread = len(step.slots) if decoding.temperature > 0 else n_students
    if n_unread:
        hidden_BW, layer_B, u_B = step.hidden_BW[:n_unread], step.exit_layer_B[:n_unread], step.u_token_B[:n_unread]
        [row] = to_device([np.arange(n_unread)], decoder.device)
        picked.put(row, read_tokens(decoder, decoding, hidden_BW, layer_B, u_B))
    return picked


@record_function("records")
def record(batch: Slots, step: Step, picked: Picked) -> None:
    """Write every column that `trace.Trace` declares."""
    reading, decision = step.reading, step.decision
    columns = {
        "token_id_T": picked.token_B,
        "exit_prob_TX": decision.prob_DX,
        "evidence_TE": decision.evidence_DE,
        **picked.columns(),
        **reading.columns(picked.token_B),
    }
    batch.record(step.slots, {"exit_layer_T": step.exit_layer_B, **to_host(columns)})
