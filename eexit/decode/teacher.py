"""The full-depth pass: over prompts, over the last tokens of rows, and over texts that are there already.

The pass of a row's last token depends on nothing of the row but its tokens so far. Rows of oracles that have the same
share one slot of the teacher's cache, until they generate different tokens.

Shapes: B rows, T tokens of a row, N tokens of all rows, U unique prefixes (padded: see `padded`), P prefixes to be
copied, X exitable layers and the final one last, W width of the residual stream, H width of what the head takes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.reading import Reading, read_layers
from eexit.decode.requests import Decoders, Decoding
from eexit.decode.rows import Rows, to_device
from eexit.model.cache import KVCache
from eexit.model.layers import Decoder, Inputs, Layer

OBSERVED_TOKENS: Final = 2048  # of finished texts, likewise, but those of one row at least
READ_TOKENS: Final = 256  # of finished texts whose logits are kept at a time
# Every new number of rows makes oneDNN compile its matrix products once more, which takes 0.9 ms and 0.65 MB on a CPU.
MAX_BATCH_SIZES: Final = 16

Prompt = tuple[int, ...]  # its token ids


def teacher_pass(
    decoder: Decoder, kept: Sequence[int], inputs: Inputs, cache: KVCache, at: slice = slice(-1, None)
) -> Tensor:
    """Run all layers; return the residual streams after the `kept` ones at some tokens of each row, (B, T, X, W)."""
    streams: dict[int, Tensor] = {}

    def visit(layer: Layer, hidden_BTW: Tensor) -> Tensor:
        after_BTW = layer.run(hidden_BTW)
        if layer.index in kept:
            streams[layer.index] = after_BTW[:, at].to(decoder.device)
        return after_BTW

    decoder.run(visit, inputs, cache)
    return torch.stack([streams[layer] for layer in kept], -2)


@dataclass(frozen=True)
class Prefilled:
    """Prompts after their full-depth pass: keys and values, and the reading and final streams of their last tokens.

    A student with weights of its own has keys and values of its own; streams and reading are the teacher's.
    """

    index_of: dict[Prompt, int]
    teacher: KVCache
    student: KVCache
    final_UW: Tensor
    reading: Reading


@torch.inference_mode()
def prefill(decoders: Decoders, decoding: Decoding, prompts: Sequence[Prompt], end: int) -> Prefilled:
    """Run prompts together at full depth, once for each decoder, so that they end before column `end`.

    Last tokens are read at the layers at which the teacher is observed, and at the final one.
    """
    unique = list(dict.fromkeys(prompts))
    exits = [*decoding.exitable_layers, decoders.teacher.n_layers - 1][-max(1, decoding.n_observed) :]
    caches: dict[Decoder, KVCache] = {}
    inputs = Inputs.of(unique, decoders.teacher.device, end)
    for decoder in {decoders.student: None, decoders.teacher: None}:  # of the teacher's, the streams are kept
        cache = caches[decoder] = decoder.cache(len(unique), end)
        states_UXW = teacher_pass(decoder, exits, inputs, cache)[:, 0]
    reading = read_layers(decoders.teacher, states_UXW, decoding)
    index_of = {prompt: index for index, prompt in enumerate(unique)}
    return Prefilled(index_of, caches[decoders.teacher], caches[decoders.student], states_UXW[:, -1], reading)


def padded(rows: np.ndarray, most: int) -> np.ndarray:
    """Repeat the last of these rows, so that their number is one of at most MAX_BATCH_SIZES up to `most`."""
    step = -(-most // MAX_BATCH_SIZES)
    n_rows = min(-(-len(rows) // step) * step, most)
    return np.pad(rows, (0, n_rows - len(rows)), mode="edge")


@dataclass(frozen=True)
class Taught:
    """What the teacher says of the rows' last tokens."""

    reading: Reading  # of each row
    states_BXW: Tensor  # the residual streams after the exitable layers and the final one
    fork_BW: Tensor | None  # and after the last layer that no exit can alter


