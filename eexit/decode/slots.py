"""Slots of a batch: which request each holds, its tokens, and what is recorded of them.

Requests fill slots from 0 without gaps. What they ask for is kept on the host, and sent to the device when they come or
go; what is recorded is kept on the device, and copied when a request ends. The latest token of each slot is in the
same column of the KV caches.

Shapes: S slots, B slots in flight, E exitable layers, X = E + 1 with the final layer last, K top tokens, P generated
tokens of a slot, N tokens, C columns.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.costs import run_counts
from eexit.decode.groups import Criterion, ExitPlan, SlotGroup, criterion_of
from eexit.decode.requests import DecodingConfig, Outcome, PartialOutput, Request, RequestFailure, RequestOutput
from eexit.method.modes import MODES, Mode
from eexit.method.stick_breaking import exit_draws, sampling_draws
from eexit.model.cache import SLACK_COLUMNS
from eexit.model.layers import Decoder, ForwardInputs
from eexit.plan.configuration import EarlyExit
from eexit.plan.runs import EOS, LENGTH, STOP
from eexit.results.token_columns import recorded

FIRST_ROOM_TOKENS: Final = 256  # records have room for so many tokens of a slot at first, and grow from there
ALIGNMENT_BYTES: Final = 8  # of arrays that are copied together: enough for any dtype
MISSED: Final = "missed_T"  # recorded beside the columns of a trace: whether a screen let the token exit by mistake


@dataclass
class DeviceSlots:
    """Device copy of what slots ask for and how far they are; sent when requests come or go, updated by each step."""

    groups: list[SlotGroup]  # of all slots in flight
    modes: list[tuple[Mode, Tensor | None]]  # of those with an early-exit pass
    parameter_BE: Tensor  # of the rule; NaN outside the exit set
    u_exit_BP: Tensor
    u_token_BP: Tensor
    slot_B: Tensor
    first_B1: Tensor  # the column of the first token
    token_B1: Tensor  # the latest one
    n_tokens_B1: Tensor  # generated so far
    position_B1: Tensor  # of the latest one
    layer_X: Tensor


class SlotTable:
    """The slots of a batch, of which the first `n_early` have an early-exit pass."""

    def __init__(self, n_slots: int, decoding: DecodingConfig, requests: Sequence[Request], decoder: Decoder):
        n_exits, n_tokens = len(decoding.exitable_layers), min(decoding.max_new_tokens, FIRST_ROOM_TOKENS)
        self.layer_X = np.array([*decoding.exitable_layers, decoder.n_layers - 1])
        self.decoding, self.device, self.n_slots, self.n_rows, self.n_early = decoding, decoder.device, n_slots, 0, 0
        self.longest_prompt = max(len(request.prompt_token_ids) for request in requests)
        self.end = self.longest_prompt  # behind the column of the latest tokens but one
        self.requests: dict[int, Request] = {}
        self.checked: set[str] = set()  # custom rules and modes whose numbers have been checked
        self.request, self.n_prompt, self.n_tokens, self.limit = np.zeros((4, n_slots), np.int64)
        self.exits: list[tuple[Criterion, Mode] | None] = [None] * n_slots  # None: `normal`, or a draft
        self.prefix = np.zeros(n_slots, np.int64)  # the slot of the full-depth KV cache that it shares
        self.parameter = np.zeros((n_slots, n_exits), np.float32)
        self.u_exit, self.u_token = np.zeros((2, n_slots, n_tokens), np.float32)
        self.token, self.exit_layer = np.zeros((2, n_slots, n_tokens), np.int64)
        self.is_finite = np.ones(n_slots, bool)
        self.records = self._records(n_tokens)
        self._on_device: DeviceSlots | None = None

    # ---- requests come and go

    def add(self, slot: int, index: int, request: Request, limit: int) -> None:
        """Put request number `index`, which may generate `limit` tokens, into a free slot."""
        n_prompt, configuration = len(request.prompt_token_ids), request.configuration
        self.request[slot], self.n_prompt[slot], self.limit[slot], self.n_tokens[slot] = index, n_prompt, limit, 0
        self.exits[slot], self.parameter[slot], self.is_finite[slot] = None, 0, True
        if isinstance(configuration, EarlyExit):
            layers = self.decoding.exitable_layers
            self.exits[slot] = criterion_of(configuration, layers), MODES[configuration.mode]
            self.parameter[slot] = configuration.per_layer(layers)
        self.requests[index] = request
        self.n_rows += 1
        self._draw(slot)
        self._on_device = None

    def move(self, source: int, target: int) -> None:
        """Put the request of one slot into another one."""
        columns: list[Any] = [
            self.request, self.n_prompt, self.n_tokens, self.limit, self.exits, self.parameter, self.prefix,
            self.u_exit, self.u_token, self.token, self.exit_layer, self.is_finite,
        ]  # fmt: skip
        for column in columns:
            column[target] = column[source]
        for record in self.records.values():
            record[target] = record[source]
        self._on_device = None

    def drop_last(self) -> None:
        """Free the last slot that is in use."""
        self.n_rows -= 1
        self._on_device = None

    def shift(self) -> int:
        """Return by how many columns, unused by now, the caches are to move to the left; 0 while these are few."""
        unused = min(self.first_column, self.end - self.longest_prompt)
        if unused < SLACK_COLUMNS:
            return 0
        self.end -= unused
        self._on_device = None
        return unused

    def make_room_for(self, n_tokens: int) -> None:
        """Make room for the records and draws of `n_tokens` tokens of each slot, or as many as it may get."""
        while (room := self.u_exit.shape[1]) < min(n_tokens, self.decoding.max_new_tokens):
            more = min(room, self.decoding.max_new_tokens - room)
            for name in ("u_exit", "u_token", "token", "exit_layer"):
                setattr(self, name, np.pad(getattr(self, name), ((0, 0), (0, more))))
            for name, record in self._records(more).items():
                self.records[name] = torch.cat([self.records[name], record], 1)
            for slot in range(self.n_rows):
                self._draw(slot)
            self._on_device = None

    @torch.inference_mode()
    def _records(self, n_tokens: int) -> dict[str, Tensor]:
        """Return room for what is recorded of `n_tokens` tokens of each slot, filled with what holds of `normal`."""
        n_exits, rows = len(self.decoding.exitable_layers), (self.n_slots, n_tokens)
        sizes = {"E": n_exits, "X": n_exits + 1, "K": self.decoding.record_top_k}
        found = {MISSED: torch.zeros(*rows, device=self.device)}
        for field, _, axes, column in recorded(self.decoding.record_full_depth):
            kind = torch.from_numpy(np.zeros(0, column.kind.to_pandas_dtype())).dtype
            found[field] = torch.zeros(*rows, *(sizes[axis] for axis in axes), dtype=kind, device=self.device)
        found["exit_prob_TX"][..., -1].fill_(1), found["exit_score_TE"].fill_(torch.nan)
        return found

    def _draw(self, slot: int) -> None:
        """Fill in a slot's uniform draws, for as many tokens as there is room for."""
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
    def first(self) -> np.ndarray:
        """The column of each slot's first token, (B,); the latest token is not in a cache yet."""
        first_B: np.ndarray = self.end + 1 - (self.n_prompt + self.n_tokens)[: self.n_rows]
        return first_B

    @property
    def first_column(self) -> int:
        """The first column that holds a token of a slot in flight."""
        return int(self.first.min())

    @property
    def last_token(self) -> np.ndarray:
        """Each slot's latest token id, (B,)."""
        last_B: np.ndarray = self.token[self.slots, self.n_tokens[: self.n_rows] - 1]
        return last_B

    @property
    def on_device(self) -> DeviceSlots:
        """What slots ask for, on the device: sent where requests have come or gone, else as it was."""
        if self._on_device is None:
            part, n_tokens_B1 = slice(self.n_rows), self.n_tokens[: self.n_rows, None]
            arrays = [
                self.parameter[part], self.u_exit[part], self.u_token[part], self.slots, self.first[:, None],
                self.last_token[:, None], n_tokens_B1, self.n_prompt[part, None] + n_tokens_B1 - 1, self.layer_X,
            ]  # fmt: skip
            by_criterion: defaultdict[Criterion, list[int]] = defaultdict(list)
            by_mode: defaultdict[Mode, list[int]] = defaultdict(list)
            for slot, exits in enumerate(self.exits[part]):
                if exits is not None:
                    by_criterion[exits[0]].append(slot)
                    if slot < self.n_early:
                        by_mode[exits[1]].append(slot)
            indices = [np.array(slots) for slots in by_criterion.values()]
            flags = [np.isin(np.arange(self.n_early), slots)[:, None] for slots in by_mode.values()]
            sent = to_device([array.copy() for array in (*arrays, *indices, *flags)], self.device)
            rest = sent[len(arrays) :]
            groups = [
                SlotGroup(*criterion, slice(None) if len(slots) == self.n_rows else rest[at])
                for at, (criterion, slots) in enumerate(by_criterion.items())
            ]
            modes = [
                (mode, None if len(slots) == self.n_early else rest[len(indices) + at])
                for at, (mode, slots) in enumerate(by_mode.items())
            ]
            self._on_device = DeviceSlots(groups, modes, *sent[: len(arrays)])
        return self._on_device

    def plan(self) -> ExitPlan:
        """Return how the latest tokens exit."""
        its = self.on_device
        u_exit_B, u_token_B = (u_BP.gather(1, its.n_tokens_B1)[:, 0] for u_BP in (its.u_exit_BP, its.u_token_BP))
        ranks = sorted({rank for group in its.groups for rank in group.ranks})
        return ExitPlan(
            its.groups, its.modes, ranks, its.layer_X, its.parameter_BE, u_exit_B, u_token_B,
            can_all_exit=None not in self.exits[: self.n_rows],
            defers=sum(mode.modifies_kv for _, mode in filter(None, self.exits[: self.n_early])) < self.n_early,
            checked=self.checked,
        )  # fmt: skip

    def inputs(self, n_columns: int) -> ForwardInputs:
        """Return the latest tokens, which are in the last of so many columns."""
        return ForwardInputs(
            self.on_device.token_B1, self.on_device.position_B1, self.seen(n_columns), self.first_column
        )

    def seen(self, n_columns: int) -> Tensor:
        """Flag the columns from `first_column` to before `n_columns` that hold tokens of each slot: (B, C) bool."""
        return torch.arange(self.first_column, n_columns, device=self.device) >= self.on_device.first_B1

    def prompt(self, slot: int) -> tuple[int, ...]:
        """Return the token ids of a slot's prompt."""
        return self.requests[int(self.request[slot])].prompt_token_ids

    def record(self, columns: Mapping[str, Tensor], slots: np.ndarray | None = None) -> None:
        """Add a token to these slots, or to all; `columns` has a value per slot for each column that is recorded.

        Here the host waits for the device.
        """
        parts = columns["token_id_T"], columns["exit_layer_T"], finite(columns)
        told = torch.stack([part.long() for part in parts]).cpu().numpy()
        at = (slots, self.n_tokens[slots]) if slots is not None else (self.slots, self.n_tokens[: self.n_rows])
        self.token[at], self.exit_layer[at], self.is_finite[at[0]] = told[0], told[1], told[2] > 0
        if slots is None:
            its = self.on_device
            at_slot, at_token = its.slot_B, its.n_tokens_B1[:, 0]
            its.token_B1 = columns["token_id_T"][:, None]
            its.n_tokens_B1, its.position_B1 = its.n_tokens_B1 + 1, its.position_B1 + 1
        else:
            at_slot, at_token = to_device([part.copy() for part in at], self.device)
            self._on_device = None
        for name, record in self.records.items():
            if name in columns and record.numel():
                record[at_slot, at_token] = columns[name].to(record.dtype)
        self.n_tokens[at[0]] += 1
        self.make_room_for(int(self.n_tokens[: self.n_rows].max()) + 1)

    # ---- how they end

    def ended(self) -> np.ndarray:
        """Return the slots whose request has ended or is no longer finite, in descending order."""
        at_eos = np.isin(self.last_token, list(self.decoding.eos_token_ids))
        ends = at_eos | (self.n_tokens >= self.limit)[: self.n_rows] | ~self.is_finite[: self.n_rows]
        if stops := self.decoding.stop_fn:
            ends |= np.array([stops(self.so_far(slot)) for slot in self.slots.tolist()], np.bool_)
        return np.flatnonzero(ends)[::-1]

    def so_far(self, slot: int) -> PartialOutput:
        """Return what a slot has generated."""
        n_tokens, request = self.n_tokens[slot], self.requests[int(self.request[slot])]
        return PartialOutput(request, self.token[slot, :n_tokens].tolist(), self.exit_layer[slot, :n_tokens].tolist())

    def output(self, slot: int) -> Outcome:
        """Return what the request in a slot generated, or why it failed."""
        n_tokens = int(self.n_tokens[slot])
        of_row = {name: record[slot, :n_tokens].cpu() for name, record in self.records.items()}
        infinite = np.flatnonzero(~finite(of_row).numpy())
        if len(infinite):
            return RequestFailure(f"the model's output is not finite at generated token {infinite[0]}")
        columns = {field: np.zeros(0) for field, *_ in recorded()}
        columns |= {name: part.numpy().copy() for name, part in of_row.items()}
        reason = STOP if n_tokens < self.limit[slot] else LENGTH
        if int(columns["token_id_T"][-1]) in self.decoding.eos_token_ids:
            reason = EOS
        configuration, missed_T = self.requests[int(self.request[slot])].configuration, columns.pop(MISSED)
        exit_layer_T, score_TE = columns["exit_layer_T"][1:], columns["exit_score_TE"][1:]
        has_screen = self.decoding.screen is not None
        counts = run_counts(configuration, self.layer_X, exit_layer_T, score_TE, missed_T[1:] > 0, has_screen)
        return RequestOutput(finish_reason=reason, counts=counts, rounds=None, **columns)


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
