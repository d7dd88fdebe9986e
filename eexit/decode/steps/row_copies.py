"""The two copies from host to device in a step: the rows at its start, and their exits once those are decided.

Shapes: B rows in flight, F of them with a student, U unique prefixes, P prefixes to be copied, E exitable layers,
X = E + 1 with the final layer last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eexit.decode.rows.slots import Slots
from eexit.decode.rows.transfer import to_device
from eexit.decode.steps.batch import Batch, padded
from eexit.method.states import STATES


@dataclass(frozen=True)
class Rows:
    """The rows at the start of a step."""

    prefix_B: Tensor  # which of the U prefixes is a row's
    token_U1: Tensor  # each prefix's last token, and its position
    position_U1: Tensor
    source_P: Tensor  # slots of the teacher's cache to be copied to those of `target_P`
    target_P: Tensor
    rule: np.ndarray  # (B,): an index into the batch's rules; -1 for rows that draw no exit
    rule_B: Tensor  # the same on the device
    setting_BE: Tensor  # of the rule
    u_exit_B: Tensor
    u_token_B: Tensor


def send_rows(batch: Batch, device: torch.device) -> Rows:
    """Copy the rows to the device, after splitting prefixes in `batch`.

    The caller still has to copy slots of the teacher's cache, from `source_P` to `target_P`.
    """
    slots = np.arange(batch.n_rows)
    row_U, source_P, target_P = batch.split_prefixes()
    n_generated = batch.n_generated[slots]
    arrays = (
        batch.prefix[slots], batch.last_token()[row_U, None].astype(np.int64), batch.position()[row_U, None],
        source_P, target_P, batch.rule[slots], batch.setting[slots],
        batch.u_exit[slots, n_generated], batch.u_token[slots, n_generated],
    )  # fmt: skip
    prefix_B, token_U1, position_U1, source, target, *others = to_device(arrays, device)
    return Rows(prefix_B, token_U1, position_U1, source, target, batch.rule[slots], *others)


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

    exits: np.ndarray  # (B,): indices into the exitable layers; E is the final layer
    exit_B: Tensor  # the same on the device
    at_fork_F: Tensor  # whether the exit is no deeper than the fork
    spans: Sequence[Span]
    unread: Tensor  # rows whose next token still has to be read from their residual stream
    rows_X: Sequence[Tensor]  # for each layer, which entries of `unread` exit there


def send_routes(batch: Slots, exits: np.ndarray, n_students: int, reads_all: bool, device: torch.device) -> Routes:
    """Copy to the device where rows exit; the first `n_students` rows have a student.

    Without a student, a row's greedy token is known from the reading of all exitable layers, so that it need not be
    read again. `reads_all` has every row read: where tokens are sampled.
    """
    layers, exit_layer_F, state_F = batch.layers, batch.layers.exits[exits[:n_students]], batch.state[:n_students]
    spans, lefts = (layers.spans, _apart(batch)) if n_students else ([], [])
    of_left = [(state_F == index) & (exit_layer is None or exit_layer_F == exit_layer) for index, exit_layer in lefts]
    among = [[exit_layer_F >= start, *((exit_layer_F < start) & these_F for these_F in of_left)] for start, _ in spans]
    rows = [padded(np.flatnonzero(these), n_students) for groups in among for these in groups]
    unread = np.arange(len(exits) if reads_all else n_students)
    exiting = [np.flatnonzero(exits[unread] == rank) for rank in range(len(layers.exits))]
    arrays = [exits, exit_layer_F <= layers.fork, unread, *exiting, *rows]
    exit_B, at_fork_F, sent_unread, *sent = to_device(arrays, device)
    rows_X, groups = sent[: len(exiting)], sent[len(exiting) :]
    each = 1 + len(lefts)
    sent_spans = [
        Span(start, end, groups[at], _lefts(batch, lefts, groups[at + 1 : at + each]))
        for (start, end), at in zip(spans, range(0, len(groups), each), strict=True)
    ]
    return Routes(exits, exit_B, at_fork_F, sent_spans, sent_unread, rows_X)


def _apart(batch: Slots) -> list[tuple[int, int | None]]:
    """Which students are apart once they have exited: an index of their state and, if it maps, their exit layer."""
    exits = batch.layers.exits[:-1].tolist()
    return [
        (index, exit_layer)
        for index, name in enumerate(batch.states)
        for exit_layer in (exits if STATES[name].maps else [None])
    ]


def _lefts(batch: Slots, lefts: Sequence[tuple[int, int | None]], rows: Sequence[Tensor]) -> list[Left]:
    pairs = zip(lefts, rows, strict=True)
    return [Left(batch.states[index], exit_layer, some) for (index, exit_layer), some in pairs if len(some)]
