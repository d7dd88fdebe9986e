"""The full-depth pass: over prompts, over the last tokens of rows, and over texts that are there already.

Shapes: U rows of a pass, N tokens that each stand by themselves, X exitable layers and the final one last, T tokens, W
width of the residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.layer_reading import Reading, read_layers
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding
from eexit.decode.rows.slots import Layers
from eexit.decode.rows.transfer import to_device
from eexit.decode.token_pass import Tokens
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.model.layerwise import LayerPass
from eexit.model.views import CacheView, TokensView

PROMPT_STEP_TOKENS: Final = (
    32  # prompts are padded to multiples of it, for the reason given at `prefixes.MAX_BATCH_SIZES`
)


@dataclass(frozen=True)
class Prefilled:
    """A prompt after its full-depth pass: its keys and values, and its last token's residual streams and reading.

    A student with weights of its own has keys and values of its own; streams and reading are the teacher's.
    """

    token_ids: tuple[int, ...]
    teacher: KVCache
    student: KVCache
    states_1XW: Tensor
    reading: Reading


@torch.inference_mode()
def prefill(decoders: Decoders, decoding: Decoding, layers: Layers, prompt: tuple[int, ...]) -> Prefilled:
    """Run a prompt at full depth, once for each decoder; its last token is read where the teacher is observed, and at
    the final layer."""
    exits = layers.exits[-max(1, decoding.n_observed) :]
    ran = {decoder: prompt_pass(decoder, exits, prompt) for decoder in {decoders.teacher, decoders.student}}
    cache, states_1XW = ran[decoders.teacher]
    with decoders.teacher.attending():
        reading = read_layers(decoders.teacher, states_1XW, decoding)
    return Prefilled(prompt, cache, ran[decoders.student][0], states_1XW, reading)


def prompt_pass(decoder: Decoder, kept: np.ndarray, prompt: tuple[int, ...]) -> tuple[KVCache, Tensor]:
    """A prompt's keys and values, and the residual streams of its last token after the `kept` layers, (1, X, W).

    It is padded with its last token, to a multiple of PROMPT_STEP_TOKENS: causal attention hides the padding from it.
    """
    length = -(-len(prompt) // PROMPT_STEP_TOKENS) * PROMPT_STEP_TOKENS
    context = decoder.context_of(len(prompt))
    length = length if context is None else min(length, context)
    ids = np.array([[*prompt, *prompt[-1:] * (length - len(prompt))]])
    [token_BT] = to_device([ids], decoder.device)
    cache = KVCache(1, length)
    view = decoder.view(cache, torch.arange(length, device=decoder.device)[None], length)
    with decoder.attending():
        return cache, teacher_pass(decoder, kept, token_BT, view, len(prompt) - 1)[0]


def teacher_pass(
    decoder: Decoder, kept: Sequence[int] | np.ndarray, token_UT: Tensor, view: CacheView, at: int | slice = -1
) -> tuple[Tensor, LayerPass]:
    """Run all layers; returns the residual streams after the `kept` ones at token `at` of each row, (U, X, W).

    If `at` is a slice, of all of its tokens: (U, T, X, W). The second result is the pass, for a student's of its rows.
    """
    hidden_UTW, layer_pass = decoder.begin(token_UT, view)
    streams = {}
    for layer in range(decoder.n_layers):
        hidden_UTW = layer_pass.block(layer, hidden_UTW)
        if layer in kept:
            streams[layer] = hidden_UTW[:, at].to(decoder.device)
    return torch.stack([streams[int(layer)] for layer in kept], -2), layer_pass


def read_texts(
    decoder: Decoder, decoding: Decoding, exits: np.ndarray, cache: KVCache, tokens: Tokens, start_S: np.ndarray
) -> Reading:
    """The reading of a full-depth pass over tokens of texts, each in a slot of `cache` that holds what precedes it.

    `start_S` are the positions of the slots' first generated tokens.
    """
    position_D = start_S[tokens.slot_D] + tokens.input_index_D
    sent = to_device([tokens.slot_D, position_D[:, None], tokens.token_D[:, None]], decoder.device)
    slot_D, position_D1, token_D1 = sent
    view = TokensView(cache, slot_D, position_D1, int(position_D.max()) + 1, decoder.attends_itself)
    with decoder.attending():
        return read_layers(decoder, teacher_pass(decoder, exits, token_D1, view)[0], decoding)
