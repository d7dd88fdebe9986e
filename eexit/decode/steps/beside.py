"""Students beside a teacher that is the same decoder: their exits are known before they run.

Up to the fork, they are the teacher's pass, in its cache. Above it, a layer runs for the students that have not exited
before it, while the states of the others say what it holds of them. Where all of that is the case is sent in one copy,
so that a step takes two copies to the device, however many layers and rows there are: this one, and that of the rows.

Shapes: B rows in flight, F of them with a student, U unique prefixes, E exitable layers, X = E + 1 with the final layer
last, T tokens, W width of the residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.exit_pass import ExitsTaken, decide
from eexit.decode.layer_reading import read_tokens
from eexit.decode.rows.prefixes import padded
from eexit.decode.rows.transfer import to_device
from eexit.decode.steps.batch import Batch
from eexit.decode.steps.teaching import TeacherPass
from eexit.decode.token_pass import ExitedTokens
from eexit.method.states import STATES


@dataclass(frozen=True)
class Left:
    """Students of one state that have exited and, where their state maps, after one layer."""

    state: str
    exit_layer: int | None
    rows: Tensor


@dataclass(frozen=True)
class Span:
    """Successive layers between which no student exits.

    `going` are the students that run them; `out` are the students that have exited before them.
    """

    start: int
    end: int
    going: Tensor
    out: Sequence[Left]


@dataclass(frozen=True)
class Routes:
    """Where rows exit, in the forms that the rest of a step uses; rows are given as indices."""

    at_fork_F: Tensor  # whether the exit is no deeper than the fork
    spans: Sequence[Span]
    unread: Tensor  # rows whose next token still has to be read from their residual stream
    rows_X: Sequence[Tensor]  # for each layer, which entries of `unread` exit there


def pass_beside(batch: Batch, taught: TeacherPass) -> ExitsTaken:
    """Have the rows exit where the teacher's reading lets their rules, and read their next tokens there."""
    decoder, decision = batch.decoders.teacher, decide(taught.deciding, taught.reading)
    with record_function("student"):
        exits, hidden_BW = decision.exit_D.cpu().numpy(), taught.states_UXW[taught.prefix_B, decision.exit_D]
        routes = send_routes(batch, exits)
        if batch.n_students:
            with decoder.attending():
                run_students(batch, taught, routes, hidden_BW[: batch.n_students])
    with record_function("sampling"):
        # Of greedy rows without a student, the tokens are known already, from the reading of all exitable layers.
        picked, unread = taught.reading.picked(decision.exit_D), routes.unread
        if len(unread):
            u_B, rows = taught.deciding.u_token_D[unread], zip(batch.layers.exits.tolist(), routes.rows_X, strict=True)
            picked.put(unread, read_tokens(decoder, batch.decoding, hidden_BW[unread], list(rows), u_B))
    return ExitsTaken(exits, decision.prob_DX, decision.evidence_DE, hidden_BW, picked)


def send_routes(batch: Batch, exits: np.ndarray) -> Routes:
    """Copy to the device where rows exit, given as indices into X."""
    layers, n_students = batch.layers, batch.n_students
    exit_layer_F, state_F = layers.exits[exits[:n_students]], batch.state[:n_students]
    spans, lefts = (layers.spans, _apart(batch)) if n_students else ([], [])
    of_left = [(state_F == index) & (exit_layer is None or exit_layer_F == exit_layer) for index, exit_layer in lefts]
    among = [[exit_layer_F >= start, *((exit_layer_F < start) & these_F for these_F in of_left)] for start, _ in spans]
    rows = [padded(np.flatnonzero(these), n_students) for groups in among for these in groups]
    unread = np.arange(len(exits) if batch.decoding.temperature > 0 else n_students)
    exiting = [np.flatnonzero(exits[unread] == rank) for rank in range(len(layers.exits))]
    arrays = [exit_layer_F <= layers.fork, unread, *exiting, *rows]
    at_fork_F, sent_unread, *sent = to_device(arrays, batch.decoders.teacher.device)
    rows_X, groups = sent[: len(exiting)], sent[len(exiting) :]
    each = 1 + len(lefts)
    sent_spans = [
        Span(start, end, groups[at], _lefts(batch, lefts, groups[at + 1 : at + each]))
        for (start, end), at in zip(spans, range(0, len(groups), each), strict=True)
    ]
    return Routes(at_fork_F, sent_spans, sent_unread, rows_X)


def _apart(batch: Batch) -> list[tuple[int, int | None]]:
    """Which students are apart once they have exited: an index of their state and, if it maps, their exit layer."""
    exits = batch.layers.exits[:-1].tolist()
    return [
        (index, exit_layer)
        for index, name in enumerate(batch.states)
        for exit_layer in (exits if STATES[name].maps else [None])
    ]


def _lefts(batch: Batch, lefts: Sequence[tuple[int, int | None]], rows: Sequence[Tensor]) -> list[Left]:
    pairs = zip(lefts, rows, strict=True)
    return [Left(batch.states[index], exit_layer, some) for (index, exit_layer), some in pairs if len(some)]


def run_students(batch: Batch, taught: TeacherPass, routes: Routes, hidden_FW: Tensor) -> None:
    """Run the students, and write each one's residual stream at its exit layer to `hidden_FW`, in place.

    Rows that exit no deeper than the fork keep the teacher's stream, which `hidden_FW` holds at the start.
    """
    prefix_F, shared = taught.prefix_B[: batch.n_students], taught.layer_pass
    decoder = batch.decoders.teacher
    view = decoder.view(batch.student.cache, taught.position_U1[prefix_F], taught.reach)
    hidden_FW[:] = torch.where(routes.at_fork_F[:, None], hidden_FW, taught.fork_UW[prefix_F])
    for span in routes.spans:
        going_pass = shared.among(prefix_F[span.going], view.among(span.going))
        exited = []
        for left in span.out:
            out, exits = left.rows, () if left.exit_layer is None else [(left.exit_layer, slice(None))]
            out_pass = shared.among(prefix_F[out], view.among(out))
            teacher = shared.among(prefix_F[out], shared.view.among(prefix_F[out]))
            maps, fork = batch.decoding.state_maps, batch.layers.fork
            tokens = ExitedTokens(out_pass, hidden_FW[out, None], exits, maps, teacher, fork)
            exited.append((STATES[left.state], tokens))
        going_BTW = hidden_FW[span.going, None]
        for layer in range(span.start, span.end):
            for state, students in exited:
                state.fill(layer, students)
            if len(span.going):
                going_BTW = going_pass.block(layer, going_BTW)
        hidden_FW[span.going] = going_BTW[:, 0].to(decoder.device)
