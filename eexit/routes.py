"""What the device is told in a step: of the rows before it, and of their exits in its midst; one copy each.

Shapes: B rows in flight, F of them with a student, U texts of theirs, P texts that part from another, E exitable
layers, X = E + 1 with the final layer last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eexit.batch import Batch, padded
from eexit.transfer import to_device


@dataclass(frozen=True)
class Rows:
    """The rows as a step finds them."""

    text_B: Tensor
    token_U1: Tensor  # each text's last token, and its position
    position_U1: Tensor
    source_P: Tensor  # slots of the teacher's cache: texts part there
    target_P: Tensor
    rule_B: Tensor  # an index into the batch's rules; -1 for rows that draw no exit
    setting_BE: Tensor  # of the rule
    u_exit_B: Tensor
    u_token_B: Tensor


def send_rows(batch: Batch, device: torch.device) -> Rows:
    """Rows of one text that took different tokens part in `batch`; on the device they have still to."""
    slots = np.arange(batch.n_rows)
    row_U, source_P, target_P = batch.part_texts()
    n_generated = batch.n_generated[slots]
    arrays = (
        batch.text[slots], batch.last_token()[row_U, None].astype(np.int64), batch.position()[row_U, None],
        source_P, target_P, batch.rule[slots], batch.setting[slots],
        batch.u_exit[slots, n_generated], batch.u_token[slots, n_generated],
    )  # fmt: skip
    return Rows(*to_device(arrays, device))


@dataclass(frozen=True)
class Stretch:
    """Layers throughout which the same students go on: `going`; `out` are those of each state that exited before."""

    start: int
    end: int
    going: Tensor
    out: Sequence[Tensor]


@dataclass(frozen=True)
class Routes:
    """Where rows exit, as the rest of a step wants to know it; rows as indices."""

    exits: np.ndarray  # (B,) indices into the exitable layers, E for the final one
    exit_B: Tensor  # the same on the device
    at_fork_F: Tensor  # whether the exit is no deeper than the fork
    stretches: Sequence[Stretch]
    unread: Tensor  # rows whose token was not seen when layers were read
    places_X: Sequence[Tensor]  # in `unread`, of the rows that exit at each layer


def send_routes(batch: Batch, exits: np.ndarray, n_students: int, reads_all: bool, device: torch.device) -> Routes:
    """`exits` of rows, the first `n_students` with a student.

    Tokens of the others were seen when layers were read, unless `reads_all`: where they are sampled.
    """
    layers, states = batch.layers, range(len(batch.states))
    exit_layer_F, state_F = layers.exits[exits[:n_students]], batch.state[:n_students]
    spans = layers.spans if n_students else []
    among = [
        [exit_layer_F >= start, *((exit_layer_F < start) & (state_F == state) for state in states)]
        for start, _ in spans
    ]
    rows = [padded(np.flatnonzero(these), n_students) for groups in among for these in groups]
    unread = np.arange(len(exits) if reads_all else n_students)
    places = [np.flatnonzero(exits[unread] == rank) for rank in range(len(layers.exits))]
    arrays = [exits, exit_layer_F <= layers.fork, unread, *places, *rows]
    exit_B, at_fork_F, sent_unread, *sent = to_device(arrays, device)
    places_X, groups = sent[: len(places)], sent[len(places) :]
    each = 1 + len(batch.states)
    stretches = [
        Stretch(start, end, groups[at], groups[at + 1 : at + each])
        for (start, end), at in zip(spans, range(0, len(groups), each), strict=True)
    ]
    return Routes(exits, exit_B, at_fork_F, stretches, sent_unread, places_X)
