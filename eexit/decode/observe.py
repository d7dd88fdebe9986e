"""What full depth says of texts that are there: one pass over them, in parallel over their tokens.

Shapes: B rows that have ended, T tokens of a row, N observed tokens of all rows, X exitable layers and then the final
one, W width of the residual stream.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch.profiler import record_function

from eexit.decode.decoders import Decoders
from eexit.decode.reading.layer_reading import read_layers
from eexit.decode.rows import Rows, to_device
from eexit.decode.teacher import teacher_pass
from eexit.model.cache import KVCache
from eexit.model.layers import Inputs

OBSERVED_TOKENS: Final = 2048  # that go through the layers at a time, but those of one row at least


@record_function("observation")
@torch.inference_mode()
def observe(rows: Rows, decoders: Decoders, cache: KVCache, slots: np.ndarray, observed: Callable[[int], None]) -> None:
    """Record what the teacher says of rows that have ended: the columns that rows of oracles have at once.

    Their prompts are in the cache already, if the teacher made it. `observed` is called with numbers of tokens.
    """
    first = np.zeros(len(slots), np.int64) if not decoders.are_one else rows.n_prompt[slots]
    start = int((rows.first[slots] + first).min())  # the first column that is run
    size = max(1, OBSERVED_TOKENS // max(1, rows.end - start))
    for begin in range(0, len(slots), size):
        some = slots[begin : begin + size]
        observed(_observe(rows, decoders, cache, some, start))


def _observe(rows: Rows, decoders: Decoders, cache: KVCache, slots: np.ndarray, start: int) -> int:
    decoder, decoding, column_T = decoders.teacher, rows.decoding, np.arange(start, rows.end)
    index_BT = column_T - rows.first[slots][:, None]  # in the text, the prompt included
    ids = np.zeros(index_BT.shape, np.int64)
    for row, slot in enumerate(slots.tolist()):
        text = np.array([*rows.prompt(slot), *rows.token[slot, : rows.n_tokens[slot]].tolist()])
        ids[row] = np.where(index_BT[row] >= 0, text[np.maximum(index_BT[row], 0)], 0)
    is_decided_BT = index_BT >= rows.n_prompt[slots][:, None]
    row_N, at_N = np.nonzero(is_decided_BT)
    output_N = index_BT[row_N, at_N] - rows.n_prompt[slots][row_N] + 1  # among the row's generated tokens
    if not len(row_N):
        return 0
    next_N = rows.token[slots[row_N], output_N]
    sent = to_device(
        [
            ids,
            np.maximum(index_BT, 0),
            slots.copy(),
            np.arange(len(slots)),
            row_N,
            at_N,
            slots[row_N],
            output_N,
            next_N,
        ],
        decoder.device,
    )
    token_BT, position_BT, slot, row, own_N, column_N, slot_N, index_N, next_token_N = sent
    seen_BC = rows.seen(rows.end)[slot]
    own = decoder.cache(len(slots), rows.end)
    if decoders.are_one and start > 0:
        own.copy_rows(cache, slot, row)
    exits = [*decoding.exitable_layers, decoder.n_layers - 1][-decoding.n_observed :]
    streams_BTXW = teacher_pass(decoder, exits, Inputs(token_BT, position_BT, seen_BC), own, slice(None))
    reading = read_layers(decoder, streams_BTXW[own_N, column_N], decoding)
    for name, values in reading.columns(next_token_N, decoding.observe).items():
        rows.records[name][slot_N, index_N] = values.to(rows.records[name].dtype)
    return len(row_N)
