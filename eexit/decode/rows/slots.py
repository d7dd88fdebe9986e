"""Slots for rows in flight: which request each holds, how many tokens it has, and what was recorded of them.

Rows fill the slots from 0 without gaps. The bookkeeping is done on the host, in arrays over slots.

Shapes: N slots, B rows in flight, E exitable layers, X = E + 1 with the final layer last, K top tokens, T tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from eexit.decode.costs.counting import Counts
from eexit.decode.rows.requests import Decoding, Failure, Outcome, Request, RowSoFar
from eexit.decode.trace import Trace
from eexit.method.draws import exit_draws, sampling_draws
from eexit.method.rules import RULES
from eexit.method.states import STATES
from eexit.plan.configuration import PERFECT, Exit
from eexit.results.token_columns import EOS, LENGTH, STOP, recorded

FIRST_ROOM_TOKENS: Final = 256  # records have room for so many tokens per row at first, and grow from there
NONE: Final = -1  # the index of a rule, a state or a layer where there is none


class GateAt(NamedTuple):
    """The rule whose gate rows use, as `Gate.rules` names it, and from which chance on it lets them through."""

    rule: str
    threshold: float


class RuleOfRows(NamedTuple):
    """A rule and where it looks: indices into the exitable layers, and there, what a gate lets through."""

    name: str
    ranks: tuple[int, ...]
    gate: GateAt | None = None

    @classmethod
    def of(cls, configuration: Exit, exitable_layers: Sequence[int]) -> "RuleOfRows":
        gate = None
        if configuration.gate not in (None, PERFECT):  # whose exits are those without a gate
            gate = GateAt(configuration.gated_rule, float(configuration.gate))
        return cls(configuration.rule, configuration.ranks(exitable_layers), gate)


@dataclass(frozen=True)
class Layers:
    """Where rows may exit, and the fork: the last layer that no exit can alter.

    Up to and including the fork, teacher and student are the same pass with the same cache; it is `NONE` if they have
    no layer in common.
    """

    exits: np.ndarray  # (X,): the exitable layers, then the final one
    fork: int
    n_layers: int

    @property
    def segments(self) -> list[tuple[int, int]]:
        """All layers, cut where rows may exit: the first layer of each segment, and the one after its last."""
        return list(pairwise([0, *(self.exits + 1).tolist()]))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The student's layers, cut where rows may exit: the first layer of each span, and the one after its last."""
        starts = {self.fork + 1, *(layer + 1 for layer in self.exits[:-1].tolist() if layer > self.fork)}
        return list(pairwise([*sorted(starts), self.n_layers]))


def find_layers(exitable_layers: Sequence[int], n_layers: int, modes: Iterable[str] | None = None) -> Layers:
    """The layers and, beside a teacher of the same decoder, the fork of students in these modes."""
    exits = np.array([*exitable_layers, n_layers - 1])
    if modes is None:
        return Layers(exits, NONE, n_layers)
    altered = [STATES[mode].first_altered(exitable_layers[0]) for mode in modes]
    first = min((layer for layer in altered if layer is not None), default=n_layers)
    return Layers(exits, min(first, n_layers) - 1, n_layers)