class Prefixes:
    """The keys and values of a teacher, with a slot per unique prefix; `Rows.prefix` says which of them is a row's."""

    def __init__(self, decoder: Decoder, decoding: Decoding, n_slots: int, length: int, fork: int):
        self.decoder, self.decoding, self.fork = decoder, decoding, fork
        self.cache = decoder.cache(n_slots, length)

    def begin(self, rows: Rows, prefilled: KVCache, slots: np.ndarray, prompt_N: np.ndarray) -> None:
        """Load the keys and values of new rows' prompts into slots that no other row shares."""
        taken = rows.prefix[np.setdiff1d(rows.slots, slots)]
        prompt_P, index_N = np.unique(prompt_N, return_inverse=True)
        free_P = np.setdiff1d(np.arange(self.cache.n_slots), taken)[: len(prompt_P)]
        rows.prefix[slots] = free_P[index_N]
        source, target = to_device([prompt_P, free_P], self.decoder.device)
        self.cache.copy_rows(prefilled, source, target)

    def teach(self, rows: Rows) -> Taught:
        """Run and read the last token of every prefix at full depth."""
        row_U, source_P, target_P = self._split(rows)
        sent = to_device([rows.prefix[: rows.n_rows].copy(), row_U, source_P, target_P], self.decoder.device)
        prefix_B, row, source, target = sent
        if len(source_P):
            self.cache.copy_rows(self.cache, source, target)
        asked, exits = rows.asked, [*self.decoding.exitable_layers, self.decoder.n_layers - 1]
        seen_UC = rows.seen(rows.end + 1)[row]
        inputs = Inputs(asked.token_B1[row], asked.position_B1[row], seen_UC, rows.first_column)
        with record_function("teacher"):
            kept = [*exits, self.fork] if self.fork >= 0 else exits
            streams_UXW = teacher_pass(self.decoder, kept, inputs, self.cache)[:, 0]
        with record_function("readout"):
            reading = read_layers(self.decoder, streams_UXW[:, : len(exits)], self.decoding).of(prefix_B)
        streams_BXW = streams_UXW[prefix_B]
        return Taught(reading, streams_BXW[:, : len(exits)], streams_BXW[:, -1] if self.fork >= 0 else None)

    def _split(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give rows that shared a prefix, and then generated different tokens, different slots.

        The U unique prefixes fill the first slots. Returns one row of each prefix (U,), padded, and the slots that have
        to be copied: from (P,) and to (P,).
        """
        slot_B = rows.prefix[: rows.n_rows]
        _, row_U, group_B = np.unique((slot_B << 32) + rows.last_token, return_index=True, return_inverse=True)
        source_U = slot_B[row_U]
        stays_U = (np.diff(source_U, prepend=-1) > 0) & (source_U < len(source_U))
        target_U = source_U.copy()
        target_U[~stays_U] = np.setdiff1d(np.arange(len(source_U)), source_U[stays_U])
        slot_B[:] = target_U[group_B]
        return padded(row_U[np.argsort(target_U)], self.cache.n_slots), source_U[~stays_U], target_U[~stays_U]


@record_function("observation")
@torch.inference_mode()
def observe(rows: Rows, decoders: Decoders, cache: KVCache, slots: np.ndarray, observed: Callable[[int], None]) -> None:
    """Record what the teacher says of rows that have ended: the columns that rows of oracles have at once.

    Their prompts are in the cache already, if the teacher made it. `observed` is called with numbers of tokens.
    """
    slots = slots[rows.n_tokens[slots] > 1]  # the prompt's pass has said it of first tokens
    if not len(slots):
        return
    n_run = int((rows.n_tokens + (0 if decoders.are_one else rows.n_prompt))[slots].max()) - 1
    size = max(1, OBSERVED_TOKENS // n_run)
    for start in range(0, len(slots), size):
        observed(_observe(rows, decoders, cache, slots[start : start + size], n_run))


def _observe(rows: Rows, decoders: Decoders, cache: KVCache, slots: np.ndarray, n_run: int) -> int:
    """Run the last `n_run` tokens of these rows but the very last, and record what is said after them."""
    decoder, n_tokens_B = decoders.teacher, rows.n_tokens[slots]
    texts = [
        [*rows.prompt(slot), *rows.token[slot, : n - 1].tolist()]
        for slot, n in zip(slots.tolist(), n_tokens_B.tolist(), strict=True)
    ]
    whole = Inputs.of(texts, decoder.device, rows.end)
    inputs = replace(whole, token_BT=whole.token_BT[:, -n_run:], position_BT=whole.position_BT[:, -n_run:])
    row_N = np.repeat(np.arange(len(slots)), n_tokens_B - 1)
    index_N = np.concatenate([np.arange(1, n) for n in n_tokens_B])  # of what was said, among generated tokens
    column_N, slot_N = index_N - n_tokens_B[row_N], slots[row_N]  # columns count from the end
    parts = [slots.copy(), row_N, column_N, slot_N, index_N, rows.token[slot_N, index_N]]
    slot, row, column, at_slot, at_index, said = to_device(parts, decoder.device)
    own = decoder.cache(len(slots), rows.end)
    if decoders.are_one:
        own.copy_rows(cache, slot, torch.arange(len(slot), device=slot.device))
    exits = [*rows.decoding.exitable_layers, decoder.n_layers - 1][-rows.decoding.n_observed :]
    streams_NXW = teacher_pass(decoder, exits, inputs, own, slice(None))[row, column]
    for some in torch.arange(len(row), device=row.device).split(READ_TOKENS):
        reading = read_layers(decoder, streams_NXW[some], rows.decoding)
        for name, values in reading.columns(said[some], rows.decoding.observe).items():
            rows.records[name][at_slot[some], at_index[some]] = values.to(rows.records[name].dtype)
    return len(row_N)
