"""The rows in flight: which request sits in which slot, how far it is, and what it left so far.

Rows fill the slots from 0 without gaps, `frozen_residual` ones first, so that every pass works on a leading part of
the cache. The teacher sees nothing of a row but its text, the tokens so far: rows that have the same share a slot of
its cache until they take different tokens. The bookkeeping is on the host, in arrays over slots.

Shapes: N slots, B rows in flight, U texts of theirs (or a few more), E exitable layers, X = E + 1, K top tokens,
T tokens.
"""

from typing import Final

import numpy as np

from eexit.cache import KVCache
from eexit.config import Mode
from eexit.draws import exit_draws, sampling_draws
from eexit.rows import Decoding, Failure, Outcome, Request, Trace
from eexit.schema import EOS, LENGTH

ROOM: Final = 256  # tokens of a row that there is room for at first; the most it may make can be any number
SIZES: Final = 16  # for every new number of rows a CPU's products compile code, in 0.9 ms, and keep it, in 0.65 MB


def padded(rows: np.ndarray, most: int) -> np.ndarray:
    """These rows, the last of them over and over, so that there is one of SIZES numbers of them up to `most`."""
    step = -(-most // SIZES)
    n_rows = min(-(-len(rows) // step) * step, most)
    return np.pad(rows, (0, n_rows - len(rows)), mode="edge")


class Batch:
    """Slots for rows, and their caches: the student's by row, the teacher's by text."""

    def __init__(self, n_slots: int, length: int, decoding: Decoding):
        n_exits, n_tokens = len(decoding.exitable_layers), min(decoding.max_new_tokens, ROOM)
        self.decoding, self.teacher, self.student = decoding, KVCache(n_slots, length), KVCache(n_slots, length)
        self.n_slots, self.n_rows, self.n_frozen = n_slots, 0, 0
        self.requests: dict[int, Request] = {}
        self.request = np.zeros(n_slots, np.int64)
        self.text = np.zeros(n_slots, np.int64)
        self.n_prompt = np.zeros(n_slots, np.int64)
        self.n_generated = np.zeros(n_slots, np.int64)
        self.limit = np.zeros(n_slots, np.int64)
        self.decides = np.zeros(n_slots, bool)
        self.kl_factor = np.zeros(n_slots, np.float32)
        self.u_exit = np.zeros((n_slots, n_tokens), np.float32)
        self.u_token = np.zeros((n_slots, n_tokens), np.float32)
        self.records = {
            "token_id_T": np.zeros((n_slots, n_tokens), np.int32),
            "exit_layer_T": np.zeros((n_slots, n_tokens), np.int32),
            "kl_TE": np.zeros((n_slots, n_tokens, n_exits), np.float32),
            "exit_prob_TE": np.zeros((n_slots, n_tokens, n_exits + 1), np.float32),
            "logprob_T": np.zeros((n_slots, n_tokens), np.float32),
            "final_token_id_T": np.zeros((n_slots, n_tokens), np.int32),
            "entropy_T": np.zeros((n_slots, n_tokens), np.float32),
            "top_token_id_TXK": np.zeros((n_slots, n_tokens, n_exits + 1, decoding.record_top_k), np.int32),
            "top_prob_TXK": np.zeros((n_slots, n_tokens, n_exits + 1, decoding.record_top_k), np.float32),
            "exit_logprob_T": np.zeros((n_slots, n_tokens), np.float32),
            "exit_top_token_id_TK": np.zeros((n_slots, n_tokens, decoding.record_top_k), np.int32),
            "exit_top_prob_TK": np.zeros((n_slots, n_tokens, decoding.record_top_k), np.float32),
        }

    def unused_text(self) -> int:
        """A slot of the teacher's cache that no row needs."""
        return int(np.setdiff1d(np.arange(self.n_slots), self.text[: self.n_rows])[0])

    def add(self, index: int, request: Request, text: int, limit: int) -> int:
        """Give request number `index`, that may make `limit` tokens and starts with this text, a slot."""
        slot = self.n_rows
        if request.mode == Mode.FROZEN_RESIDUAL:
            self._move(self.n_frozen, slot)
            slot = self.n_frozen
            self.n_frozen += 1
        self.n_rows += 1
        ids = list(request.prompt_token_ids)
        self.request[slot], self.text[slot], self.limit[slot] = index, text, limit
        self.n_prompt[slot], self.n_generated[slot] = len(ids), 0
        self.decides[slot] = request.mode != Mode.NORMAL
        self.kl_factor[slot] = request.kl_factor or 0.0
        self.requests[index] = request
        self._draw(slot)
        return slot

    def _draw(self, slot: int) -> None:
        """The draws of a row's tokens, as many as there is room for."""
        request = self.requests[int(self.request[slot])]
        ids, n_tokens = list(request.prompt_token_ids), min(int(self.limit[slot]), self.u_exit.shape[1])
        self.u_exit[slot, :n_tokens] = exit_draws(request.seed, ids, n_tokens)
        self.u_token[slot, :n_tokens] = sampling_draws(request.seed, ids, n_tokens)

    def record(self, slots: np.ndarray, **columns: np.ndarray) -> None:
        """Note one more token of each of these rows."""
        for name, values in columns.items():
            self.records[name][slots, self.n_generated[slots]] = values
        self.n_generated[slots] += 1
        room = self.u_exit.shape[1]
        if room < self.decoding.max_new_tokens and self.n_generated[slots].max() == room:
            self._make_room(min(room, self.decoding.max_new_tokens - room))

    def _make_room(self, n_tokens: int) -> None:
        """For so many more tokens of each row."""

        def longer(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values, np.zeros_like(values, shape=(self.n_slots, n_tokens, *values.shape[2:]))], 1)

        self.records = {name: longer(values) for name, values in self.records.items()}
        self.u_exit, self.u_token = longer(self.u_exit), longer(self.u_token)
        for slot in range(self.n_rows):
            self._draw(slot)

    def last_token(self) -> np.ndarray:
        rows = np.arange(self.n_rows)
        return self.records["token_id_T"][rows, self.n_generated[rows] - 1]

    def position(self) -> np.ndarray:
        """Where each row's last token is in its text."""
        return self.n_prompt[: self.n_rows] + self.n_generated[: self.n_rows] - 1

    def part_texts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of one text that took different tokens part. Texts then fill the first slots of the teacher's cache.

        Returns a row of each text (U,), padded; and the slots that have to be copied, from (P,) and to (P,).
        """
        text_B = self.text[: self.n_rows]
        _, row_U, group_B = np.unique((text_B << 32) + self.last_token(), return_index=True, return_inverse=True)
        source_U = text_B[row_U]
        stays_U = (np.diff(source_U, prepend=-1) > 0) & (source_U < len(source_U))
        slot_U = source_U.copy()
        slot_U[~stays_U] = np.setdiff1d(np.arange(len(source_U)), source_U[stays_U])
        text_B[:] = slot_U[group_B]
        return padded(row_U[np.argsort(slot_U)], self.n_slots), source_U[~stays_U], slot_U[~stays_U]

    def ended(self) -> np.ndarray:
        """Slots whose row is done or went astray, last first: the order in which they can be removed."""
        at_eos = np.isin(self.last_token(), list(self.decoding.eos_token_ids))
        at_limit = self.n_generated[: self.n_rows] >= self.limit[: self.n_rows]
        return np.flatnonzero(at_eos | at_limit | ~self._finite())[::-1]

    def outcome(self, slot: int) -> Outcome:
        """What the row in a slot left."""
        n_tokens = self.n_generated[slot]
        if not self._finite()[slot]:
            return Failure(f"the model's output is not finite at generated token {n_tokens - 1}")
        columns = {name: values[slot, :n_tokens].copy() for name, values in self.records.items()}
        at_eos = int(columns["token_id_T"][-1]) in self.decoding.eos_token_ids
        return Trace(finish_reason=EOS if at_eos else LENGTH, **columns)

    def _finite(self) -> np.ndarray:
        """Whether each row's last token has finite KLs, entropy, and log-probability where it was read."""
        rows = np.arange(self.n_rows)
        last = self.n_generated[rows] - 1
        finite_kl = np.isfinite(self.records["kl_TE"][rows, last]).all(-1)
        finite_entropy = np.isfinite(self.records["entropy_T"][rows, last])
        return finite_kl & finite_entropy & np.isfinite(self.records["exit_logprob_T"][rows, last])

    def remove(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Free slots, given last first; rows behind them move up.

        Returns the slots of the student's cache that have to be copied, from and to.
        """
        origin = np.arange(self.n_frozen)
        for slot in slots:
            if slot < self.n_frozen:
                self.n_frozen -= 1
                origin[slot] = origin[self.n_frozen]
                self._move(self.n_frozen, slot)
                slot = self.n_frozen
            self.n_rows -= 1
            self._move(self.n_rows, slot)
        origin = origin[: self.n_frozen]
        targets = np.flatnonzero(origin != np.arange(self.n_frozen))
        return origin[targets], targets

    def _move(self, source: int, target: int) -> None:
        columns = (self.request, self.text, self.n_prompt, self.n_generated, self.limit, self.decides, self.kl_factor)
        for column in (*columns, self.u_exit, self.u_token, *self.records.values()):
            column[target] = column[source]
