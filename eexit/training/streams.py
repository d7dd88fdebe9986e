"""Residual streams of texts, and what layers say there: likeliest tokens, and how far layers are from the final one.

Streams are recomputed whenever they are needed: for a whole sweep they would be too large to keep.

Shapes: B rows (one), T tokens of a text, N tokens or positions of a block's answers, E exitable layers, X layers with
the final one last, W width of the residual stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Final

import torch
from torch import Tensor

from eexit.decode.full_depth import full_depth_pass
from eexit.decode.predictors import LMHead
from eexit.decode.requests import Decoding
from eexit.method.divergence import Divergence
from eexit.method.readouts import READOUTS, Readout
from eexit.model.layers import Decoder, Inputs
from eexit.training.texts import Text, blocks

BLOCK_TOKENS: Final = 2048  # of the streams that are there at a time
READ_TOKENS: Final = 64  # that are read at a time, since a reading keeps the final layer's logits
ARGMAX_TOKENS: Final = 256  # whose likeliest tokens are found at a time
LENS: Final = READOUTS["lens"]


def streams(decoder: Decoder, block: Sequence[Text], layers: Sequence[int], decided_only: bool = False) -> Tensor:
    """The residual streams after `layers` and, last, after the final layer, (N, X, W), in the order of the texts.

    N are the positions from which an answer's tokens are read; with `decided_only`, without the first of each answer,
    for which no exit is drawn. They can be used in a computation of gradients, though they have none themselves.
    """
    kept = [*layers, decoder.n_layers - 1]
    with torch.inference_mode():
        states = torch.cat([text_pass(decoder, text, kept)[int(decided_only) :] for text in block])
    return states.clone()  # outside of inference mode, as an ordinary tensor


@torch.inference_mode()
def text_pass(decoder: Decoder, text: Text, kept: Sequence[int]) -> Tensor:
    """A text's streams at full depth after `kept` where its answer's tokens are read, (T, X, W): up to the token before
    the last, whose position is the last that something is read from."""
    ids, first = [*text.prompt_token_ids, *text.token_ids[:-1]], len(text.prompt_token_ids) - 1
    inputs = Inputs.of([ids], decoder.device)
    return full_depth_pass(decoder, kept, inputs, decoder.cache(1, len(ids)), slice(first, None))[0]


def decided_streams(decoder: Decoder, texts: Sequence[Text], layers: Sequence[int]) -> Iterator[Tensor]:
    """The streams (N, X, W) of the texts' decided tokens, some texts at a time."""
    for block in blocks([text for text in texts if len(text.token_ids) > 1], BLOCK_TOKENS):
        yield streams(decoder, block, layers, decided_only=True)


@torch.inference_mode()
def read_all(decoder: Decoder, decoding: Decoding, states_NXW: Tensor) -> Divergence:
    """How exitable layers compare with the final one, some tokens at a time; on the CPU."""
    return joined([LMHead(decoder, decoding).read_layers(some_NXW) for some_NXW in states_NXW.split(READ_TOKENS)])


def joined(parts: Sequence[Divergence]) -> Divergence:
    """Of the tokens of all parts; on the CPU."""
    names = [field.name for field in fields(Divergence)]
    return Divergence(*[torch.cat([getattr(part, name).cpu() for part in parts]) for name in names])


def compare(decoder: Decoder, readout: Readout, layers: Sequence[int], states_NXW: Tensor) -> Divergence:
    """Read exitable layers through `readout`, and compare them with the final layer."""
    return read_all(decoder, Decoding(tuple(layers), 1, frozenset(), readout=readout), states_NXW)


@torch.inference_mode()
def likeliest(decoder: Decoder, hidden_NW: Tensor, layer: int | None = None, readout: Readout = LENS) -> Tensor:
    """The likeliest tokens, (N,), as streams after a layer are read; None: as the model reads its last one."""

    def read(some_NW: Tensor) -> Tensor:
        return decoder.head(decoder.normed(some_NW) if layer is None else readout.before_head(decoder, some_NW, layer))

    return torch.cat([read(some_NW).argmax(-1) for some_NW in hidden_NW.split(ARGMAX_TOKENS)])
