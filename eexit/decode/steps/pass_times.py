"""How long a pass of all layers takes on this machine, by how many tokens it takes along."""

import math
import time
from collections.abc import MutableMapping
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch

from eexit.decode.layer_reading import read_tokens, rows_after
from eexit.decode.rows.requests import Decoding
from eexit.decode.rows.slots import NONE, find_layers
from eexit.decode.rows.transfer import to_host
from eexit.decode.rows.waiting import Waiting
from eexit.decode.token_pass import TOKENS_PER_CALL, StudentRows, Tokens, rounded, run_to
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder

MEASUREMENTS: Final = 4  # of each number of tokens at most, of which the shortest counts
ENOUGH_SECONDS: Final = 0.3  # for a number of tokens
_MEASURED: Final[MutableMapping[Decoder, dict[int, float]]] = WeakKeyDictionary()


def pass_seconds(decoder: Decoder, decoding: Decoding, most_tokens: int) -> np.ndarray:
    """The seconds of a pass of 0 to `most_tokens` tokens, (N,), measured once for each decoder.

    A pass counts as no longer than one of more tokens was, since what else the machine does can only make a measurement
    longer. The tokens have no text before them: attention to it comes on top, for each alike. A layer takes them along
    in parts of TOKENS_PER_CALL, whose times add up.
    """
    if decoder not in _MEASURED:
        _measure(decoder, decoding, n_tokens=1)  # the first pass of all takes longer
    measured = _MEASURED.setdefault(decoder, {0: 0.0})
    for size in {rounded(n_tokens) for n_tokens in range(1, min(most_tokens, TOKENS_PER_CALL) + 1)} - measured.keys():
        measured[size] = _shortest(decoder, decoding, size)
    seconds = {size: min(of_size for at, of_size in measured.items() if at >= size) for size in measured}
    calls_and_rest = [divmod(n_tokens, TOKENS_PER_CALL) for n_tokens in range(most_tokens + 1)]
    of_call = seconds.get(TOKENS_PER_CALL, 0.0)
    return np.array([n_calls * of_call + seconds[rest and rounded(rest)] for n_calls, rest in calls_and_rest])


def _shortest(decoder: Decoder, decoding: Decoding, n_tokens: int) -> float:
    """Of several measurements, or of one where that takes long."""
    shortest, spent = math.inf, 0.0
    for _ in range(MEASUREMENTS):
        seconds = _measure(decoder, decoding, n_tokens)
        shortest, spent = min(shortest, seconds), spent + seconds
        if spent > ENOUGH_SECONDS:
            break
    return shortest


@torch.inference_mode()
def _measure(decoder: Decoder, decoding: Decoding, n_tokens: int) -> float:
    layers, first_N = find_layers(decoding.exitable_layers, decoder.n_layers), np.zeros(n_tokens, np.int64)
    waiting = Waiting(decoder, layers, first_N, np.full(n_tokens, NONE), n_inputs=1, n_kept=0)
    rows = StudentRows(decoder, layers.segments, KVCache(n_tokens, length=1), [], waiting)
    rows_N = rows_after(np.full(n_tokens, decoder.n_layers - 1), decoder.device)
    u_N = torch.zeros(n_tokens, device=decoder.device)
    with decoder.attending():
        began = time.perf_counter()
        hidden_NW = run_to(
            rows, Tokens(np.arange(n_tokens), first_N, first_N), np.full(n_tokens, len(layers.exits) - 1)
        )
        to_host(read_tokens(decoder, decoding, hidden_NW, rows_N, u_N).columns())
        return time.perf_counter() - began
