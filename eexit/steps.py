"""What the device is told in a step: of the rows before it, and of their exits in its midst; one copy each.

Shapes: B rows in flight, F of them `frozen_residual`, U texts of theirs, P texts that part from another.
"""

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
    decides_B: Tensor
    kl_factor_B: Tensor
    u_exit_B: Tensor
    u_token_B: Tensor


def send_rows(batch: Batch, device: torch.device) -> Rows:
    """Rows of one text that took different tokens part in `batch`; on the device they have still to."""
    slots = np.arange(batch.n_rows)
    row_U, source_P, target_P = batch.part_texts()
    n_generated = batch.n_generated[slots]
    arrays = (
        batch.text[slots], batch.last_token()[row_U, None].astype(np.int64), batch.position()[row_U, None],
        source_P, target_P, batch.decides[slots], batch.kl_factor[slots],
        batch.u_exit[slots, n_generated], batch.u_token[slots, n_generated],
    )  # fmt: skip
    return Rows(*to_device(arrays, device))


@dataclass(frozen=True)
class Routes:
    """Where rows exit, as the rest of a step wants to know it; rows as indices."""

    exit_B: Tensor  # an index into the exitable layers, their number for the final one
    at_fork_F: Tensor  # whether the exit is no deeper than the fork
    stretches: list[tuple[Tensor, Tensor]]  # of the student's layers: rows that go on, and rows that have exited before
    unread: list[tuple[bool, Tensor]]  # rows whose token was not seen when layers were read; by the lens, and not


def send_routes(
    exits: np.ndarray, exit_layer_F: np.ndarray, fork: int, starts: list[int], unread: list[tuple[bool, np.ndarray]],
    device: torch.device,
) -> Routes:  # fmt: skip
    """`exits` of all rows, the layers of those with a student, and the first layer of each of its stretches."""
    n_frozen = len(exit_layer_F)
    rows = [
        padded(np.flatnonzero(among), n_frozen)
        for start in starts
        for among in (exit_layer_F >= start, exit_layer_F < start)
    ]
    exit_B, at_fork_F, *sent = to_device([exits, exit_layer_F <= fork, *rows, *(rows for _, rows in unread)], device)
    pairs = sent[: len(rows)]
    stretches = list(zip(pairs[::2], pairs[1::2], strict=True))
    by_lens = [lens for lens, _ in unread]
    return Routes(exit_B, at_fork_F, stretches, list(zip(by_lens, sent[len(rows) :], strict=True)))
