"""Rows in flight: which request each holds, its tokens, and what is recorded of them.

Rows fill slots from 0 without gaps. What is asked of them is kept on the host, and sent to the device when rows come or
go; what is recorded is kept on the device, and copied when a row ends. The latest token of each row is in the same
column of the caches.

Shapes: S slots, B rows in flight, E exitable layers, X = E + 1 with the final layer last, K top tokens, P a row's
generated tokens, N tokens of one row, C columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eexit.decode.costs import Ran
from eexit.decode.requests import Decoding, Failure, Outcome, Request, RowSoFar, Trace
from eexit.method.rules import RULES
from eexit.method.states import STATES
from eexit.method.stick_breaking import exit_draws, sampling_draws
from eexit.model.cache import SLACK_COLUMNS
from eexit.model.layers import Decoder
from eexit.plan.configuration import PERFECT, Exit
from eexit.plan.runs import EOS, LENGTH, STOP
from eexit.results.token_columns import recorded

FIRST_ROOM_TOKENS: Final = 256  # records have room for so many tokens per row at first, and grow from there
NONE: Final = -1  # the index of a rule, a state or a layer where there is none
ALIGNMENT_BYTES: Final = 8  # of arrays that are copied together: enough for any dtype
MISSED: Final = "missed_T"  # recorded beside the columns of a trace: whether a screen let the token exit by mistake


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


@dataclass
class AskedOfRows:
    """What is asked of the rows in flight, on the device, and how far they are."""

    rule_B: Tensor  # an index into `Rows.rules`; NONE for `normal`
    state_B: Tensor  # an index into `Rows.states`; NONE where exits leave nothing behind
    parameter_BE: Tensor  # of the rule; NaN outside the exit set
    u_exit_BP: Tensor
    u_token_BP: Tensor
    slot_B: Tensor
    first_B1: Tensor  # the column of the row's first token
    token_B1: Tensor  # the latest one
    n_tokens_B1: Tensor  # generated so far
    position_B1: Tensor  # of the latest one


class CheckedNumbers:
    """Says when numbers of custom rules and modes are checked: always on a CPU, elsewhere once a batch.

    Elsewhere, the host has to wait for the device.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def are_due(self, name: str, device: torch.device) -> bool:
        """Return True if the numbers of this rule or mode are to be checked now, and note that they are."""
        is_first = name not in self.names
        self.names.add(name)
        return is_first or device.type == "cpu"


