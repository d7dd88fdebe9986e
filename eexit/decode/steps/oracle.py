"""One decoding step of all rows beside their teacher: the method itself, part by part, for oracles.

Each row exits by its own rule, and its state says what the exit leaves behind. The teacher is the full-depth pass. It
depends on nothing of a row but its prefix, which is all of its tokens so far, so that teacher and readout run once for
all rows with equal prefixes. The student is the pass whose cache exits alter. Up to and including the fork layer,
teacher and student are the same pass with the same cache; the student runs the layers above it.

Shapes: B rows in flight, F of them with a student, U unique prefixes, E exitable layers, X = E + 1 with the final layer
last, T tokens, W width of the residual stream.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.exit_pass import Deciding, Decision, decide
from eexit.decode.layer_reading import Picked, Reading, read_layers, read_tokens
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding
from eexit.decode.rows.slots import Slots
from eexit.decode.rows.transfer import to_device, to_host
from eexit.decode.steps.batch import Batch
from eexit.decode.steps.row_copies import Routes, send_routes, send_rows
from eexit.decode.teacher import Prefilled, teacher_pass
from eexit.decode.token_pass import ExitedTokens
from eexit.method.states import STATES
from eexit.model.decoder import Decoder
from eexit.model.layerwise import LayerPass
from eexit.model.views import CacheView


@dataclass(frozen=True)
class Teacher:
    """The full-depth pass at the last token of each prefix: the residual streams that the step goes on to use."""

    states_UXW: Tensor  # after the exitable layers and the final one
    fork_UW: Tensor
    layer_pass: LayerPass


@dataclass(frozen=True)
class Step:
    """Everything a step has computed for the rows in `slots` before their next tokens are taken."""

    slots: np.ndarray
    u_token_B: Tensor
    reading: Reading
    decision: Decision
    routes: Routes
    hidden_BW: Tensor  # each row's residual stream at its exit layer


@torch.inference_mode()
def decode_step(decoders: Decoders, decoding: Decoding, batch: Batch) -> None:
    """Give every row in flight its next token; teacher and student are one decoder."""
    decoder = decoders.teacher
    # 1. The rows are copied to the device. Rows that generated different tokens no longer share a prefix.
    rows, reach = send_rows(batch, decoder.device), int(batch.position().max()) + 1
    if len(rows.source_P):
        batch.teacher.copy_slots(rows.source_P, rows.target_P)
    with decoder.attending():
        # 2. The teacher: the last token of every prefix goes through all layers.
        with record_function("teacher"):
            view, layers = decoder.view(batch.teacher, rows.position_U1, reach), batch.layers
            streams_UXW, layer_pass = teacher_pass(decoder, [*layers.exits, layers.fork], rows.token_U1, view)
            teacher = Teacher(streams_UXW[:, :-1], streams_UXW[:, -1], layer_pass)
        # 3. Every exitable layer is read and compared with the final layer; each row's rule decides where it exits.
        with record_function("readout"):
            reading = read_layers(decoder, teacher.states_UXW, decoding).of(rows.prefix_B)
            uniform = rows.u_exit_B, rows.u_token_B
            decision = decide(Deciding(batch.rules, rows.rule, rows.rule_B, rows.setting_BE, *uniform), reading)
        # 4. The students run up to their exits, with their own caches; their states say what deeper layers then hold.
        with record_function("student"):
            exits, hidden_BW = decision.exit_D.cpu().numpy(), teacher.states_UXW[rows.prefix_B, decision.exit_D]
            routes = send_routes(batch, exits, batch.n_students, decoding.temperature > 0, decoder.device)
            if batch.n_students:
                prefix_F = rows.prefix_B[: batch.n_students]
                view = decoder.view(batch.student, rows.position_U1[prefix_F], reach)
                student_pass(batch, teacher, prefix_F, view, routes, hidden_BW[: batch.n_students])
    step = Step(np.arange(batch.n_rows), rows.u_token_B, reading, decision, routes, hidden_BW)
    # 5. The next tokens are read where the rows exit. 6. Everything is recorded.
    record(batch, step, take_tokens(decoder, decoding, step))


@torch.inference_mode()
def first_tokens(decoder: Decoder, decoding: Decoding, batch: Slots, slots: np.ndarray, prefilled: Prefilled) -> None:
    """Give new rows their first token, from the final layer of their prompt's pass: no exit is drawn for it.

    It is read with the whole head, as the rest of that pass.
    """
    exits = np.full(len(slots), len(decoding.exitable_layers))
    routes = send_routes(batch, exits, 0, decoding.temperature > 0, decoder.device)
    [u_token_B] = to_device([batch.u_token[slots, 0]], decoder.device)
    prefix_B = torch.zeros_like(routes.exit_B)
    reading = prefilled.reading.of(prefix_B)
    decision = undecided(routes.exit_B, len(decoding.exitable_layers))
    step = Step(slots, u_token_B, reading, decision, routes, prefilled.states_1XW[prefix_B, -1])
    record(batch, step, take_tokens(decoder, replace(decoding, head=None), step))


def undecided(final_B: Tensor, n_exitable: int) -> Decision:
    """The decision of rows that draw no exit: the final layer has probability 1."""
    prob_BX = torch.zeros(len(final_B), n_exitable + 1, device=final_B.device)
    prob_BX[:, -1] = 1
    return Decision(torch.full_like(prob_BX[:, :-1], torch.nan), prob_BX, final_B)


def student_pass(
    batch: Batch, teacher: Teacher, prefix_F: Tensor, view: CacheView, routes: Routes, hidden_FW: Tensor
) -> None:
    """Run the students, and write each one's residual stream at its exit layer to `hidden_FW`, in place.

    A layer runs for the rows that have not exited before it; for the others, their state says what the layer holds.
    Rows that exit no deeper than the fork keep the teacher's stream, which `hidden_FW` holds at the start.
    """
    hidden_FW[:] = torch.where(routes.at_fork_F[:, None], hidden_FW, teacher.fork_UW[prefix_F])
    for span in routes.spans:
        going_pass = teacher.layer_pass.among(prefix_F[span.going], view.among(span.going))
        exited = []
        for left in span.out:
            out, exits = left.rows, () if left.exit_layer is None else [(left.exit_layer, slice(None))]
            out_pass = teacher.layer_pass.among(prefix_F[out], view.among(out))
            out_teacher = teacher.layer_pass.view.among(prefix_F[out])
            tokens = ExitedTokens(
                out_pass, hidden_FW[out, None], exits, batch.decoding.state_maps, out_teacher, batch.layers.fork
            )
            exited.append((STATES[left.state], tokens))
        going_BTW = hidden_FW[span.going, None]
        for layer in range(span.start, span.end):
            for state, students in exited:
                state.fill(layer, students)
            if len(span.going):
                going_BTW = going_pass.block(layer, going_BTW)
        hidden_FW[span.going] = going_BTW[:, 0]


def take_tokens(decoder: Decoder, decoding: Decoding, step: Step) -> Picked:
    """The next tokens, from the layers that the rows exit at.

    For greedy rows without a student they are known already, from the reading of all exitable layers.
    """
    with record_function("sampling"):
        from_end_B = (
            step.routes.exit_B - len(decoding.exitable_layers) - 1
        )  # a prompt may be read at the final layer only
        picked, unread, rows_X = step.reading.picked(from_end_B), step.routes.unread, step.routes.rows_X
        if len(unread):
            u_B = step.u_token_B[unread]
            rows = list(zip([*decoding.exitable_layers, decoder.n_layers - 1], rows_X, strict=True))
            picked.put(unread, read_tokens(decoder, decoding, step.hidden_BW[unread], rows, u_B))
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
        **reading.columns(picked.token_B, batch.decoding.observe),
    }
    exit_layer = batch.layers.exits[step.routes.exits]
    batch.record(step.slots, {"exit_layer_T": exit_layer, **to_host(columns)})
