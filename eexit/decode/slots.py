"""Slots of a batch: the request in each slot, and the records of its tokens.

Requests fill slots from 0 without gaps. A slot is on the host; a step's inputs are sent to the device when requests
come or go. Records stay on the device until a request ends. The latest token of each slot is in the same
column of the KV caches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eexit.costs.operations import run_counts
from eexit.decode.groups import ExitPlan
from eexit.decode.requests import DecodingConfig, Outcome, PartialOutput, Request, RequestFailure, RequestOutput
from eexit.method.stick_breaking import uniform_draws
from eexit.model.cache import SLACK_COLUMNS
from eexit.model.devices import to_device
from eexit.model.layers import Decoder, ForwardInputs
from eexit.plan.runs import EOS, LENGTH, STOP
from eexit.results.token_columns import PromptExits, recorded

FIRST_ROOM_TOKENS: Final = 256  # of a slot, for which records have room at first
MISSED: Final = "missed_T"  # recorded too: True where a screen made the token exit by mistake


@dataclass
class Slot:
    """Request in flight."""

    index: int  # the request's number
    output: PartialOutput
    limit: int  # tokens that the request may generate
    record: int  # index into the records
    u_exit_T: np.ndarray
    u_token_T: np.ndarray
    prompt_exits: PromptExits | None = None
    prefix: int = 0  # the slot of the full-depth KV cache, which others may share
    is_finite: bool = True

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.output.request.prompt_token_ids

    @property
    def n_tokens(self) -> int:  # generated ones
        return len(self.output.token_ids)

    @property
    def first_decided(self) -> int:
        """Index of the first generated token with an exit decision."""
        return 1 if self.prompt_exits is None else 0

    @property
    def latest_token(self) -> int:
        """The token that the next step runs: with prompt exits, the first step runs the prompt's last one."""
        return (self.output.token_ids or self.prompt)[-1]

    @property
    def length(self) -> int:  # with the prompt
        return len(self.prompt) + self.n_tokens


