"""How long a round of drafts takes on this machine, by how many tokens it has: a pass of all layers, and the rest."""

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
FORGETTING: Final = 0.99  # what a round counts, beside the one after it
TAKEN_FOR_NOTHING: Final = 0.001  # rounds, by as many of which what goes beyond the pass is drawn to nothing
_MEASURED: Final[MutableMapping[Decoder, dict[int, float]]] = WeakKeyDictionary()
_LEARNED: "Final[MutableMapping[Decoder, RoundTimes]]" = WeakKeyDictionary()


class RoundTimes:
    """What a round takes: the pass of its tokens, which is measured beforehand, and what rounds took beyond that.

    That is attention to the texts, which a token more has more of, and what a round does beside. A constant and a part
    that grows with the tokens are fitted to the rounds so far by least squares, the latest of which count most.
    """

    def __init__(self) -> None:
        self.pass_N: np.ndarray = np.zeros(1)  # of 0 and more tokens
        self._products_22, self._products_2 = np.zeros((2, 2)), np.zeros(2)

    def note(self, n_tokens: int, seconds: float) -> None:
        """A round of so many tokens took so long; one of more tokens than passes were measured of says nothing."""
        if n_tokens >= len(self.pass_N):
            return
        x_2 = np.array([1, n_tokens / TOKENS_PER_CALL])
        beyond = seconds - self.pass_N[n_tokens]
        self._products_22 = FORGETTING * self._products_22 + np.outer(x_2, x_2)
        self._products_2 = FORGETTING * self._products_2 + x_2 * beyond

    @property
    def seconds_N(self) -> np.ndarray:
        """Of rounds of 0 to as many tokens as passes were measured of; more tokens never take less time."""
        fixed, grows = np.linalg.solve(self._products_22 + TAKEN_FOR_NOTHING * np.eye(2), self._products_2)
        beyond_N = fixed + grows * np.arange(len(self.pass_N)) / TOKENS_PER_CALL
        longer_N: np.ndarray = np.maximum.accumulate(np.maximum(self.pass_N + beyond_N, self.pass_N[1] / 2))
        return longer_N


def round_times(decoder: Decoder, decoding: Decoding, most_tokens: int) -> RoundTimes:
    """What rounds of up to so many tokens take; what is learned of them is kept as long as the decoder."""
    times = _LEARNED.setdefault(decoder, RoundTimes())
    times.pass_N = pass_seconds(decoder, decoding, most_tokens)
    return times


def pass_seconds(decoder: Decoder, decoding: Decoding, most_tokens: int) -> np.ndarray:
    """The seconds of a pass of 0 to `most_tokens` tokens, (N,), measured once for each decoder.

    A pass counts as no longer than one of more tokens was, since what else the machine does can only make a measurement
    longer. The tokens have no text before them: attention to it comes on top. A layer takes them along in parts of
    TOKENS_PER_CALL, whose times add up.
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
