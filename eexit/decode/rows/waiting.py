"""Tokens that have exited and lack keys and values in deeper layers, which run once a later token goes that deep.

A token that waits costs the residual stream that enters its next layer, far less than its keys and values, so that any
number of tokens may wait. Nothing is done for those that no later token needs.

Shapes: S slots, P indices of a row's generated tokens, N tokens, G segments of the layers (they end where rows may
exit), X = G exitable layers and then the final one, W width of the residual stream.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eexit.decode.rows.slots import Layers
from eexit.decode.rows.transfer import to_device
from eexit.model.decoder import Decoder


class Waiting:
    """Room for the tokens of some rows; a token is known by its slot and by its index behind the row's prompt.

    `start_S` are the positions of the rows' first inputs, and `state_S` the rows' states, both as they are at any time.
    Of tokens whose state is that of full depth, the residual streams after the last `n_kept` layers of X are kept, as
    far as a token has been through them.
    """

    def __init__(
        self, decoder: Decoder, layers: Layers, start_S: np.ndarray, state_S: np.ndarray, n_inputs: int, n_kept: int
    ):
        n_slots, n_segments = len(start_S), len(layers.exits)
        self.start_S, self.state_S, self.device = start_S, state_S, decoder.device
        self.token_SP = np.zeros((n_slots, n_inputs), np.int64)
        self.segment_SP = np.zeros((n_slots, n_inputs), np.int16)  # the next one to run; 0 for tokens that don't wait
        self.exit_SP = np.zeros((n_slots, n_inputs), np.int16)  # the segment that a token waits behind
        self.n_SG = np.zeros((n_slots, n_segments), np.int64)  # how many tokens wait for each segment
        # On a CPU, memory that was never written is not taken from the operating system.
        self.hidden_SPW = torch.empty(n_slots, n_inputs, decoder.width, dtype=decoder.dtype, device=decoder.device)
        self.streams_SPXW = self.hidden_SPW.new_empty(n_slots, n_inputs if n_kept else 0, n_kept, decoder.width)

    @staticmethod
    def token_bytes(decoder: Decoder, n_kept: int) -> int:
        """Bytes of one token that waits."""
        indices = np.dtype(np.int64).itemsize + 2 * np.dtype(np.int16).itemsize
        return (1 + n_kept) * decoder.width * decoder.dtype.itemsize + indices

    def needed(self, segment: int, before_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slots and indices of tokens that wait for this segment, at indices before `before_S` in their rows."""
        slots = np.flatnonzero((self.n_SG[:, segment] > 0) & (before_S > 0))
        if not len(slots):
            return slots, slots
        row_N, input_index_N = np.nonzero(self.segment_SP[slots, : before_S[slots].max()] == segment)
        slot_N = slots[row_N]
        is_before_N = input_index_N < before_S[slot_N]
        return slot_N[is_before_N], input_index_N[is_before_N]

    def put(
        self, segment: int, slot_N: np.ndarray, input_index_N: np.ndarray, token_N: np.ndarray, hidden_NW: Tensor
    ) -> None:
        """Have these tokens, which exited before a segment, wait for it, which these residual streams enter."""
        self.token_SP[slot_N, input_index_N] = token_N
        self.segment_SP[slot_N, input_index_N] = segment
        self.exit_SP[slot_N, input_index_N] = segment - 1
        np.add.at(self.n_SG[:, segment], slot_N, 1)
        self.hidden_SPW[self.at(slot_N, input_index_N)] = hidden_NW

    def advance(self, segment: int, slot_N: np.ndarray, input_index_N: np.ndarray) -> None:
        """These tokens, which waited for this segment, have been through it; behind the last one, they wait no more."""
        np.subtract.at(self.n_SG[:, segment], slot_N, 1)
        following = (segment + 1) % self.n_SG.shape[1]
        self.segment_SP[slot_N, input_index_N] = following
        if following:
            np.add.at(self.n_SG[:, following], slot_N, 1)

    def at(self, slot_N: np.ndarray, input_index_N: np.ndarray) -> tuple[Tensor, ...]:
        """The index of these tokens in what is kept on the device."""
        return tuple(to_device([slot_N, input_index_N], self.device))

    def clear(self, slots: Sequence[int] | np.ndarray) -> None:
        """No token of these slots waits any more."""
        self.segment_SP[slots], self.n_SG[slots] = 0, 0

    def move(self, source: np.ndarray, target: np.ndarray) -> None:
        """Move the tokens of slots `source` to slots `target`, none of which is a source."""
        for column in (self.token_SP, self.segment_SP, self.exit_SP, self.n_SG):
            column[target] = column[source]
        row_N, input_index_N = np.nonzero(self.segment_SP[source])
        here, there = self.at(source[row_N], input_index_N), self.at(target[row_N], input_index_N)
        self.hidden_SPW[there] = self.hidden_SPW[here]
        if self.streams_SPXW.shape[1]:
            self.streams_SPXW[there] = self.streams_SPXW[here]