class SlotTable:
    """Slots of a batch, of which the first `n_early` have an early-exit pass."""

    def __init__(self, n_slots: int, decoding: DecodingConfig, requests: Sequence[Request], decoder: Decoder):
        self.decoding, self.decoder, self.device, self.n_slots = decoding, decoder, decoder.device, n_slots
        self.in_flight: list[Slot] = []
        self.n_early = 0
        self.layers = np.array([*decoding.exitable_layers, decoder.n_layers - 1])
        self.checked: set[str] = set()  # custom rules and modes whose numbers have been checked
        self.longest_prompt = max(len(request.prompt_token_ids) for request in requests)
        self.end = self.longest_prompt  # behind the column of the latest tokens but one
        self.free_records = [*range(n_slots)]
        self.records = self._records(min(decoding.max_new_tokens, FIRST_ROOM_TOKENS))
        self._is_sent = False

    def __len__(self) -> int:
        return len(self.in_flight)

    # ---- requests come and go

    def add(self, index: int, request: Request, is_early: bool) -> None:
        """Put request number `index` into a slot, with an early-exit pass or without."""
        limit = max_length(request, self.decoding, self.decoder) - len(request.prompt_token_ids)
        keys = request.seed, request.prompt_token_ids, limit
        u_exit_T, u_token_T = uniform_draws("exit", *keys), uniform_draws("sample", *keys)
        slot = Slot(index, PartialOutput(request, [], []), limit, self.free_records.pop(), u_exit_T, u_token_T)
        self.in_flight.append(slot)
        if is_early:
            self.in_flight[self.n_early], self.in_flight[-1] = slot, self.in_flight[self.n_early]
            self.n_early += 1
        self._is_sent = False

    def remove(self, at: int) -> None:
        """Free a slot. The last slot with an early-exit pass, if this slot has one, and then the last slot move up."""
        self.free_records.append(self.in_flight[at].record)
        if at < self.n_early:
            self.n_early -= 1
            self.in_flight[at] = self.in_flight[self.n_early]
            at = self.n_early
        self.in_flight[at] = self.in_flight[-1]
        self.in_flight.pop()
        self._is_sent = False

    def shift(self) -> int:
        """Move all slots' columns to the left once enough columns are unused; return the number of columns."""
        unused = min(self.first_column, self.end - self.longest_prompt)
        if unused < SLACK_COLUMNS:
            return 0
        self.end -= unused
        self._is_sent = False
        return unused

    # ---- the latest tokens on the device

    @property
    def first_column(self) -> int:
        """The first column that holds a token of a slot; the latest tokens are in no cache yet."""
        return self.end + 1 - max(slot.length for slot in self.in_flight)

    def _send(self) -> None:
        """Copy a step's inputs for all slots to the device, unless they are already there."""
        if self._is_sent:
            return
        slots = self.in_flight
        configurations = [slot.output.request.configuration for slot in slots]
        self._plan = ExitPlan.from_configurations(configurations, self.decoding, self.decoder, self.n_early)
        u_2BP = np.zeros((2, len(slots), max(slot.limit for slot in slots)), np.float32)
        for at, slot in enumerate(slots):
            u_2BP[:, at, : slot.limit] = slot.u_exit_T, slot.u_token_T
        length_B1 = np.array([[slot.length] for slot in slots])
        arrays = [
            *u_2BP, np.array([slot.record for slot in slots]), np.array([slot.n_tokens for slot in slots]),
            np.array([[slot.latest_token] for slot in slots]), length_B1 - 1, self.end + 1 - length_B1,
        ]  # fmt: skip
        self.u_exit_BP, self.u_token_BP, self.record_B, self.n_tokens_B, *sent = to_device(arrays, self.device)
        self.token_B1, self.position_B1, self.first_B1 = sent
        self._is_sent = True

    def plan(self) -> ExitPlan:
        """Return how the latest tokens exit."""
        self._send()
        u_exit_B1, u_token_B1 = (u_BP.gather(1, self.n_tokens_B[:, None]) for u_BP in (self.u_exit_BP, self.u_token_BP))
        return replace(self._plan, u_exit_N=u_exit_B1[:, 0], u_token_N=u_token_B1[:, 0], checked=self.checked)

    def inputs(self, n_columns: int) -> ForwardInputs:
        """Return the slots' latest tokens as inputs of a pass, which end at column `n_columns`."""
        self._send()
        attention_mask_BC = torch.arange(self.first_column, n_columns, device=self.device) >= self.first_B1
        return ForwardInputs(self.token_B1, self.position_B1, attention_mask_BC, self.first_column)

    # ---- records

    @torch.inference_mode()
    def _records(self, n_tokens: int) -> dict[str, Tensor]:
        """Return records with room for `n_tokens` tokens per slot, filled with the values of first tokens."""
        n_exits, shape = len(self.decoding.exitable_layers), (self.n_slots, n_tokens)
        sizes = {"E": n_exits, "X": n_exits + 1, "K": self.decoding.record_top_k}
        records = {MISSED: torch.zeros(*shape, device=self.device)}
        for name, _, axes, column in recorded(self.decoding.record_full_depth):
            kind = torch.from_numpy(np.zeros(0, column.kind.to_pandas_dtype())).dtype
            records[name] = torch.zeros(*shape, *(sizes[axis] for axis in axes), dtype=kind, device=self.device)
        records["exit_prob_TX"][..., -1].fill_(1), records["exit_score_TE"].fill_(torch.nan)
        return records

    def record(self, columns: Mapping[str, Tensor], slots: Sequence[int] | None = None) -> None:
        """Append a token to each of `slots`, given its value in each recorded column; the host waits for the device.

        Without `slots`, all get one: a pass has filled the next column of the KV caches, to which the table moves on.
        """
        chosen = self.in_flight if slots is None else [self.in_flight[at] for at in slots]
        self._make_room(1 + max(slot.n_tokens for slot in chosen))
        parts = columns["token_id_T"], columns["exit_layer_T"], finite(columns)
        numbers = torch.stack([part.long() for part in parts]).cpu().tolist()
        if slots is None:
            self.end += 1
            at_record, at_token = self.record_B, self.n_tokens_B
            self.n_tokens_B, self.position_B1 = self.n_tokens_B + 1, self.position_B1 + 1
            self.token_B1 = columns["token_id_T"][:, None]
        else:
            indices = np.array([slot.record for slot in chosen]), np.array([slot.n_tokens for slot in chosen])
            at_record, at_token = to_device(indices, self.device)
            self._is_sent = False
        for name, record in self.records.items():
            if name in columns and record.numel():
                record[at_record, at_token] = columns[name].to(record.dtype)
        for slot, token_id, exit_layer, is_finite in zip(chosen, *numbers, strict=True):
            slot.output.token_ids.append(token_id)
            slot.output.exit_layers.append(exit_layer)
            slot.is_finite = bool(is_finite)

    def _make_room(self, n_tokens: int) -> None:
        """Double the room for records if `n_tokens` more would not fit."""
        room = self.records["token_id_T"].shape[1]
        if n_tokens > room:
            more = self._records(min(room, self.decoding.max_new_tokens - room))
            self.records = {name: torch.cat([record, more[name]], 1) for name, record in self.records.items()}

    # ---- requests end

    def ended(self) -> list[int]:
        """Return the slots whose request has ended or is no longer finite, in descending order."""
        return [at for at, slot in enumerate(self.in_flight) if self._has_ended(slot)][::-1]

    def _has_ended(self, slot: Slot) -> bool:
        if not slot.n_tokens:
            return False
        is_stopped = self.decoding.stop_fn is not None and self.decoding.stop_fn(slot.output)
        is_at_eos = slot.output.token_ids[-1] in self.decoding.eos_token_ids
        return is_stopped or is_at_eos or slot.n_tokens >= slot.limit or not slot.is_finite

    def outcome(self, slot: Slot) -> Outcome:
        """Return the output of the request in a slot, or the reason of its failure."""
        of_slot = {name: record[slot.record, : slot.n_tokens].cpu() for name, record in self.records.items()}
        infinite = np.flatnonzero(~finite(of_slot).numpy())
        if len(infinite):
            return RequestFailure(f"the model's output is not finite at generated token {infinite[0]}")
        columns = {name: np.zeros(0) for name, *_ in recorded()}
        columns |= {name: part.numpy().copy() for name, part in of_slot.items()}
        prompt, first = slot.prompt_exits, slot.first_decided
        reason = STOP if slot.n_tokens < slot.limit else LENGTH
        if slot.output.token_ids[-1] in self.decoding.eos_token_ids:
            reason = EOS
        missed_T, has_screen = columns.pop(MISSED)[first:] > 0, self.decoding.screen is not None
        exit_layer_T, score_TE = columns["exit_layer_T"][first:], columns["exit_score_TE"][first:]
        configuration = slot.output.request.configuration
        counts = run_counts(configuration, self.layers, exit_layer_T, score_TE, missed_T, has_screen, prompt)
        return RequestOutput(finish_reason=reason, counts=counts, rounds=None, prompt=prompt, **columns)


def undecided(layers: Sequence[int], token_N: Tensor) -> dict[str, Tensor]:
    """Return the columns of tokens without an exit decision, which come from the last one of `layers`."""
    prob_NX = torch.zeros(len(token_N), len(layers), device=token_N.device)
    prob_NX[:, -1] = 1
    return {
        "exit_layer_T": torch.full_like(token_N, layers[-1]),
        "exit_prob_TX": prob_NX,
        "exit_score_TE": torch.full_like(prob_NX[:, :-1], torch.nan),
    }


def max_length(request: Request, decoding: DecodingConfig, decoder: Decoder) -> int:
    """Return the maximum number of a request's tokens, prompt included, within the model's context."""
    n_prompt = len(request.prompt_token_ids)
    length, context = n_prompt + decoding.max_new_tokens, decoder.context_of(n_prompt)
    return length if context is None else min(length, context)


def finite(columns: Mapping[str, Tensor]) -> Tensor:
    """Flag tokens whose KLs, entropy and log-probability, as far as recorded, are finite: (N,) bool."""
    found = [columns[name].isfinite() for name in ("exit_logprob_T", "entropy_T", "kl_TE") if name in columns]
    return torch.stack([part if part.ndim == 1 else part.all(-1) for part in found]).all(0)
