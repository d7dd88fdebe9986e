"""The full-depth pass: over prompts, over the latest tokens of oracles, and over finished texts.

Letters besides the table's: U unique prefixes, P prefixes to be copied.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.predictors import HeadReading, LMHead
from eexit.decode.requests import DecodingConfig
from eexit.decode.slots import Slot, SlotTable
from eexit.model.cache import KVCache
from eexit.model.decoders import DecoderPair
from eexit.model.devices import to_device
from eexit.model.layers import Decoder, ForwardInputs, VisitedLayer

OBSERVED_TOKENS: Final = 2048  # of finished texts, run at a time, but at least a whole text
READ_TOKENS: Final = 256  # of finished texts whose logits are kept at a time
# Every new number of rows makes oneDNN compile its matrix products once more, which takes 0.9 ms and 0.65 MB on a CPU.
MAX_BATCH_SIZES: Final = 16


def full_depth_pass(
    decoder: Decoder, layers: Sequence[int], inputs: ForwardInputs, cache: KVCache, at: slice = slice(-1, None)
) -> Tensor:
    """Run all layers; return the hidden states after some layers, at some tokens of each sequence, (B, T, X, D)."""
    hidden: dict[int, Tensor] = {}

    def visit(layer: VisitedLayer, hidden_BTD: Tensor) -> Tensor:
        after_BTD = layer.run(hidden_BTD)
        if layer.index in layers:
            hidden[layer.index] = after_BTD[:, at].to(decoder.device)
        return after_BTD

    decoder.run(visit, inputs, cache)
    return torch.stack([hidden[layer] for layer in layers], -2)


@torch.inference_mode()
def prefill(
    decoders: DecoderPair, decoding: DecodingConfig, prompts: Sequence[Sequence[int]], end: int
) -> tuple[HeadReading, dict[Decoder, KVCache]]:
    """Run prompts at full depth, with the full-depth and the early-exit decoder, so that they end before column `end`.

    The prompts are different. Returns the full-depth decoder's reading after the last tokens, at the observed layers
    and the final one, and the decoders' KV caches.
    """
    head, caches = LMHead(decoders.full_depth, decoding), dict[Decoder, KVCache]()
    layers = head.layers[-max(1, decoding.n_observed) :]
    inputs = ForwardInputs.from_texts(prompts, decoders.full_depth.device, end)
    for decoder in {decoders.early_exit: None, decoders.full_depth: None}:  # full depth, whose states are read, is last
        caches[decoder] = decoder.cache(len(prompts), end)
        hidden_BXD = full_depth_pass(decoder, layers, inputs, caches[decoder])[:, 0]
    return head.read_layers(hidden_BXD), caches


def padded(index_N: np.ndarray, most: int) -> np.ndarray:
    """Pad indices with the last one to one of MAX_BATCH_SIZES lengths up to `most`: new lengths cost compilations."""
    step = -(-most // MAX_BATCH_SIZES)
    n_indices = min(-(-len(index_N) // step) * step, most)
    return np.pad(index_N, (0, n_indices - len(index_N)), mode="edge")


class SharedPrefixes:
    """The full-depth KV cache of oracles: slots whose tokens so far are equal share a prefix, a slot of this cache."""

    def __init__(self, head: LMHead, n_slots: int, length: int):
        self.head, self.cache = head, head.decoder.cache(n_slots, length)

    def admit(self, prefilled: KVCache, prompt_N: np.ndarray, slots: Sequence[Slot], new_N: np.ndarray) -> None:
        """Load the prefilled prompts of new slots into prefixes that no other slot has."""
        prompt_P, index_N = np.unique(prompt_N, return_inverse=True)
        used = [slot.prefix for at, slot in enumerate(slots) if at not in new_N]
        free_P = np.setdiff1d(np.arange(self.cache.n_slots), used)[: len(prompt_P)]
        for at, prefix in zip(new_N, free_P[index_N].tolist(), strict=True):
            slots[at].prefix = prefix
        self.cache.copy_rows(prefilled, *to_device([prompt_P, free_P], self.head.decoder.device))

    def read(self, slots: SlotTable) -> HeadReading:
        """Run the latest token of each unique prefix through all layers and the head; return each slot's reading."""
        indices = self._split(slots.in_flight)
        prefixes = np.array([slot.prefix for slot in slots.in_flight])
        prefix_B, slot_U, source_P, target_P = to_device([prefixes, *indices], slots.device)
        if len(source_P):
            self.cache.copy_rows(self.cache, source_P, target_P)
        inputs = slots.inputs(slots.end + 1).select(slot_U)
        with record_function("full depth"):
            hidden_UXD = full_depth_pass(self.head.decoder, self.head.layers, inputs, self.cache)[:, 0]
        with record_function("readout"):
            return self.head.read_layers(hidden_UXD).expand(prefix_B)

    def _split(self, slots: Sequence[Slot]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give slots that shared a prefix, and then generated different tokens, different prefixes.

        The unique prefixes come first. Returns a slot of each, padded (U,), and the prefixes to copy: from, to (P,).
        """
        # By length too, since with prompt exits no token attends to the prefilled one of a prompt of one token.
        prefix_B, length_B, token_B = np.array([(slot.prefix, slot.length, slot.latest_token) for slot in slots]).T
        key_B = (prefix_B << 48) + (length_B << 24) + token_B
        _, slot_U, index_B = np.unique(key_B, return_index=True, return_inverse=True)
        source_U = prefix_B[slot_U]
        stays_U = (np.diff(source_U, prepend=-1) > 0) & (source_U < len(source_U))
        target_U = source_U.copy()
        target_U[~stays_U] = np.setdiff1d(np.arange(len(source_U)), source_U[stays_U])
        for slot, prefix in zip(slots, target_U[index_B].tolist(), strict=True):
            slot.prefix = prefix
        return padded(slot_U[np.argsort(target_U)], self.cache.n_slots), source_U[~stays_U], target_U[~stays_U]


@record_function("observation")
@torch.inference_mode()
def record_predictions(
    slots: SlotTable, ended: Sequence[int], head: LMHead, prompts: KVCache | None, on_tokens: Callable[[int], None]
) -> None:
    """Record the full-depth columns of finished requests, which oracles have at once.

    `prompts` has the full-depth KV cache of their prompts by slot, if the same decoder made it. `on_tokens` is called
    with numbers of tokens.
    """
    pairs = [(at, slots.in_flight[at]) for at in ended]
    pairs = [(at, slot) for at, slot in pairs if slot.n_tokens > slot.first_decided]  # prefill observes others
    n_run = max((slot.length if prompts is None else slot.n_tokens for _, slot in pairs), default=2) - 1
    size = max(1, OBSERVED_TOKENS // n_run)
    for start in range(0, len(pairs), size):
        at_B, finished = zip(*pairs[start : start + size], strict=True)
        cache = head.decoder.cache(len(at_B), slots.end)
        if prompts is not None:
            cache.copy_rows(prompts, *to_device([np.array(at_B), np.arange(len(at_B))], head.decoder.device))
            cache.hidden.clear()  # exits hide columns of generated tokens; at full depth, they are run anew
        on_tokens(_record_block(slots, finished, head, cache, n_run))


def _record_block(slots: SlotTable, finished: Sequence[Slot], head: LMHead, cache: KVCache, n_run: int) -> int:
    """Run the last `n_run` tokens of finished requests but the very last; record the prediction after each."""
    decoder, decoding = head.decoder, head.decoding
    inputs = ForwardInputs.from_texts(
        [[*slot.prompt, *slot.output.token_ids[:-1]] for slot in finished], decoder.device, slots.end
    )
    inputs = replace(inputs, token_BT=inputs.token_BT[:, -n_run:], position_BT=inputs.position_BT[:, -n_run:])
    # By predicted token: its sequence, its predecessor's column from the end, its place in the records, and its id.
    predicted = [
        (at, index - slot.n_tokens, slot.record, index, slot.output.token_ids[index])
        for at, slot in enumerate(finished)
        for index in range(slot.first_decided, slot.n_tokens)
    ]
    sequence_N, column_N, record_N, index_N, token_N = to_device([*np.array(predicted).T.copy()], decoder.device)
    hidden_BTXD = full_depth_pass(decoder, head.layers[-decoding.n_observed :], inputs, cache, slice(None))
    hidden_NXD = hidden_BTXD[sequence_N, column_N]
    for some in torch.arange(len(token_N), device=decoder.device).split(READ_TOKENS):
        columns = head.read_layers(hidden_NXD[some]).columns(token_N[some], decoding.record_full_depth)
        for name, values in columns.items():
            slots.records[name][record_N[some], index_N[some]] = values.to(slots.records[name].dtype)
    return len(predicted)
