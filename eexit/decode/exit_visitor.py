"""The pass in which tokens exit: after each exitable layer, rules decide which do; skipped layers follow the modes.

Decisions at a layer depend on the layers up to it alone. So one visitor serves generation, with one new token of each
sequence, and scoring, with all tokens of a text at once (`eexit.decode.score`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.cpu.token_subset import Index, TokenSubset, join_indices
from eexit.decode.groups import ExitPlan, SlotGroup
from eexit.decode.predictors import HeadReading, LMHead, NextTokens, predictors
from eexit.method.layer_call import ExitedTokens, LayerCall
from eexit.method.modes import Mode
from eexit.method.rules import HIDDEN_HISTORY, HISTORIES, HISTORY, LOGITS, LayerView
from eexit.model.layers import VisitedLayer

NONE = -1  # the likeliest token where a rule has read none


class ExitVisitor:
    """One pass of tokens that may exit, called in place of each layer: it runs the layer, and decides exits.

    Deferred tokens may `join`, before the pass's own tokens of each sequence.
    """

    def __init__(self, head: LMHead, plan: ExitPlan, shape: Sequence[int]):
        """Begin with tokens of this shape (B, T), none of which has exited."""
        self.head, self.plan, self.decoder, self.decoding = head, plan, head.decoder, head.decoding
        self.shape, self.n_exits = tuple(shape), len(self.decoding.exitable_layers)
        self.ranks = {self.decoding.exitable_layers[rank]: rank for rank in plan.ranks}
        self.passed_N = torch.ones_like(plan.u_exit_N)  # the probability of having passed all layers so far
        self.exit_N = torch.full_like(plan.u_exit_N, self.n_exits, dtype=torch.long)  # index into X, so far
        self.all_exited = False
        self.next_tokens = NextTokens.empty(len(self.exit_N), self.decoding.record_top_k, self.decoder.device)
        self.unread_N = torch.ones_like(self.exit_N, dtype=torch.bool)  # tokens whose next ones are still to be read
        self.head_inputs_at_exits: list[tuple[TokenSubset, Tensor]] = []
        needs = {need for group in plan.online for need in group.rule.needs}
        self.predictors = predictors(head, keeps_logits=LOGITS in needs)
        self.history: dict[str, Tensor] = {}  # values of `LayerView` that rules have read, if needed later, (N, E, ·)
        if self.decoding.screen or HISTORY in needs:
            self.history["top_token"] = torch.full_like(plan.parameter_NE, NONE, dtype=torch.long)
        if HISTORY in needs:
            self.history["entropy"] = torch.zeros_like(plan.parameter_NE)
            self.history["top2_prob"] = torch.zeros_like(plan.parameter_NE)[..., None].repeat(1, 1, 2)
        self.keeps_hidden = HIDDEN_HISTORY in needs
        self.hidden_by_rank: dict[int, Tensor] = {}  # after exitable layers, (N, D)
        self.joined_BT = self.exit_N.new_empty(self.shape[0], 0)  # exits of deferred tokens
        self.needs = {name for mode, _ in plan.modes for name in mode.needs}
        self.kept: dict[str, Tensor] = {}  # hidden states that modes need, (B, T, D)
        self.exited: list[tuple[Mode, ExitedTokens]] = []  # by modes that alter the KV cache
        self.frozen_BT1: Tensor | None = None  # tokens whose hidden state stays that at the exit

    def __call__(self, layer: VisitedLayer, hidden_BTD: Tensor) -> Tensor:
        with record_function("layers"):
            call = LayerCall(layer, hidden_BTD)
            for mode, exited in self.exited:
                mode.enter(call, exited)
            if self.all_exited:
                call.run_keys_alone()
                return hidden_BTD
            if layer.index == 0:
                self.kept = dict.fromkeys(self.needs, hidden_BTD.to(self.decoder.device))
            after_BTD = call.run()
            if self.frozen_BT1 is not None:
                after_BTD = torch.where(self.frozen_BT1.to(call.device), call.hidden_before, after_BTD)
        if (rank := self.ranks.get(layer.index)) is not None:
            with record_function("deciding"):
                own_BTD = (each_BTD[:, -self.shape[1] :] for each_BTD in (hidden_BTD, after_BTD))
                self._decide(rank, *(each_BTD.flatten(0, 1).to(self.decoder.device) for each_BTD in own_BTD))
        return after_BTD

    # ---- 1. Tokens that have exited, by mode

    @property
    def exit_BT(self) -> Tensor:
        """Exits of all tokens, deferred ones included, as indices into X."""
        return torch.cat([self.joined_BT, self.exit_N.view(self.shape)], 1)

    def join(self, deferred: Mapping[str, Tensor]) -> None:
        """Put deferred tokens, with their exits and the hidden states that modes need, before the others."""
        self.joined_BT = torch.cat([deferred["exit"], self.joined_BT], 1)
        self.kept = {
            name: torch.cat([deferred[name], *([self.kept[name]] if self.kept else [])], 1) for name in self.needs
        }
        self._group_exited()

    def _group_exited(self) -> None:
        exit_BT, self.exited, self.frozen_BT1 = self.exit_BT, [], None
        for mode, flag_B1 in self.plan.modes:
            if mode.modifies_kv:
                flag_BT = exit_BT < self.n_exits
                flag_BT = flag_BT if flag_B1 is None else flag_BT & flag_B1
                tokens, exit_layer_BT = TokenSubset.from_flag(flag_BT.flatten()), self.plan.layer_X[exit_BT]
                parts = (flag_BT, tokens, exit_layer_BT, self.kept, self.decoding.kv_maps)
                self.exited.append((mode, ExitedTokens(*parts, checks_numbers=self.plan.needs_check(mode))))
                flag_BT1 = flag_BT[..., None]
                self.frozen_BT1 = flag_BT1 if self.frozen_BT1 is None else self.frozen_BT1 | flag_BT1

    # ---- 2. After an exitable layer, rules give exit probabilities, and stick-breaking decides which tokens exit.

    def _decide(self, rank: int, before_ND: Tensor, after_ND: Tensor) -> None:
        is_reached_N = self.exit_N == self.n_exits
        if self.keeps_hidden:
            self.hidden_by_rank[rank] = after_ND
        readings = self._score(rank, is_reached_N, before_ND, after_ND)
        self.passed_N = self.passed_N * self.plan.chances.pass_BE[:, rank]
        exits_N = (1 - self.passed_N > self.plan.u_exit_N) & is_reached_N
        if exits_N.device.type == "cpu" and not exits_N.any():
            return
        self._read_next_tokens(rank, exits_N, after_ND, readings)
        self.exit_N = self.exit_N.masked_fill(exits_N, rank)
        if (kept_BTD := self.kept.get("hidden_in")) is not None:
            n_joined, exits_BT1 = self.joined_BT.shape[1], exits_N.view(*self.shape, 1)
            before_BTD = torch.where(exits_BT1, before_ND.view(*self.shape, -1), kept_BTD[:, n_joined:])
            self.kept["hidden_in"] = torch.cat([kept_BTD[:, :n_joined], before_BTD], 1)
        self._group_exited()
        if self.plan.can_all_exit:  # the host waits, unless all exits are known
            self.all_exited = bool((self.exit_N < self.n_exits).all()) if self.plan.online else rank >= self.deepest

    @cached_property
    def deepest(self) -> int:
        """The last of known exits, an index into X."""
        return int(self.plan.draw().max())

    def _score(
        self, rank: int, is_reached_N: Tensor, before_ND: Tensor, after_ND: Tensor
    ) -> list[tuple[Index, HeadReading]]:
        """Record exit scores and probabilities of groups that read layer `rank` of E; return the LM head's readings."""
        layer, readings = self.decoding.exitable_layers[rank], list[tuple[Index, HeadReading]]()
        by_predictors = defaultdict[tuple[str, ...], list[tuple[SlotGroup, TokenSubset]]](list)
        for group in self.plan.online:
            if rank not in group.ranks:
                continue
            tokens, _ = TokenSubset(group.tokens).narrow(is_reached_N[group.tokens])
            if group.gate and tokens.has_tokens():
                assert self.decoding.gate
                chance_M = self.decoding.gate.chance(after_ND[tokens.index], layer, group.gate[0])
                tokens, _ = tokens.narrow(chance_M >= group.gate[1])
            if tokens.has_tokens():
                by_predictors[group.rule.read_by(self.decoding.screen is not None)].append((group, tokens))
        for names, groups in by_predictors.items():  # one prediction serves all groups
            at, parts = join_indices([tokens.index for _, tokens in groups], len(is_reached_N))
            parameter_M = self.plan.parameter_NE[at, rank]
            view = LayerView(layer, hidden_in=before_ND[at], hidden_out=after_ND[at], parameter=parameter_M)
            for name in names:
                vars(view).update(self.predictors[name](view, self._forced(at)))
            if "reading" in vars(view):
                readings.append((at, view.reading))
            for (group, tokens), part in zip(groups, parts, strict=True):
                self._score_group(rank, group, tokens, view, part)
        return readings

    def _score_group(self, rank: int, group: SlotGroup, tokens: TokenSubset, view: LayerView, part: slice) -> None:
        """Record exit scores and probabilities for a group's tokens, which are slice `part` of the tokens in `view`."""
        rule, more, so_far = group.rule, dict[str, Tensor](), [at for at in group.ranks if at <= rank]
        for name, values_NE in self.history.items():
            if name in vars(view):
                tokens.put(values_NE[:, rank], getattr(view, name)[part])
        if HISTORY in rule.needs:
            for name, value in HISTORIES.items():
                more[name] = torch.stack([self.history[value][tokens.index, at] for at in so_far], 1)
        if HIDDEN_HISTORY in rule.needs:
            more["hidden_history"] = torch.stack([self.hidden_by_rank[at][tokens.index] for at in so_far], 1)
        checked = self.plan.needs_check(rule) and (tokens.mask_M is None or tokens.mask_M)
        score_M = rule.exit_score(view.view_for(rule.needs, part, **more), checked)
        chances = rule.chances(score_M[:, None], view.parameter[part, None])
        tokens.put(self.plan.score_NE[:, rank], score_M)
        tokens.put(self.plan.chances.exit_BE[:, rank], chances.exit_BE[:, 0])
        tokens.put(self.plan.chances.pass_BE[:, rank], chances.pass_BE[:, 0])

    # ---- 3. Next tokens are read where tokens exit: by the reading that decided, or when the pass has ended.

    def _read_next_tokens(
        self, rank: int, exits_N: Tensor, after_ND: Tensor, readings: Sequence[tuple[Index, HeadReading]]
    ) -> None:
        """Record next tokens that were read to decide exits, and keep the head inputs of all tokens that exit here."""
        for index, reading in readings:
            exits_M = exits_N[index]
            tokens, at = TokenSubset(index).narrow(exits_M)
            if tokens.has_tokens():
                u_M, forced_M = self.plan.u_token_N[tokens.index], self._forced(tokens.index)
                self.next_tokens.fill(tokens, self.head.next_tokens(reading, at, u_M, forced_M))
                self.head_inputs_at_exits.append((tokens, reading.head_input_UXF[at, 0]))
                tokens.put(self.unread_N, torch.zeros_like(exits_M)[at])
        if self._reads_later(rank) and (tokens := TokenSubset.from_flag(exits_N & self.unread_N)).has_tokens():
            layer = self.decoding.exitable_layers[rank]
            self.head_inputs_at_exits.append((tokens, self.head.head_input(after_ND[tokens.index], layer)))

    def _reads_later(self, rank: int) -> bool:
        """Return False if the LM head has already read all tokens that may exit here, to decide their exits."""
        rules = [group.rule for group in self.plan.groups if rank in group.ranks]
        is_online, has_screen = len(self.plan.online) == len(self.plan.groups) > 0, self.decoding.screen is not None
        return not is_online or any("head_reads" not in rule.read_by(has_screen) for rule in rules)

    def _forced(self, index: Index) -> Tensor | None:
        return None if self.plan.forced_N is None else self.plan.forced_N[index]

    def head_inputs(self, final_BTF: Tensor) -> Tensor:
        """Return the head inputs at each token's exit, (N, F), given the head inputs after the final layer."""
        head_input_NF = final_BTF[:, -self.shape[1] :].flatten(0, 1)
        if self.head_inputs_at_exits:
            head_input_NF = head_input_NF.clone()
        for tokens, head_input_MF in self.head_inputs_at_exits:
            tokens.put(head_input_NF, head_input_MF)
        return head_input_NF

    def finish(self, final_BTF: Tensor) -> Tensor:
        """Read the remaining next tokens, and return all head inputs, as `head_inputs`."""
        head_input_NF = self.head_inputs(final_BTF)
        unread = TokenSubset.from_flag(self.unread_N)
        if unread.has_tokens():
            at = unread.index
            read = self.head.read_next_tokens(head_input_NF[at], self.plan.u_token_N[at], self._forced(at))
            self.next_tokens.fill(unread, read)
        return head_input_NF

    # ---- 4. What is recorded

    def probabilities(self) -> Tensor:
        """Return the distribution over exits, (N, X); NaN where an online rule could still have exited."""
        prob_NX = self.plan.probabilities()
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
        """Flag tokens that exited by a screen's likeliest token that is not the whole head's: (N,) bool."""
        exit_N1 = self.exit_N.clamp(max=self.n_exits - 1)[:, None]
        top_token_N = self.history["top_token"].gather(1, exit_N1)[:, 0]  # NONE where the rule read nothing
        has_exited_N = self.exit_N < self.n_exits
        return has_exited_N & (top_token_N != NONE) & (top_token_N != self.next_tokens.top_token_N)
