"""Residual streams of texts, recomputed whenever they are needed: for a whole sweep they would be too large to keep.

Shapes: B rows (one), T tokens of a text, N positions of a block's answers, X layers, W width of the residual stream.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from eexit.decode.teacher import teacher_pass
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.training.texts import Text


def streams(decoder: Decoder, block: Sequence[Text], layers: Sequence[int], decided_only: bool = False) -> Tensor:
    """The residual streams after `layers` and, last, after the final layer, (N, X, W), in the order of the texts.

    N are the positions from which an answer's tokens are read; with `decided_only`, without the first of each answer,
    for which no exit is drawn. They can be used in a computation of gradients, though they have none themselves.
    """
    kept = [*layers, decoder.n_layers - 1]
    with torch.inference_mode():
        states = torch.cat([text_pass(decoder, text, kept)[1][int(decided_only) :] for text in block])
    return states.clone()  # outside of inference mode, as an ordinary tensor


@torch.inference_mode()
def text_pass(decoder: Decoder, text: Text, kept: Sequence[int]) -> tuple[KVCache, Tensor]:
    """A text's keys and values at full depth, and the streams after `kept` where its answer's tokens are read,
    (T, X, W): up to the token before the last, whose position is the last that something is read from."""
    ids, first = [*text.prompt_token_ids, *text.token_ids[:-1]], len(text.prompt_token_ids) - 1
    token_BT, cache = torch.tensor([ids], device=decoder.device), KVCache(1, len(ids))
    view = decoder.view(cache, torch.arange(len(ids), device=decoder.device)[None], len(ids))
    with decoder.attending():
        return cache, teacher_pass(decoder, kept, token_BT, view, slice(first, None))[0][0]
