"""The rows in flight: which request each slot holds, how many tokens it has, and what was recorded of them.

Rows fill the slots from 0 without gaps, rows with a student first, so that every pass works on a leading part of the
cache. The teacher depends on nothing of a row but its prefix, which is all of its tokens so far: rows with equal
prefixes share one slot of the teacher's cache, until they generate different tokens. The bookkeeping is done on the
host, in arrays over slots.

Shapes: N slots, B rows in flight, U unique prefixes (padded: see `padded`), P prefixes to be copied, E exitable layers,
X = E + 1, K top tokens, T tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from eexit.cache import KVCache
from eexit.configuration import Configuration
from eexit.draws import exit_draws, sampling_draws
from eexit.rows import Decoding, Failure, Outcome, Request
from eexit.rules import RULES
from eexit.schema import EOS, LENGTH
from eexit.states import STATES, State
from eexit.trace import Trace, recorded

FIRST_ROOM_TOKENS: Final = 256  # records have room for so many tokens per row at first, and grow from there
NONE: Final = -1  # the index of a rule or a state for rows that have none
# Every new number of rows makes oneDNN compile its matrix products once more, which takes 0.9 ms and 0.65 MB on a CPU.
MAX_BATCH_SIZES: Final = 16


def padded(rows: np.ndarray, most: int) -> np.ndarray:
    """Repeat the last of these rows, so that their number is one of at most MAX_BATCH_SIZES up to `most`."""
    step = -(-most // MAX_BATCH_SIZES)
    n_rows = min(-(-len(rows) // step) * step, most)
    return np.pad(rows, (0, n_rows - len(rows)), mode="edge")


def students_of(configurations: Iterable[Configuration]) -> list[str]:
    """The modes whose exits alter what later tokens see, so that their rows need a student's cache."""
    modes = {configuration.mode for configuration in configurations}
    return [name for name, state in STATES.items() if name in modes and state.first_altered(0) is not None]


@dataclass(frozen=True)
class Layers:
    """Where rows may exit, and the fork: the last layer that no exit can alter.

    Up to and including the fork, teacher and student are the same pass with the same cache.
    """

    exits: np.ndarray  # (X,): the exitable layers, then the final one
    fork: int
    n_layers: int

    @property
    def kept(self) -> set[int]:
        """The layers whose residual streams a step uses."""
        return {*self.exits.tolist(), self.fork}

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The student's layers, cut where rows may exit: the first layer of each span, and the one after its last."""
        starts = {self.fork + 1, *(layer + 1 for layer in self.exits[:-1].tolist() if layer > self.fork)}
        return list(pairwise([*sorted(starts), self.n_layers]))


def find_layers(exitable_layers: Sequence[int], n_layers: int, states: Iterable[State]) -> Layers:
    """The layers and the fork for rows of these states."""
    altered = [state.first_altered(exitable_layers[0]) for state in states]
    first = min((layer for layer in altered if layer is not None), default=n_layers)
    return Layers(np.array([*exitable_layers, n_layers - 1]), min(first, n_layers) - 1, n_layers)


