"""The teacher beside rows of oracles: the full-depth pass over the last token of each prefix, read for every row.

Shapes: B rows in flight, U unique prefixes, E exitable layers, X = E + 1 with the final layer last, W width of the
residual stream.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.exit_pass import Deciding
from eexit.decode.layer_reading import Reading, read_layers
from eexit.decode.rows.transfer import to_device
from eexit.decode.steps.batch import Batch
from eexit.decode.teacher import teacher_pass
from eexit.model.layerwise import LayerPass


@dataclass(frozen=True)
class TeacherPass:
    """The teacher over the rows' last tokens: what it says there, and its pass, for students that share it."""

    reading: Reading  # of each row
    deciding: Deciding
    prefix_B: Tensor  # which of the U prefixes is a row's
    position_U1: Tensor
    reach: int
    states_UXW: Tensor  # the residual streams after the exitable layers and the final one
    fork_UW: Tensor
    layer_pass: LayerPass


def teach(batch: Batch) -> TeacherPass:
    """Run and read the last token of every prefix at full depth."""
    teacher, decoder, layers, slots = batch.teacher, batch.decoders.teacher, batch.layers, np.arange(batch.n_rows)
    assert teacher
    # The rows are copied to the device at once. Those that generated different tokens no longer share a prefix.
    row_U, source_P, target_P = teacher.split(batch.last_token())
    position_B, n_generated = batch.position(), batch.n_generated[slots]
    arrays = (
        teacher.slot_S[slots], batch.last_token()[row_U, None].astype(np.int64), position_B[row_U, None],
        source_P, target_P, batch.rule[slots], batch.parameter[slots],
        batch.u_exit[slots, n_generated], batch.u_token[slots, n_generated],
    )  # fmt: skip
    prefix_B, token_U1, position_U1, source, target, *of_rows = to_device(arrays, decoder.device)
    if len(source_P):
        teacher.cache.copy_slots(source, target)
    reach, kept = int(position_B.max()) + 1, [*layers.exits, layers.fork] if batch.shares else layers.exits
    with decoder.attending():
        with record_function("teacher"):
            view = decoder.view(teacher.cache, position_U1, reach)
            streams_UXW, layer_pass = teacher_pass(decoder, kept, token_U1, view)
        with record_function("readout"):
            states_UXW = streams_UXW[:, : len(layers.exits)]
            reading = read_layers(decoder, states_UXW, batch.decoding).of(prefix_B)
    deciding = Deciding(batch.rules, batch.rule[slots], *of_rows)
    return TeacherPass(reading, deciding, prefix_B, position_U1, reach, states_UXW, streams_UXW[:, -1], layer_pass)
