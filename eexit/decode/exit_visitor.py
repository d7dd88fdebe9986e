"""The pass in which tokens exit: after each exitable layer, rules decide which do, and skipped layers follow the modes.

Decisions at a layer depend only on the layers up to it. So one visitor serves generation, with one new token of each
sequence, and scoring, with all tokens of a text at once (`eexit.decode.score`).

Shapes: B sequences, T tokens of each that may exit, N = B · T of them, M some of these, E exitable layers, X = E + 1
with the final layer last, F width of a head input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.cpu.token_subset import Index, TokenSubset
from eexit.decode.groups import Decisions, ExitPlan, SlotGroup
from eexit.decode.predictors import LMHead, NextTokens, Prediction, predictors
from eexit.method.layer_call import ExitedTokens, LayerCall
from eexit.method.modes import Mode
from eexit.method.rules import LOGITS, ONLINE, LayerView
from eexit.model.layers import Layer

NONE = -1  # the likeliest token where a rule has read none


class ExitVisitor:
    """One pass: which tokens have exited, what their rules have decided, and their next tokens.

    It is called in place of each layer. Layers from `stops_at` on, if there is such a layer, pass the hidden state on,
    which `held_BTD` then is.
    """

    def __init__(self, head: LMHead, plan: ExitPlan, decided: Decisions, shape: Sequence[int]):
        """Begin with tokens of this shape (B, T), of which none has exited."""
        self.head, self.plan, self.decided = head, plan, decided
        self.decoder, self.decoding = head.decoder, head.decoding
        self.shape, self.n_exits = tuple(shape), len(self.decoding.exitable_layers)
        self.ranks = {self.decoding.exitable_layers[rank]: rank for rank in plan.ranks}
        self.passed_N = torch.ones_like(plan.u_exit_N)  # the chance of having passed all layers so far
        self.exit_N = torch.full_like(plan.u_exit_N, self.n_exits, dtype=torch.long)  # index into X, so far
        self.unread_N = torch.ones_like(self.exit_N, dtype=torch.bool)  # tokens whose next ones are not read yet
        self.next_tokens = NextTokens.empty(len(self.exit_N), self.decoding.record_top_k, self.decoder.device)
        self.head_input_NF: Tensor | None = None  # at the exits
        rules = [group.rule for group in plan.online]
        self.predictors = predictors(head, keeps_logits=any(rule.needs == LOGITS for rule in rules))
        self.likeliest_NE: Tensor | None = None  # if layers' likeliest tokens are compared later
        if self.decoding.screen or any(rule.needs_history for rule in rules):
            self.likeliest_NE = torch.full_like(plan.parameter_NE, NONE, dtype=torch.long)
        self.exit_BT = self.exit_N.view(self.shape)  # of deferred tokens too, which come first
        self.kept: dict[str, Tensor] = {}  # hidden states that modes need, (B, T, D)
        self.exited: list[tuple[Mode, ExitedTokens]] = []  # of modes that alter the KV cache
        self.frozen_BT1: Tensor | None = None  # tokens whose hidden state stays that at the exit
        self.all_exited = False
        self.defers = False  # True: from where all have exited on, layers run later
        self.stops_at: int | None = None
        self.held_BTD: Tensor | None = None

    @classmethod
    def of_exited(cls, head: LMHead, plan: ExitPlan, exit_BT: Tensor, kept: Mapping[str, Tensor]) -> "ExitVisitor":
        """Begin with tokens that have exited at these indices into X, and go through skipped layers."""
        decided = Decisions.exits_at(exit_BT.flatten(), len(head.decoding.exitable_layers))
        u_N = torch.zeros_like(decided.stop_NE[:, 0])
        plan = replace(
            plan, groups=(), ranks=(), can_all_exit=False, parameter_NE=decided.stop_NE, u_exit_N=u_N, u_token_N=u_N
        )
        visitor = cls(head, plan, decided, exit_BT.shape)
        visitor.exit_BT, visitor.kept = exit_BT, dict(kept)
        visitor._note_exited()
        return visitor

    def __call__(self, layer: Layer, hidden_BTD: Tensor) -> Tensor:
        if self.stops_at is not None and layer.index >= self.stops_at:
            self.held_BTD = hidden_BTD if self.held_BTD is None else self.held_BTD
            return hidden_BTD
        with record_function("layers"):
            if self.all_exited:
                self._enter(layer, hidden_BTD).run_keys_alone()
                return hidden_BTD
            if layer.index == 0:
                needs = {need for mode, _ in self.plan.modes for need in mode.needs}
                self.kept = dict.fromkeys(needs, hidden_BTD.to(self.decoder.device))
            after_BTD = self._run(layer, hidden_BTD)
        if (rank := self.ranks.get(layer.index)) is not None:
            with record_function("deciding"):
                self._decide(rank, layer.index, hidden_BTD, after_BTD)
        return after_BTD

    # ---- 1. A layer runs; modes say what it does for tokens that have exited.

    def _run(self, layer: Layer, hidden_BTD: Tensor) -> Tensor:
        if self.frozen_BT1 is None:
            return layer.run(hidden_BTD)
        call = self._enter(layer, hidden_BTD)
        after_BTD = call.run()
        return torch.where(self.frozen_BT1.to(call.device), call.hidden_before, after_BTD)

    def _enter(self, layer: Layer, hidden_BTD: Tensor) -> LayerCall:
        call = LayerCall(layer, hidden_BTD)
        for mode, exited in self.exited:
            mode.enter(call, exited)
        return call

    # ---- 2. After an exitable layer, rules give chances, and stick-breaking says which tokens exit.

    def _decide(self, rank: int, layer: int, before_BTD: Tensor, after_BTD: Tensor) -> None:
        before_ND, after_ND = (
            part[:, -self.shape[1] :].flatten(0, 1).to(self.decoder.device) for part in (before_BTD, after_BTD)
        )
        going_N = self.exit_N == self.n_exits
        reads = self._score(rank, going_N, before_ND, after_ND)
        self.passed_N = self.passed_N * self.decided.go_on_NE[:, rank]
        exits_N = (1 - self.passed_N > self.plan.u_exit_N) & going_N
        if exits_N.device.type == "cpu" and not exits_N.any():
            return
        for index, prediction in reads:
            self._take_next_tokens(exits_N, index, prediction)
        self._keep_head_inputs(rank, exits_N & self.unread_N, after_ND, layer)
        self.exit_N = self.exit_N.masked_fill(exits_N, rank)
        if "hidden_in" in self.kept:
            own_BT1, before_BTD = exits_N.view(*self.shape, 1), before_ND.view(*self.shape, -1)
            kept_BTD, n_deferred = self.kept["hidden_in"], self.exit_BT.shape[1] - self.shape[1]
            own_BTD = torch.where(own_BT1, before_BTD, kept_BTD[:, n_deferred:])
            self.kept["hidden_in"] = torch.cat([kept_BTD[:, :n_deferred], own_BTD], 1)
        self.exit_BT = torch.cat([self.exit_BT[:, : -self.shape[1]], self.exit_N.view(self.shape)], 1)
        self._note_exited()
        self.all_exited = self._have_all_exited(rank)
        if self.all_exited:
            self.stops_at = layer + 1 if self.defers else None

    def _score(self, rank: int, going_N: Tensor, before_ND: Tensor, after_ND: Tensor) -> list[tuple[Index, Prediction]]:
        """Note the chances of groups whose rules read this layer; return what was predicted, and for which tokens."""
        layer, plan, reads = self.decoding.exitable_layers[rank], self.plan, list[tuple[Index, Prediction]]()
        asked: dict[str | None, list[tuple[SlotGroup, TokenSubset]]] = {}
        for group in plan.online:
            if rank not in group.ranks:
                continue
            tokens, _ = TokenSubset(group.tokens).narrow(going_N[group.tokens])
            if group.gate and tokens.has_tokens():
                assert self.decoding.gate
                chance_M = self.decoding.gate.chance(after_ND[tokens.index], layer, group.gate[0])
                tokens, _ = tokens.narrow(chance_M >= group.gate[1])
            if tokens.has_tokens():
                asked.setdefault(group.rule.read_by(self.decoding.screen is not None), []).append((group, tokens))
        for column, sharing in asked.items():  # one read serves all groups
            parts = [tokens.index for _, tokens in sharing]
            index = parts[0] if len(parts) == 1 else torch.cat([part for part in parts if isinstance(part, Tensor)])
            states = {
                "hidden_in": before_ND[index], "hidden_out": after_ND[index], "parameter": plan.parameter_NE[index,
            rank], }  # fmt: skip
            given_M = None if plan.next_token_N is None else plan.next_token_N[index]
            prediction = self.predictors[column](LayerView(layer, **states), given_M) if column else Prediction({})
            look = LayerView(layer, **states, **prediction.values)
            reads.append((index, prediction))
            sizes = [len(part) if isinstance(part, Tensor) else len(going_N) for part in parts]
            for (group, tokens), start, end in zip(sharing, [0, *np.cumsum(sizes)], np.cumsum(sizes), strict=False):
                self._note_chances(rank, group, tokens, look, slice(start, end))
        return reads

    def _note_chances(self, rank: int, group: SlotGroup, tokens: TokenSubset, look: LayerView, own: slice) -> None:
        """Note the chances of a group's tokens, of which a layer shows the `own` part of a look."""
        rule, more = group.rule, dict[str, Tensor]()
        if self.likeliest_NE is not None and "top_token" in vars(look):
            tokens.put(self.likeliest_NE[:, rank], look.top_token[own])
        if self.likeliest_NE is not None and rule.needs_history:
            columns = [self.likeliest_NE[tokens.index, at] for at in group.ranks if at <= rank]
            more["top_token_history"] = torch.stack(columns, 1)
        checked = self.plan.checks(rule) and (tokens.mask_M is None or tokens.mask_M)
        score_M = rule.exit_score(look.part(rule.needs, own, **more), checked)
        chances = rule.chances(score_M[:, None], look.parameter[own, None])
        tokens.put(self.decided.score_NE[:, rank], score_M)
        tokens.put(self.decided.stop_NE[:, rank], chances.exit_BE[:, 0])
        tokens.put(self.decided.go_on_NE[:, rank], chances.pass_BE[:, 0])

    def _note_exited(self) -> None:
        """Note which tokens of the pass have exited, by mode."""
        flag_BT = self.exit_BT < self.n_exits
        self.exited, self.frozen_BT1 = [], None
        for mode, flag_B1 in self.plan.modes:
            if mode.modifies_kv:
                own_BT = flag_BT if flag_B1 is None else flag_BT & flag_B1
                exited = ExitedTokens.from_flag(
                    own_BT, self.plan.layer_X[self.exit_BT], self.kept, self.decoding.kv_maps, self.plan.checks(mode)
                )
                self.exited.append((mode, exited))
                own_BT1 = own_BT[..., None]
                self.frozen_BT1 = own_BT1 if self.frozen_BT1 is None else self.frozen_BT1 | own_BT1

    def _have_all_exited(self, rank: int) -> bool:
        """Return True if no token goes on, for which the host waits unless all exits are known."""
        if not self.plan.can_all_exit:
            return False
        return bool((self.exit_N < self.n_exits).all()) if self.plan.online else rank >= self.deepest

    @cached_property
    def deepest(self) -> int:
        """The last exit among known ones, an index into X."""
        return int(self.decided.draw(self.plan.u_exit_N).max())

    # ---- 3. Next tokens are read where tokens exited: by the read that decided, or when the pass has ended.

    def _take_next_tokens(self, exits_N: Tensor, index: Index, prediction: Prediction) -> None:
        """Take the next tokens of exiting tokens from the LM head's read, if there is one."""
        if prediction.next_tokens is None or prediction.head_input_NF is None:
            return
        exits_M = exits_N[index]
        exiting, at = TokenSubset(index).narrow(exits_M)
        if exiting.has_tokens():
            self.next_tokens.put(exiting, prediction.next_tokens(at, self.plan.u_token_N[exiting.index]))
            self._put_head_input(exiting, prediction.head_input_NF[at])
            exiting.put(self.unread_N, torch.zeros_like(exits_M)[at])

    def _keep_head_inputs(self, rank: int, later_N: Tensor, after_ND: Tensor, layer: int) -> None:
        """Keep what goes into the head for exiting tokens that are read when the pass has ended."""
        groups, has_screen = self.plan.groups, self.decoding.screen is not None
        exiting = [group.rule for group in groups if rank in group.ranks]
        if groups and all(rule.name in ONLINE and rule.read_by(has_screen) == "head_reads" for rule in exiting):
            return
        if (later := TokenSubset.from_flag(later_N)).has_tokens():
            self._put_head_input(later, self.head.head_input(after_ND[later.index], layer))

    def _put_head_input(self, tokens: TokenSubset, head_input_MF: Tensor) -> None:
        if self.head_input_NF is None:
            self.head_input_NF = head_input_MF.new_zeros(len(self.exit_N), head_input_MF.shape[1])
        tokens.put(self.head_input_NF, head_input_MF)

    def head_inputs(self, final_BTF: Tensor) -> Tensor:
        """Return what goes into the head where each token exits, (N, F), given that after the final layer."""
        final_NF = final_BTF[:, -self.shape[1] :].flatten(0, 1)
        if self.head_input_NF is None:
            return final_NF
        return torch.where((self.exit_N < self.n_exits)[:, None], self.head_input_NF, final_NF)

    def finish(self, final_BTF: Tensor) -> NextTokens:
        """Read the next tokens that are not read yet, given what goes into the head after the final layer."""
        self.head_input_NF = self.head_inputs(final_BTF)
        unread = TokenSubset.from_flag(self.unread_N)
        if unread.has_tokens():
            given_N, at = self.plan.next_token_N, unread.index
            given_M, u_M = None if given_N is None else given_N[at], self.plan.u_token_N[at]
            self.next_tokens.put(unread, self.head.next_tokens(self.head_input_NF[at], u_M, given_M))
        return self.next_tokens

    # ---- What it has decided

    def probabilities(self) -> Tensor:
        """Return the distribution over exits, (N, X): unknown beyond an online rule's exit, if there were chances."""
        prob_NX = self.decided.probabilities()
        if not self.plan.online:
            return prob_NX
        online_N = torch.zeros_like(self.unread_N)
        for group in self.plan.online:
            online_N[group.tokens] = True
        rank_X = torch.arange(self.n_exits + 1, device=prob_NX.device)
        beyond_NX = (rank_X > self.exit_N[:, None]) & online_N[:, None]
        in_set_NX = torch.nn.functional.pad(~self.plan.parameter_NE.isnan(), (0, 1), value=True)
        unknown_NX = beyond_NX & in_set_NX & (self.passed_N > 0)[:, None]
        return prob_NX.masked_fill(beyond_NX, 0).masked_fill(unknown_NX, torch.nan)

    def misses(self) -> Tensor:
        """Flag tokens that exited by what a screen took for the likeliest token, and was not: (N,) bool."""
        assert self.likeliest_NE is not None, "there is a screen"
        exit_N1 = self.exit_N.clamp(max=self.n_exits - 1)[:, None]
        likeliest_N = self.likeliest_NE.gather(1, exit_N1)[:, 0]  # NONE where the rule read nothing
        has_exited_N = self.exit_N < self.n_exits
        return has_exited_N & (likeliest_N != NONE) & (likeliest_N != self.next_tokens.likeliest_N)

    # ---- Deferred tokens come along

    def join(self, exit_BT: Tensor, kept: Mapping[str, Tensor]) -> None:
        """Put deferred tokens, with their exits and hidden states that modes need, before the others, and go on."""
        self.exit_BT = torch.cat([exit_BT, self.exit_BT], 1)
        self.kept = {name: torch.cat([part, self.kept[name]], 1) for name, part in kept.items()}
        self.held_BTD = None
        self._note_exited()