class Batch:
    """Slots for rows, and their caches: the student's has a slot per row, the teacher's a slot per unique prefix."""

    def __init__(self, n_slots: int, length: int, n_layers: int, decoding: Decoding, requests: Iterable[Request]):
        """Make room for `n_slots` of these requests at a time, of up to `length` tokens each."""
        n_tokens = min(decoding.max_new_tokens, FIRST_ROOM_TOKENS)
        configurations = {request.configuration for request in requests}
        rules = {configuration.rule for configuration in configurations if configuration.rule}
        self.rules = [name for name in RULES if name in rules]
        self.states = students_of(configurations)
        self.layers = find_layers(decoding.exitable_layers, n_layers, (STATES[name] for name in self.states))
        self.decoding, self.teacher, self.student = decoding, KVCache(n_slots, length), KVCache(n_slots, length)
        self.n_slots, self.n_rows, self.n_students = n_slots, 0, 0
        self.requests: dict[int, Request] = {}
        self.request = np.zeros(n_slots, np.int64)
        self.prefix = np.zeros(n_slots, np.int64)
        self.n_prompt = np.zeros(n_slots, np.int64)
        self.n_generated = np.zeros(n_slots, np.int64)
        self.limit = np.zeros(n_slots, np.int64)
        self.state = np.full(n_slots, NONE)
        self.rule = np.full(n_slots, NONE)
        self.setting = np.zeros((n_slots, len(decoding.exitable_layers)), np.float32)
        self.u_exit = np.zeros((n_slots, n_tokens), np.float32)
        self.u_token = np.zeros((n_slots, n_tokens), np.float32)
        sizes = {"E": len(decoding.exitable_layers), "X": len(self.layers.exits), "K": decoding.record_top_k}
        self.records = {
            field: np.zeros((n_slots, n_tokens, *(sizes[axis] for axis in axes)), column.kind.to_pandas_dtype())
            for field, _, axes, column in recorded()
        }

    def unused_prefix(self) -> int:
        """A slot of the teacher's cache that no row uses."""
        return int(np.setdiff1d(np.arange(self.n_slots), self.prefix[: self.n_rows])[0])

    def add(self, index: int, request: Request, prefix: int, limit: int) -> int:
        """Give request number `index` a slot, and return it.

        `prefix` is the slot of the teacher's cache with its prompt, and `limit` the number of tokens it may generate.
        """
        slot, configuration = self.n_rows, request.configuration
        if configuration.mode in self.states:
            self._move(self.n_students, slot)
            slot = self.n_students
            self.n_students += 1
        self.n_rows += 1
        ids = list(request.prompt_token_ids)
        self.request[slot], self.prefix[slot], self.limit[slot] = index, prefix, limit
        self.n_prompt[slot], self.n_generated[slot] = len(ids), 0
        self.state[slot] = self.states.index(configuration.mode) if configuration.mode in self.states else NONE
        self.rule[slot], self.setting[slot] = NONE, 0
        if configuration.rule:
            self.rule[slot] = self.rules.index(configuration.rule)
            rule = RULES[configuration.rule]
            self.setting[slot] = rule.setting(configuration.parameter, self.decoding.exitable_layers)
        self.requests[index] = request
        self._draw(slot)
        return slot

    def _draw(self, slot: int) -> None:
        """Fill in a row's uniform draws, for as many tokens as there is room for."""
        request = self.requests[int(self.request[slot])]
        ids, n_tokens = list(request.prompt_token_ids), min(int(self.limit[slot]), self.u_exit.shape[1])
        self.u_exit[slot, :n_tokens] = exit_draws(request.seed, ids, n_tokens)
        self.u_token[slot, :n_tokens] = sampling_draws(request.seed, ids, n_tokens)

    def record(self, slots: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Add a token to each of these rows: `columns` has a value per row for every recorded column."""
        assert columns.keys() == self.records.keys()
        for name, values in columns.items():
            self.records[name][slots, self.n_generated[slots]] = values
        self.n_generated[slots] += 1
        room = self.u_exit.shape[1]
        if room < self.decoding.max_new_tokens and self.n_generated[slots].max() == room:
            self._make_room(min(room, self.decoding.max_new_tokens - room))

    def _make_room(self, n_tokens: int) -> None:
        """Lengthen the records of every row by so many tokens."""

        def longer(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values, np.zeros_like(values, shape=(self.n_slots, n_tokens, *values.shape[2:]))], 1)

        self.records = {name: longer(values) for name, values in self.records.items()}
        self.u_exit, self.u_token = longer(self.u_exit), longer(self.u_token)
        for slot in range(self.n_rows):
            self._draw(slot)

    def last_token(self) -> np.ndarray:
        """Each row's last token id: (B,)."""
        rows = np.arange(self.n_rows)
        return self.records["token_id_T"][rows, self.n_generated[rows] - 1]

    def position(self) -> np.ndarray:
        """The position of each row's last token, the prompt included: (B,)."""
        return self.n_prompt[: self.n_rows] + self.n_generated[: self.n_rows] - 1

    def split_prefixes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give rows that shared a prefix, and then generated different tokens, different slots of the teacher's cache.

        The U unique prefixes fill the first slots. Returns one row of each prefix (U,), padded, and the slots of the
        teacher's cache that have to be copied: from (P,) and to (P,).
        """
        prefix_B = self.prefix[: self.n_rows]
        _, row_U, group_B = np.unique((prefix_B << 32) + self.last_token(), return_index=True, return_inverse=True)
        source_U = prefix_B[row_U]
        stays_U = (np.diff(source_U, prepend=-1) > 0) & (source_U < len(source_U))
        slot_U = source_U.copy()
        slot_U[~stays_U] = np.setdiff1d(np.arange(len(source_U)), source_U[stays_U])
        prefix_B[:] = slot_U[group_B]
        return padded(row_U[np.argsort(slot_U)], self.n_slots), source_U[~stays_U], slot_U[~stays_U]

    def ended(self) -> np.ndarray:
        """Slots whose row has ended or is no longer finite, in descending order, which `remove` needs."""
        at_eos = np.isin(self.last_token(), list(self.decoding.eos_token_ids))
        at_limit = self.n_generated[: self.n_rows] >= self.limit[: self.n_rows]
        return np.flatnonzero(at_eos | at_limit | ~self._finite())[::-1]

    def outcome(self, slot: int) -> Outcome:
        """The trace of the row in a slot, or why it failed."""
        n_tokens = self.n_generated[slot]
        if not self._finite()[slot]:
            return Failure(f"the model's output is not finite at generated token {n_tokens - 1}")
        columns = {name: values[slot, :n_tokens].copy() for name, values in self.records.items()}
        at_eos = int(columns["token_id_T"][-1]) in self.decoding.eos_token_ids
        return Trace(finish_reason=EOS if at_eos else LENGTH, **columns)

    def _finite(self) -> np.ndarray:
        """Whether KLs, entropy and log-probability of each row's last token are all finite: (B,)."""
        rows = np.arange(self.n_rows)
        last = self.n_generated[rows] - 1
        finite_kl = np.isfinite(self.records["kl_TE"][rows, last]).all(-1)
        finite_entropy = np.isfinite(self.records["entropy_T"][rows, last])
        return finite_kl & finite_entropy & np.isfinite(self.records["exit_logprob_T"][rows, last])

    def remove(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Free these slots, which are in descending order, and fill the gaps with rows from higher slots.

        Returns the slots of the student's cache that have to be copied: from and to.
        """
        origin = np.arange(self.n_students)
        for slot in slots:
            if slot < self.n_students:
                self.n_students -= 1
                origin[slot] = origin[self.n_students]
                self._move(self.n_students, slot)
                slot = self.n_students
            self.n_rows -= 1
            self._move(self.n_rows, slot)
        origin = origin[: self.n_students]
        targets = np.flatnonzero(origin != np.arange(self.n_students))
        return origin[targets], targets

    def _move(self, source: int, target: int) -> None:
        of_rows = (self.request, self.prefix, self.n_prompt, self.n_generated, self.limit)
        of_exits = (self.state, self.rule, self.setting, self.u_exit, self.u_token)
        for column in (*of_rows, *of_exits, *self.records.values()):
            column[target] = column[source]
