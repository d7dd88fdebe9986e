"""Hidden states of texts at full depth, the layers' likeliest tokens, and the divergence of layers from the final one.

Hidden states are recomputed at each use, since the hidden states of a whole sweep are too large to store.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Final

import torch
from torch import Tensor

from eexit.decode.full_depth import full_depth_pass
from eexit.decode.predictors import LMHead
from eexit.decode.requests import DecodingConfig
from eexit.method.divergence import Divergence
from eexit.method.readouts import READOUTS, Readout
from eexit.model.layers import Decoder, ForwardInputs
from eexit.training.texts import TrainingText, blocks

BLOCK_TOKENS: Final = 2048  # answer tokens whose hidden states are in memory at a time
READ_TOKENS: Final = 64  # read at a time, since a reading keeps the final layer's logits
ARGMAX_TOKENS: Final = 256  # per pass through the lm_head in `likeliest`
LENS: Final = READOUTS["lens"]


def hidden_states(
    decoder: Decoder, block: Sequence[TrainingText], layers: Sequence[int], decided_only: bool = False
) -> Tensor:
    """Return the hidden states after `layers` and, last, after the final layer, (N, X, W), in the order of the texts.

    N are all answer tokens or, with `decided_only`, all but the first of each answer. The result has no gradient, but
    may be used in a computation of gradients.
    """
    kept = [*layers, decoder.n_layers - 1]
    with torch.inference_mode():
        states = torch.cat([text_pass(decoder, text, kept)[int(decided_only) :] for text in block])
    return states.clone()  # outside of inference mode, as an ordinary tensor


@torch.inference_mode()
def text_pass(decoder: Decoder, text: TrainingText, kept: Sequence[int]) -> Tensor:
    """Run a text at full depth; return the hidden states after `kept` that predict its answer tokens, (T, X, W)."""
    ids, first = [*text.prompt_token_ids, *text.token_ids[:-1]], len(text.prompt_token_ids) - 1
    inputs = ForwardInputs.from_texts([ids], decoder.device)
    return full_depth_pass(decoder, kept, inputs, decoder.cache(1, len(ids)), slice(first, None))[0]


def decided_hidden_states(decoder: Decoder, texts: Sequence[TrainingText], layers: Sequence[int]) -> Iterator[Tensor]:
    """Yield the hidden states (N, X, W) of the texts' decided tokens, a block of texts at a time."""
    for block in blocks([text for text in texts if len(text.token_ids) > 1], BLOCK_TOKENS):
        yield hidden_states(decoder, block, layers, decided_only=True)


@torch.inference_mode()
def read_all(decoder: Decoder, decoding: DecodingConfig, hidden_NXD: Tensor) -> Divergence:
    """Read exitable layers, a few tokens at a time, and return their divergence from the final layer, on the CPU."""
    return joined([LMHead(decoder, decoding).read_layers(some_NXD) for some_NXD in hidden_NXD.split(READ_TOKENS)])


def joined(parts: Sequence[Divergence]) -> Divergence:
    """Concatenate divergences over tokens, on the CPU."""
    names = [field.name for field in fields(Divergence)]
    return Divergence(*[torch.cat([getattr(part, name).cpu() for part in parts]) for name in names])


def compare(decoder: Decoder, readout: Readout, layers: Sequence[int], hidden_NXD: Tensor) -> Divergence:
    """Read exitable layers through `readout`, and compare them with the final layer."""
    return read_all(decoder, DecodingConfig(tuple(layers), 1, frozenset(), readout=readout), hidden_NXD)


@torch.inference_mode()
def top_tokens(decoder: Decoder, hidden_ND: Tensor, layer: int | None = None, readout: Readout = LENS) -> Tensor:
    """Return the likeliest tokens (N,) of hidden states after `layer`; None: after the final layer, with no readout."""

    def head_input(some_ND: Tensor) -> Tensor:
        return decoder.head_input(some_ND) if layer is None else readout.before_head(decoder, some_ND, layer)

    return torch.cat([decoder.lm_head(head_input(some_ND)).argmax(-1) for some_ND in hidden_ND.split(ARGMAX_TOKENS)])