class Slots:
    """Slots for rows of these requests; what a loop does with its rows is in the classes that stand on this one."""

    def __init__(self, n_slots: int, decoding: Decoding, layers: Layers, requests: Iterable[Request]):
        n_tokens = min(decoding.max_new_tokens, FIRST_ROOM_TOKENS)
        exits = {request.configuration for request in requests if isinstance(request.configuration, Exit)}
        self.rules = sorted(
            {RuleOfRows.of(exiting, decoding.exitable_layers) for exiting in exits},
            key=lambda rule: (list(RULES).index(rule.name), rule.ranks, rule.gate or ()),
        )
        self.states = [name for name in STATES if name in {exiting.state for exiting in exits}]
        self.decoding, self.layers, self.n_slots, self.n_rows = decoding, layers, n_slots, 0
        self.requests: dict[int, Request] = {}
        self.request = np.zeros(n_slots, np.int64)
        self.n_prompt = np.zeros(n_slots, np.int64)
        self.n_generated = np.zeros(n_slots, np.int64)
        self.limit = np.zeros(n_slots, np.int64)
        self.state = np.full(n_slots, NONE)
        self.rule = np.full(n_slots, NONE)
        self.parameter = np.zeros((n_slots, len(decoding.exitable_layers)), np.float32)
        self.u_exit = np.zeros((n_slots, n_tokens), np.float32)
        self.u_token = np.zeros((n_slots, n_tokens), np.float32)
        self.counts: dict[str, np.ndarray] = {}  # what was run for each decided token, where that is counted
        sizes = {"E": len(decoding.exitable_layers), "X": len(decoding.exitable_layers) + 1, "K": decoding.record_top_k}
        self.records = {
            field: np.zeros((n_slots, n_tokens, *(sizes[axis] for axis in axes)), column.kind.to_pandas_dtype())
            for field, _, axes, column in recorded(decoding.observe)
        }

    def add(self, index: int, request: Request, limit: int) -> int:
        """Give request number `index`, which may generate `limit` tokens, a slot, and return it."""
        slot, configuration = self._new_slot(request), request.configuration
        n_prompt = len(request.prompt_token_ids)
        self.request[slot], self.n_prompt[slot], self.limit[slot], self.n_generated[slot] = index, n_prompt, limit, 0
        self.state[slot] = self.states.index(configuration.mode) if configuration.mode in self.states else NONE
        self.rule[slot], self.parameter[slot] = NONE, 0
        if isinstance(configuration, Exit):
            self.rule[slot] = self.rules.index(RuleOfRows.of(configuration, self.decoding.exitable_layers))
            self.parameter[slot] = configuration.per_layer(self.decoding.exitable_layers)
        for values in (*self.counts.values(), *self.records.values()):
            values[slot] = 0
        self.requests[index] = request
        self._draw(slot)
        return slot

    def _new_slot(self, request: Request) -> int:
        self.n_rows += 1
        return self.n_rows - 1

    def _draw(self, slot: int) -> None:
        """Fill in a row's uniform draws, for as many tokens as there is room for."""
        request = self.requests[int(self.request[slot])]
        ids, n_tokens = list(request.prompt_token_ids), min(int(self.limit[slot]), self.u_exit.shape[1])
        self.u_exit[slot, :n_tokens] = exit_draws(request.seed, ids, n_tokens)
        self.u_token[slot, :n_tokens] = sampling_draws(request.seed, ids, n_tokens)

    def record(self, slots: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Add a token to each of these rows: `columns` has a value per row for every column that the loop records."""
        for name, values in columns.items():
            self.records[name][slots, self.n_generated[slots]] = values
        self.n_generated[slots] += 1
        self.make_room_for(int(self.n_generated[slots].max()) + 1)

    def make_room_for(self, n_tokens: int) -> None:
        """Have records and draws for so many tokens of each row, as far as rows may get."""
        while (room := self.u_exit.shape[1]) < min(n_tokens, self.decoding.max_new_tokens):
            self._lengthen(min(room, self.decoding.max_new_tokens - room))

    def _lengthen(self, n_tokens: int) -> None:
        """Lengthen the records of every row by so many tokens."""

        def longer(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values, np.zeros_like(values, shape=(self.n_slots, n_tokens, *values.shape[2:]))], 1)

        self.records = {name: longer(values) for name, values in self.records.items()}
        self.counts.update({name: longer(values) for name, values in self.counts.items()})
        self.u_exit, self.u_token = longer(self.u_exit), longer(self.u_token)
        for slot in range(self.n_rows):
            self._draw(slot)

    @property
    def n_tokens(self) -> int:
        """Tokens that the rows in flight have generated."""
        return int(self.n_generated[: self.n_rows].sum())

    def last_token(self) -> np.ndarray:
        """Each row's last token id: (B,)."""
        rows = np.arange(self.n_rows)
        return self.records["token_id_T"][rows, self.n_generated[rows] - 1]

    def position(self) -> np.ndarray:
        """The position of each row's last token, the prompt included: (B,)."""
        return self.n_prompt[: self.n_rows] + self.n_generated[: self.n_rows] - 1

    def ended(self) -> np.ndarray:
        """Slots whose row has ended or is no longer finite, in descending order, which `remove` needs."""
        rows = np.arange(self.n_rows)
        at_eos = np.isin(self.last_token(), list(self.decoding.eos_token_ids))
        at_limit = self.n_generated[rows] >= self.limit[rows]
        ends = at_eos | at_limit | ~self._finite(rows, self.n_generated[rows] - 1)
        if stops := self.decoding.stops:
            ends |= np.array([stops(self.so_far(slot)) for slot in rows.tolist()], np.bool_)
        return np.flatnonzero(ends)[::-1]

    def so_far(self, slot: int) -> RowSoFar:
        """What the row in a slot has generated."""
        n_tokens = self.n_generated[slot]
        token_ids, exit_layers = (
            self.records[name][slot, :n_tokens].tolist() for name in ("token_id_T", "exit_layer_T")
        )
        return RowSoFar(self.requests[int(self.request[slot])], token_ids, exit_layers)

    def outcome(self, slot: int) -> Outcome:
        """The trace of the row in a slot, or why it failed."""
        n_tokens = int(self.n_generated[slot])
        infinite = np.flatnonzero(~self._finite(slot, np.arange(n_tokens)))
        if len(infinite):
            return Failure(f"the model's output is not finite at generated token {infinite[0]}")
        columns = {field: np.zeros(0) for field, *_ in recorded()}
        columns |= {name: values[slot, :n_tokens].copy() for name, values in self.records.items()}
        reason = STOP if n_tokens < self.limit[slot] else LENGTH
        if int(columns["token_id_T"][-1]) in self.decoding.eos_token_ids:
            reason = EOS
        counts = {name: values[slot, : n_tokens - 1].copy() for name, values in self.counts.items()}
        counted = Counts(input_index_T=np.arange(n_tokens - 1), **counts) if counts else None
        return Trace(finish_reason=reason, counts=counted, rounds=None, **columns)

    def _finite(self, slots: np.ndarray | int, tokens: np.ndarray) -> np.ndarray:
        """Whether KLs, entropy and log-probability of these tokens, as far as they are recorded, are all finite."""
        finite: np.ndarray = np.isfinite(self.records["exit_logprob_T"][slots, tokens])
        if "kl_TE" in self.records:
            finite = finite & np.isfinite(self.records["kl_TE"][slots, tokens]).all(-1)
        if "entropy_T" in self.records:
            finite = finite & np.isfinite(self.records["entropy_T"][slots, tokens])
        return finite

    def _move(self, source: int, target: int) -> None:
        for column in (*self._of_rows(), *self.records.values(), *self.counts.values()):
            column[target] = column[source]

    def _of_rows(self) -> list[np.ndarray]:
        of_rows = [self.request, self.n_prompt, self.n_generated, self.limit]
        return [*of_rows, self.state, self.rule, self.parameter, self.u_exit, self.u_token]