class Rows:
    """Slots for rows of these requests, of up to `length` tokens each."""

    def __init__(self, n_slots: int, decoding: Decoding, requests: Sequence[Request], decoder: Decoder):
        n_exits, n_tokens = len(decoding.exitable_layers), min(decoding.max_new_tokens, FIRST_ROOM_TOKENS)
        exits = {request.configuration for request in requests if isinstance(request.configuration, Exit)}
        self.rules = sorted(
            {RuleOfRows.of(exiting, decoding.exitable_layers) for exiting in exits},
            key=lambda rule: (list(RULES).index(rule.name), rule.ranks, rule.gate or ()),
        )
        self.states = [name for name in STATES if name in {exiting.state for exiting in exits}]
        self.layer_X = np.array([*decoding.exitable_layers, decoder.n_layers - 1])
        self.decoding, self.device, self.n_slots, self.n_rows = decoding, decoder.device, n_slots, 0
        self.longest_prompt = max(len(request.prompt_token_ids) for request in requests)
        self.end = self.longest_prompt  # behind the column of the rows' latest token but one
        self.requests: dict[int, Request] = {}
        self.checked = CheckedNumbers()
        self.request, self.n_prompt, self.n_tokens, self.limit = np.zeros((4, n_slots), np.int64)
        self.rule, self.state = np.full((2, n_slots), NONE)
        self.prefix = np.zeros(n_slots, np.int64)  # beside a teacher: the slot of its cache that a row shares
        self.parameter = np.zeros((n_slots, n_exits), np.float32)
        self.u_exit, self.u_token = np.zeros((2, n_slots, n_tokens), np.float32)
        self.token, self.exit_layer = np.zeros((2, n_slots, n_tokens), np.int64)
        self.is_finite = np.ones(n_slots, bool)
        self.records = self._records(n_tokens)
        self._asked: AskedOfRows | None = None

    # ---- rows come and go

    def add(self, slot: int, index: int, request: Request, limit: int) -> None:
        """Put request number `index`, which may generate `limit` tokens, into a free slot."""
        n_prompt, configuration = len(request.prompt_token_ids), request.configuration
        self.request[slot], self.n_prompt[slot], self.limit[slot], self.n_tokens[slot] = index, n_prompt, limit, 0
        self.state[slot] = self.states.index(configuration.mode) if configuration.mode in self.states else NONE
        self.rule[slot], self.parameter[slot], self.is_finite[slot] = NONE, 0, True
        if isinstance(configuration, Exit):
            self.rule[slot] = self.rules.index(RuleOfRows.of(configuration, self.decoding.exitable_layers))
            self.parameter[slot] = configuration.per_layer(self.decoding.exitable_layers)
        self.requests[index] = request
        self.n_rows += 1
        self._draw(slot)
        self._asked = None

    def move(self, source: int, target: int) -> None:
        """Put the row of one slot into another one."""
        for column in (
            self.request, self.n_prompt, self.n_tokens, self.limit, self.rule, self.state, self.parameter, self.prefix,
            self.u_exit, self.u_token, self.token, self.exit_layer, self.is_finite,
        ):  # fmt: skip
            column[target] = column[source]
        for record in self.records.values():
            record[target] = record[source]
        self._asked = None

    def drop_last(self) -> None:
        """Free the last slot that is in use."""
        self.n_rows -= 1
        self._asked = None

    def shift(self) -> int:
        """Return by how many columns, unused by now, the caches are to move to the left; 0 while these are few."""
        unused = min(self.first_column, self.end - self.longest_prompt)
        if unused < SLACK_COLUMNS:
            return 0
        self.end -= unused
        self._asked = None
        return unused

    def make_room_for(self, n_tokens: int) -> None:
        """Make room for the records and draws of `n_tokens` tokens of each row, or as many as rows may get."""
        while (room := self.u_exit.shape[1]) < min(n_tokens, self.decoding.max_new_tokens):
            more = min(room, self.decoding.max_new_tokens - room)
            for name in ("u_exit", "u_token", "token", "exit_layer"):
                setattr(self, name, np.pad(getattr(self, name), ((0, 0), (0, more))))
            for name, record in self._records(more).items():
                self.records[name] = torch.cat([self.records[name], record], 1)
            for slot in range(self.n_rows):
                self._draw(slot)
            self._asked = None

    @torch.inference_mode()
    def _records(self, n_tokens: int) -> dict[str, Tensor]:
        """Room for what is recorded of `n_tokens` tokens of each row, filled with what holds of `normal`."""
        n_exits, rows = len(self.decoding.exitable_layers), (self.n_slots, n_tokens)
        sizes = {"E": n_exits, "X": n_exits + 1, "K": self.decoding.record_top_k}
        found = {MISSED: torch.zeros(*rows, device=self.device)}
        for field, _, axes, column in recorded(self.decoding.observe):
            kind = torch.from_numpy(np.zeros(0, column.kind.to_pandas_dtype())).dtype
            found[field] = torch.zeros(*rows, *(sizes[axis] for axis in axes), dtype=kind, device=self.device)
        found["exit_prob_TX"][..., -1].fill_(1), found["evidence_TE"].fill_(torch.nan)
        return found

    def _draw(self, slot: int) -> None:
        """Fill in a row's uniform draws, for as many tokens as there is room for."""
        request = self.requests[int(self.request[slot])]
        ids, n_tokens = list(request.prompt_token_ids), min(int(self.limit[slot]), self.u_exit.shape[1])
        self.u_exit[slot, :n_tokens] = exit_draws(request.seed, ids, n_tokens)
        self.u_token[slot, :n_tokens] = sampling_draws(request.seed, ids, n_tokens)

    # ---- how far they are

    @property
    def slots(self) -> np.ndarray:
        """The slots in use, (B,)."""
        return np.arange(self.n_rows)

    @property
    def all_exit(self) -> bool:
        """Whether every row has a rule."""
        return bool((self.rule[: self.n_rows] != NONE).all())

    @property
    def first(self) -> np.ndarray:
        """The column of each row's first token, (B,); the latest token is not in a cache yet."""
        first_B: np.ndarray = self.end + 1 - (self.n_prompt + self.n_tokens)[: self.n_rows]
        return first_B

    @property
    def first_column(self) -> int:
        """The first column that holds a token of a row in flight."""
        return int(self.first.min())

    @property
    def last_token(self) -> np.ndarray:
        """Each row's latest token id, (B,)."""
        last_B: np.ndarray = self.token[self.slots, self.n_tokens[: self.n_rows] - 1]
        return last_B

    @property
    def asked(self) -> AskedOfRows:
        """What is asked of the rows in flight, on the device: sent where rows have come or gone, else as it was."""
        if self._asked is None:
            part, n_tokens_B1 = slice(self.n_rows), self.n_tokens[: self.n_rows, None]
            arrays = (
                self.rule[part], self.state[part], self.parameter[part], self.u_exit[part], self.u_token[part],
                self.slots, self.first[:, None], self.last_token[:, None], n_tokens_B1,
                self.n_prompt[part, None] + n_tokens_B1 - 1,
            )  # fmt: skip
            self._asked = AskedOfRows(*to_device([array.copy() for array in arrays], self.device))
        return self._asked

    def seen(self, n_columns: int) -> Tensor:
        """Flag the columns from `first_column` to before `n_columns` that hold tokens of each row: (B, C) bool."""
        return torch.arange(self.first_column, n_columns, device=self.device) >= self.asked.first_B1

    def prompt(self, slot: int) -> tuple[int, ...]:
        """Return the token ids of the prompt of the row in a slot."""
        return self.requests[int(self.request[slot])].prompt_token_ids

    def record(self, columns: Mapping[str, Tensor], slots: np.ndarray | None = None) -> None:
        """Add a token to rows; `columns` has a value per row for each column that is recorded.

        Without `slots`, to all rows, and what is asked of them goes on where it is. Here the host waits for the device.
        """
        parts = columns["token_id_T"], columns["exit_layer_T"], finite(columns)
        said = torch.stack([part.long() for part in parts]).cpu().numpy()
        at = (slots, self.n_tokens[slots]) if slots is not None else (self.slots, self.n_tokens[: self.n_rows])
        self.token[at], self.exit_layer[at], self.is_finite[at[0]] = said[0], said[1], said[2] > 0
        if slots is None:
            asked = self.asked
            sent = [asked.slot_B, asked.n_tokens_B1[:, 0]]
            asked.token_B1 = columns["token_id_T"][:, None]
            asked.n_tokens_B1, asked.position_B1 = asked.n_tokens_B1 + 1, asked.position_B1 + 1
        else:
            sent, self._asked = to_device([part.copy() for part in at], self.device), None
        for name, record in self.records.items():
            if name in columns and record.numel():
                record[sent[0], sent[1]] = columns[name].to(record.dtype)
        self.n_tokens[at[0]] += 1
        self.make_room_for(int(self.n_tokens[: self.n_rows].max()) + 1)

    # ---- how they end

    def ended(self) -> np.ndarray:
        """Return the slots whose row has ended or is no longer finite, in descending order."""
        at_eos = np.isin(self.last_token, list(self.decoding.eos_token_ids))
        ends = at_eos | (self.n_tokens >= self.limit)[: self.n_rows] | ~self.is_finite[: self.n_rows]
        if stops := self.decoding.stops:
            ends |= np.array([stops(self.so_far(slot)) for slot in self.slots.tolist()], np.bool_)
        return np.flatnonzero(ends)[::-1]

    def so_far(self, slot: int) -> RowSoFar:
        """Return what the row in a slot has generated."""
        n_tokens, request = self.n_tokens[slot], self.requests[int(self.request[slot])]
        return RowSoFar(request, self.token[slot, :n_tokens].tolist(), self.exit_layer[slot, :n_tokens].tolist())

    def outcome(self, slot: int) -> Outcome:
        """Return the trace of the row in a slot, or why it failed."""
        n_tokens = int(self.n_tokens[slot])
        of_row = {name: record[slot, :n_tokens].cpu() for name, record in self.records.items()}
        infinite = np.flatnonzero(~finite(of_row).numpy())
        if len(infinite):
            return Failure(f"the model's output is not finite at generated token {infinite[0]}")
        columns = {field: np.zeros(0) for field, *_ in recorded()}
        columns |= {name: part.numpy().copy() for name, part in of_row.items()}
        reason = STOP if n_tokens < self.limit[slot] else LENGTH
        if int(columns["token_id_T"][-1]) in self.decoding.eos_token_ids:
            reason = EOS
        configuration, missed_T = self.requests[int(self.request[slot])].configuration, columns.pop(MISSED)
        ran = Ran(columns["exit_layer_T"][1:], columns["evidence_TE"][1:], missed_T[1:] > 0, bool(self.decoding.screen))
        counts = ran.counts(configuration, self.layer_X)
        return Trace(finish_reason=reason, counts=counts, rounds=None, **columns)


def finite(columns: Mapping[str, Tensor]) -> Tensor:
    """Flag tokens whose KLs, entropy and log-probability, as far as recorded, are finite: (N,) bool."""
    is_finite = columns["exit_logprob_T"].isfinite()
    if "entropy_T" in columns:
        is_finite = is_finite & columns["entropy_T"].isfinite()
    if "kl_TE" in columns:
        is_finite = is_finite & columns["kl_TE"].isfinite().all(-1)
    return is_finite


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Return arrays as tensors on a device, copied together and asynchronously; on a CPU, they share memory."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    ends = np.cumsum([-(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for array in arrays])
    whole = torch.empty(int(ends[-1]), dtype=torch.uint8)
    for array, start in zip(arrays, [0, *ends], strict=False):
        whole.numpy()[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    can_pin = device.type != "mps"
    sent = (whole.pin_memory() if can_pin else whole).to(device, non_blocking=can_pin)
    return [
        sent[start : start + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        for array, start in zip(arrays, [0, *ends], strict=False)
    ]
