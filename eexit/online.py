"""The loop of rules that need no full-depth pass: no layer beyond the exit is run but what the state needs.

What the full-depth model would have said is found afterwards, by one pass over the finished text (`observe`).

Shapes: N slots, B rows in flight, D tokens that are decided, E exitable layers, X = E + 1 with the final layer last,
T tokens of a text, W width of the residual stream.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch.profiler import record_function

from eexit.anatomy import Decoder
from eexit.cache import KVCache
from eexit.exit_pass import Deciding, ExitPass, Tokens, known_exits
from eexit.rows import Decoding, Request
from eexit.slots import Slots, find_layers
from eexit.step import read_texts
from eexit.transfer import to_device, to_host

# Tokens of a row that have exited and whose deeper layers wait until a later token needs them. With more of them, a
# layer's weights are fetched less often per token.
MOST_WAITING_TOKENS: Final = 32
OBSERVED_TOKENS: Final = 128  # at a time
# Layers that attend by code of their own get a copy of a row's keys for each of its tokens: so many positions at most.
OBSERVED_POSITIONS: Final = 1 << 16


class OnlineBatch(Slots):
    """Slots for rows, their cache, and the tokens that have exited and do not have all keys and values yet."""

    def __init__(self, n_slots: int, length: int, decoder: Decoder, decoding: Decoding, requests: Sequence[Request]):
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        super().__init__(n_slots, decoding, find_layers(decoding.exitable_layers, decoder.n_layers, ()), requests)
        self.cache = KVCache(n_slots, length)
        self.waiting = Tokens.none(decoder)
        room = self.u_exit.shape[1]
        self.counts = {
            "layers_T": np.zeros((n_slots, room), np.int64),
            "keys_T": np.zeros((n_slots, room), np.int64),
            "reads_TX": np.zeros((n_slots, room, len(self.layers.exits)), np.int64),
        }

    @staticmethod
    def row_bytes(decoder: Decoder, decoding: Decoding, length: int, requests: Sequence[Request]) -> int:
        """Bytes of a row in flight: keys and values, waiting tokens, and logits."""
        logits, waiting = decoder.vocabulary * decoder.dtype.itemsize, decoder.width * decoder.dtype.itemsize
        return decoder.cache_bytes_per_token * length + MOST_WAITING_TOKENS * waiting + logits

    def admit(self, requests: Mapping[int, Request], limit: int, prompt: KVCache) -> None:
        """Give these requests, by their numbers, slots. They have the same prompt, whose keys and values are given."""
        first = self.n_rows
        for index, request in requests.items():
            slot = self.add(index, request, limit)
            for recorded in self.records.values():
                recorded[slot] = 0
        n_tokens = len(next(iter(requests.values())).prompt_token_ids)
        self.cache.load(slice(first, self.n_rows), prompt, range(self.layers.n_layers), n_tokens)

    def remove(self, slots: np.ndarray, device: torch.device) -> None:
        """Free these slots, which are in descending order, and fill the gaps with rows from higher slots."""
        origin = np.arange(self.n_rows)
        for slot in slots:
            self.n_rows -= 1
            self._move(self.n_rows, slot)
            origin[slot] = origin[self.n_rows]
        origin = origin[: self.n_rows]
        targets = np.flatnonzero(origin != np.arange(self.n_rows))
        if len(targets):
            self.cache.copy_slots(*to_device([origin[targets], targets], device))
        if len(slots):
            target = np.full(self.n_slots, -1)
            target[origin] = np.arange(self.n_rows)
            self.waiting = self.waiting.of(np.flatnonzero(target[self.waiting.slot_N] >= 0))
            self.waiting.slot_N[:] = target[self.waiting.slot_N]

    def crowded(self) -> np.ndarray:
        """Slots of rows with as many waiting tokens as may be: (N,)."""
        return np.bincount(self.waiting.slot_N, minlength=self.n_slots) >= MOST_WAITING_TOKENS


@torch.inference_mode()
def online_step(decoder: Decoder, decoding: Decoding, batch: OnlineBatch) -> None:
    """Give every row in flight its next token."""
    slots, n_generated = np.arange(batch.n_rows), batch.n_generated[: batch.n_rows]
    # 1. Each row's last token is decided; those that have exited before come along, in case they are needed.
    setting_DE, u_exit_D, u_token_D = to_device(
        [batch.setting[slots], batch.u_exit[slots, n_generated], batch.u_token[slots, n_generated]], decoder.device
    )
    deciding = Deciding(batch.rule[slots], setting_DE, u_exit_D, u_token_D)
    last_token = batch.last_token().astype(np.int64)
    last = Tokens(slots, batch.position(), last_token, batch.state[slots], np.zeros_like(slots), u_exit_D)
    # 2. Layer by layer, tokens leave where their rules say; their next tokens are read there.
    done = ExitPass(
        decoder, decoding, batch.layers, batch.cache, batch.rules, batch.states,
        batch.waiting.behind(last), deciding, known_exits(batch.rules, deciding), batch.crowded(),
    )  # fmt: skip
    taken, tokens = done.run(), done.tokens
    # 3. What was run is counted, and those that still lack layers wait.
    place_N = tokens.position_N - batch.n_prompt[tokens.slot_N]
    batch.counts["layers_T"][tokens.slot_N, place_N] += taken.layers_N
    batch.counts["keys_T"][tokens.slot_N, place_N] += taken.keys_N
    batch.counts["reads_TX"][slots, place_N[: len(slots)]] += taken.reads_DX
    batch.waiting = tokens.of(np.flatnonzero(tokens.next_N < batch.layers.n_layers))
    # 4. The rest is recorded.
    with record_function("records"):
        columns = {
            "token_id_T": taken.picked.token_B,
            "exit_prob_TX": taken.prob_DX,
            "evidence_TE": taken.evidence_DE,
            "exit_logprob_T": taken.picked.log_p_B,
            "exit_top_token_ids_TK": taken.picked.top_token_BK,
            "exit_top_prob_TK": taken.picked.top_prob_BK,
        }
        exit_layer = batch.layers.exits[taken.exit_D]
        batch.record(slots, {"exit_layer_T": exit_layer, **to_host(columns)})


@record_function("observation")
@torch.inference_mode()
def observe(decoder: Decoder, decoding: Decoding, batch: OnlineBatch, slots: np.ndarray) -> None:
    """Record what the full-depth model says of rows that have ended: the columns that an oracle's loop has at once.

    Their texts go through all layers once more, many tokens at a time, in their own slots of the cache.
    """
    slots = slots[batch.n_generated[slots] > 1]
    n_behind = batch.n_generated[slots] - 1  # tokens with another one behind them
    slot_T = np.repeat(slots, n_behind)
    place_T = np.concatenate([np.arange(n) for n in n_behind]) if len(slots) else slot_T
    position_T = batch.n_prompt[slot_T] + place_T
    if not len(slots):
        return
    batch.cache.unhide(*to_device([slots.copy()], decoder.device))
    reach = int(position_T.max()) + 1
    size = min(OBSERVED_TOKENS, max(1, OBSERVED_POSITIONS // reach)) if decoder.attends_itself else OBSERVED_TOKENS
    for start in range(0, len(slot_T), size):
        slot, place, position = (array[start : start + size] for array in (slot_T, place_T, position_T))
        token = batch.records["token_id_T"][slot, place].astype(np.int64)
        reading = read_texts(decoder, decoding, batch.layers, batch.cache, slot, position, token)
        [next_N] = to_device([batch.records["token_id_T"][slot, place + 1].astype(np.int64)], decoder.device)
        for name, values in to_host(reading.columns(next_N)).items():
            batch.records[name][slot, place + 1] = values
