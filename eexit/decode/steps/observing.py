"""What full depth says of tokens whose rows have no teacher, found once they are there, many at a time.

Shapes: T tokens of texts, X exitable layers and then the final one.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch.profiler import record_function

from eexit.decode.layer_reading import Reading, read_layers
from eexit.decode.rows.transfer import to_device, to_host
from eexit.decode.steps.batch import Batch
from eexit.decode.teacher import read_texts
from eexit.decode.token_pass import Tokens

OBSERVED_TOKENS: Final = 128  # at a time
# Layers that attend by code of their own get a copy of a row's keys for each of its tokens: so many positions at most.
OBSERVED_POSITIONS: Final = 1 << 16


@record_function("observation")
@torch.inference_mode()
def observe(batch: Batch, slots: np.ndarray, observed: Callable[[int], None]) -> None:
    """Record what the teacher says of rows that have ended: the columns that rows of oracles have at once.

    Tokens that have not been through all its layers go through them, many at a time, in their rows' slots;
    `observed` is called with the number of tokens each time.
    """
    if not len(slots):
        return
    read_complete(batch)  # before slots are filled anew
    decoder, exits = batch.decoders.teacher, batch.layers.exits[-batch.decoding.n_observed :]
    first, end = batch.n_observed[slots], batch.n_generated[slots] - 1  # the last token has none behind it
    slot_T = np.repeat(slots, end - first)
    input_index_T = np.concatenate([np.arange(*ends) for ends in zip(first, end, strict=True)])
    batch.texts.unhide(*to_device([slots.copy()], decoder.device))
    size = OBSERVED_TOKENS
    if decoder.attends_itself:
        size = min(size, max(1, OBSERVED_POSITIONS // int((batch.n_prompt + batch.n_generated)[slots].max())))
    for start in range(0, len(slot_T), size):
        slot, input_index = slot_T[start : start + size], input_index_T[start : start + size]
        tokens = Tokens(slot, input_index, batch.records["token_id_T"][slot, input_index].astype(np.int64))
        reading = read_texts(decoder, batch.decoding, exits, batch.texts, tokens, batch.n_prompt)
        _record(batch, slot, input_index, reading)
        observed(len(slot))


def read_complete(batch: Batch, if_many: bool = False) -> None:
    """Read and record the tokens that are through all layers, if there are any or, with `if_many`, enough at a time."""
    complete, decoder = batch.complete, batch.decoders.teacher
    if sum(len(through.slot_N) for through in complete) < (OBSERVED_TOKENS if if_many else 1):
        return
    batch.complete = []
    with decoder.attending():
        reading = read_layers(decoder, torch.cat([through.streams_NXW for through in complete]), batch.decoding)
    slot_T, input_index_T = (
        np.concatenate([getattr(through, name) for through in complete]) for name in ("slot_N", "input_index_N")
    )
    _record(batch, slot_T, input_index_T, reading)


def _record(batch: Batch, slot_T: np.ndarray, input_index_T: np.ndarray, reading: Reading) -> None:
    """Record what the full-depth model says of the tokens behind these."""
    next_token = batch.records["token_id_T"][slot_T, input_index_T + 1].astype(np.int64)
    [next_T] = to_device([next_token], reading.entropy_B.device)
    for name, values in to_host(reading.columns(next_T, batch.decoding.observe)).items():
        batch.records[name][slot_T, input_index_T + 1] = values
