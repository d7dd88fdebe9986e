"""The rows in flight: which request sits in which slot, how far it is, and what it left so far.

Rows fill the slots from 0 without gaps, those with a student first, so that every pass works on a leading part of the
cache. The teacher sees nothing of a row but its text, the tokens so far: rows that have the same share a slot of
its cache until they take different tokens. The bookkeeping is on the host, in arrays over slots.

Shapes: N slots, B rows in flight, U texts of theirs (or a few more), E exitable layers, X = E + 1, K top tokens,
T tokens.
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

ROOM: Final = 256  # tokens of a row that there is room for at first; the most it may make can be any number
NONE: Final = -1  # the rule and the state of rows that draw no exit, and the state of those that alter nothing
SIZES: Final = 16  # for every new number of rows a CPU's products compile code, in 0.9 ms, and keep it, in 0.65 MB


def padded(rows: np.ndarray, most: int) -> np.ndarray:
    """These rows, the last of them over and over, so that there is one of SIZES numbers of them up to `most`."""
    step = -(-most // SIZES)
    n_rows = min(-(-len(rows) // step) * step, most)
    return np.pad(rows, (0, n_rows - len(rows)), mode="edge")


def students_of(configurations: Iterable[Configuration]) -> list[str]:
    """The modes whose exits alter what later tokens see, so that their rows have a cache of their own."""
    modes = {configuration.mode for configuration in configurations}
    return [name for name, state in STATES.items() if name in modes and state.first_altered(0) is not None]


@dataclass(frozen=True)
class Layers:
    """Where rows may exit, and the fork: up to this layer, teacher and student are one pass and one cache.

    An exit changes what later tokens see from the first layer on that any of the states alters; up to there the student
    is the teacher.
    """

    exits: np.ndarray  # (X,): the exitable layers, and the final one
    fork: int
    n_layers: int

    @property
    def kept(self) -> set[int]:
        """Layers whose residual stream a step needs."""
        return {*self.exits.tolist(), self.fork}

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The student's layers, in stretches throughout which the same rows go on: first layer, and past the last."""
        starts = {self.fork + 1, *(layer + 1 for layer in self.exits[:-1].tolist() if layer > self.fork)}
        return list(pairwise([*sorted(starts), self.n_layers]))


def find_layers(exitable_layers: Sequence[int], n_layers: int, states: Iterable[State]) -> Layers:
    """For rows of these states, which all alter something."""
    altered = [state.first_altered(exitable_layers[0]) for state in states]
    first = min((layer for layer in altered if layer is not None), default=n_layers)
    return Layers(np.array([*exitable_layers, n_layers - 1]), min(first, n_layers) - 1, n_layers)


class Batch:
    """Slots for rows, and their caches: the student's by row, the teacher's by text."""

    def __init__(self, n_slots: int, length: int, n_layers: int, decoding: Decoding, requests: Iterable[Request]):
        """For some of these requests at a time."""
        n_tokens = min(decoding.max_new_tokens, ROOM)
        configurations = {request.configuration for request in requests}
        rules = {configuration.rule for configuration in configurations if configuration.rule}
        self.rules = [name for name in RULES if name in rules]
        self.states = students_of(configurations)
        self.layers = find_layers(decoding.exitable_layers, n_layers, (STATES[name] for name in self.states))
        self.decoding, self.teacher, self.student = decoding, KVCache(n_slots, length), KVCache(n_slots, length)
        self.n_slots, self.n_rows, self.n_students = n_slots, 0, 0
        self.requests: dict[int, Request] = {}
        self.request = np.zeros(n_slots, np.int64)
        self.text = np.zeros(n_slots, np.int64)
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

    def unused_text(self) -> int:
        """A slot of the teacher's cache that no row needs."""
        return int(np.setdiff1d(np.arange(self.n_slots), self.text[: self.n_rows])[0])

    def add(self, index: int, request: Request, text: int, limit: int) -> int:
        """Give request number `index`, that may make `limit` tokens and starts with this text, a slot."""
        slot, configuration = self.n_rows, request.configuration
        if configuration.mode in self.states:
            self._move(self.n_students, slot)
            slot = self.n_students
            self.n_students += 1
        self.n_rows += 1
        ids = list(request.prompt_token_ids)
        self.request[slot], self.text[slot], self.limit[slot] = index, text, limit
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
        """The draws of a row's tokens, as many as there is room for."""
        request = self.requests[int(self.request[slot])]
        ids, n_tokens = list(request.prompt_token_ids), min(int(self.limit[slot]), self.u_exit.shape[1])
        self.u_exit[slot, :n_tokens] = exit_draws(request.seed, ids, n_tokens)
        self.u_token[slot, :n_tokens] = sampling_draws(request.seed, ids, n_tokens)

    def record(self, slots: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Note one more token of each of these rows: every recorded column of it."""
        assert columns.keys() == self.records.keys()
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
        of_rows = (self.request, self.text, self.n_prompt, self.n_generated, self.limit)
        of_exits = (self.state, self.rule, self.setting, self.u_exit, self.u_token)
        for column in (*of_rows, *of_exits, *self.records.values()):
            column[target] = column[source]
