"""The full-depth pass: over prompts, over the latest tokens of oracles, and over finished texts.

The pass of a latest token depends on nothing but the tokens so far. Slots of oracles with the same ones share a slot of
the full-depth KV cache, until they generate different tokens.

Shapes: B slots in flight, T tokens of each, N tokens of all, U unique prefixes (padded: see `padded`), P prefixes to be
copied, X exitable layers and the final one last, D width of a hidden state.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.predictors import FullDepthReference, LMHead
from eexit.decode.requests import DecodingConfig
from eexit.decode.slots import SlotTable, to_device
from eexit.model.cache import KVCache
from eexit.model.decoders import DecoderPair
from eexit.model.layers import Decoder, ForwardInputs, Layer

OBSERVED_TOKENS: Final = 2048  # of finished texts, likewise, but those of one row at least
READ_TOKENS: Final = 256  # of finished texts whose logits are kept at a time
# Every new number of rows makes oneDNN compile its matrix products once more, which takes 0.9 ms and 0.65 MB on a CPU.
MAX_BATCH_SIZES: Final = 16

Prompt = tuple[int, ...]  # its token ids


def full_depth_pass(
    decoder: Decoder, kept: Sequence[int], inputs: ForwardInputs, cache: KVCache, at: slice = slice(-1, None)
) -> Tensor:
    """Run all layers; return the hidden states after the `kept` ones at some tokens of each sequence, (B, T, X, D)."""
    hidden: dict[int, Tensor] = {}

    def visit(layer: Layer, hidden_BTD: Tensor) -> Tensor:
        after_BTD = layer.run(hidden_BTD)
        if layer.index in kept:
            hidden[layer.index] = after_BTD[:, at].to(decoder.device)
        return after_BTD

    decoder.run(visit, inputs, cache)
    return torch.stack([hidden[layer] for layer in kept], -2)


@torch.inference_mode()
def prefill(
    decoders: DecoderPair, decoding: DecodingConfig, prompts: Sequence[Prompt], end: int
) -> tuple[FullDepthReference, dict[Decoder, KVCache]]:
    """Run different prompts together at full depth, once with each decoder, so that they end before column `end`.

    Returns the teacher's reference of their last tokens, at the observed layers and the final one, and KV caches.
    """
    layers = [*decoding.exitable_layers, decoders.full_depth.n_layers - 1][-max(1, decoding.n_observed) :]
    caches: dict[Decoder, KVCache] = {}
    inputs = ForwardInputs.from_texts(prompts, decoders.full_depth.device, end)
    for decoder in {decoders.early_exit: None, decoders.full_depth: None}:  # the hidden states are the teacher's
        caches[decoder] = decoder.cache(len(prompts), end)
        hidden_UXD = full_depth_pass(decoder, layers, inputs, caches[decoder])[:, 0]
    return LMHead(decoders.full_depth, decoding).read_layers(hidden_UXD), caches


def padded(rows: np.ndarray, most: int) -> np.ndarray:
    """Repeat the last of these rows, so that their number is one of at most MAX_BATCH_SIZES up to `most`."""
    step = -(-most // MAX_BATCH_SIZES)
    n_rows = min(-(-len(rows) // step) * step, most)
    return np.pad(rows, (0, n_rows - len(rows)), mode="edge")


class SharedPrefixes:
    """The full-depth KV cache of oracles, with a slot per unique prefix; `SlotTable.prefix` names each slot's."""

    def __init__(self, head: LMHead, n_slots: int, length: int):
        self.head, self.cache = head, head.decoder.cache(n_slots, length)

    def begin(self, slots: SlotTable, prefilled: KVCache, new: np.ndarray, prompt_N: np.ndarray) -> None:
        """Load the keys and values of new requests' prompts into slots that no other request shares."""
        used = slots.prefix[np.setdiff1d(slots.slots, new)]
        prompt_P, index_N = np.unique(prompt_N, return_inverse=True)
        free_P = np.setdiff1d(np.arange(self.cache.n_slots), used)[: len(prompt_P)]
        slots.prefix[new] = free_P[index_N]
        source, target = to_device([prompt_P, free_P], self.head.decoder.device)
        self.cache.copy_rows(prefilled, source, target)

    def read(self, slots: SlotTable) -> FullDepthReference:
        """Run and read the latest token of every prefix at full depth; return the reference of each slot."""
        decoder, decoding = self.head.decoder, self.head.decoding
        row_U, source_P, target_P = self._split(slots)
        sent = to_device([slots.prefix[: slots.n_rows].copy(), row_U, source_P, target_P], decoder.device)
        prefix_B, row, source, target = sent
        if len(source_P):
            self.cache.copy_rows(self.cache, source, target)
        whole, layers = slots.inputs(slots.end + 1), [*decoding.exitable_layers, decoder.n_layers - 1]
        token_UT, position_UT, seen_UC = (
            part[row] for part in (whole.token_BT, whole.position_BT, whole.attention_mask_BC)
        )
        inputs = ForwardInputs(token_UT, position_UT, seen_UC, whole.first_column)
        with record_function("full depth"):
            hidden_UXD = full_depth_pass(decoder, layers, inputs, self.cache)[:, 0]
        with record_function("readout"):
            return self.head.read_layers(hidden_UXD).of(prefix_B)

    def _split(self, slots: SlotTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give slots that shared a prefix, and then generated different tokens, different prefixes.

        The U unique ones come first. Returns one slot of each (U,), padded, and the prefixes to be copied: from (P,)
        and to (P,).
        """
        slot_B = slots.prefix[: slots.n_rows]
        _, row_U, group_B = np.unique((slot_B << 32) + slots.last_token, return_index=True, return_inverse=True)
        source_U = slot_B[row_U]
        stays_U = (np.diff(source_U, prepend=-1) > 0) & (source_U < len(source_U))
        target_U = source_U.copy()
        target_U[~stays_U] = np.setdiff1d(np.arange(len(source_U)), source_U[stays_U])
        slot_B[:] = target_U[group_B]
        return padded(row_U[np.argsort(target_U)], self.cache.n_slots), source_U[~stays_U], target_U[~stays_U]


@record_function("observation")
@torch.inference_mode()
def observe(
    slots: SlotTable, head: LMHead, prompts: KVCache | None, ended: np.ndarray, observed: Callable[[int], None]
) -> None:
    """Record what full depth predicts of requests that have ended: the columns that oracles have at once.

    `prompts` has their prompts' keys and values by slot, if the same decoder made them. `observed` is called with
    numbers of tokens.
    """
    ended = ended[slots.n_tokens[ended] > 1]  # prefill has observed first tokens
    if not len(ended):
        return
    n_run = int((slots.n_tokens + (0 if prompts is not None else slots.n_prompt))[ended].max()) - 1
    size = max(1, OBSERVED_TOKENS // n_run)
    for start in range(0, len(ended), size):
        observed(_observe(slots, head, prompts, ended[start : start + size], n_run))


def _observe(slots: SlotTable, head: LMHead, prompts: KVCache | None, ended: np.ndarray, n_run: int) -> int:
    """Run the last `n_run` tokens of these requests but the very last, and record what is predicted after them."""
    decoder, decoding, n_tokens_B = head.decoder, head.decoding, slots.n_tokens[ended]
    texts = [
        [*slots.prompt(slot), *slots.token[slot, : n - 1].tolist()]
        for slot, n in zip(ended.tolist(), n_tokens_B.tolist(), strict=True)
    ]
    whole = ForwardInputs.from_texts(texts, decoder.device, slots.end)
    inputs = replace(whole, token_BT=whole.token_BT[:, -n_run:], position_BT=whole.position_BT[:, -n_run:])
    row_N = np.repeat(np.arange(len(ended)), n_tokens_B - 1)
    index_N = np.concatenate([np.arange(1, n) for n in n_tokens_B])  # of what is predicted, among generated tokens
    column_N, slot_N = index_N - n_tokens_B[row_N], ended[row_N]  # columns count from the end
    parts = [ended.copy(), row_N, column_N, slot_N, index_N, slots.token[slot_N, index_N]]
    slot, row, column, at_slot, at_index, token = to_device(parts, decoder.device)
    cache = decoder.cache(len(ended), slots.end)
    if prompts is not None:
        cache.copy_rows(prompts, slot, torch.arange(len(slot), device=slot.device))
    layers = [*decoding.exitable_layers, decoder.n_layers - 1][-decoding.n_observed :]
    hidden_NXD = full_depth_pass(decoder, layers, inputs, cache, slice(None))[row, column]
    for some in torch.arange(len(row), device=row.device).split(READ_TOKENS):
        for name, values in head.read_layers(hidden_NXD[some]).columns(token[some], decoding.record_full_depth).items():
            slots.records[name][at_slot[some], at_index[some]] = values.to(slots.records[name].dtype)
    return len(row_N)
