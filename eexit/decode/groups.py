"""Groups of slots that exit alike, and the exit decisions of a pass."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eexit.cpu.token_subset import Index
from eexit.decode.requests import DecodingConfig
from eexit.method.custom import RegistryEntry
from eexit.method.divergence import Divergence
from eexit.method.modes import MODES, Mode
from eexit.method.rules import FINAL, ONLINE, RULES, ExitChances, LayerView, Rule
from eexit.method.stick_breaking import choose_exits, exit_probabilities
from eexit.model.devices import to_device
from eexit.model.layers import Decoder
from eexit.plan.configuration import PERFECT, Configuration, EarlyExit

Criterion = tuple[Rule, tuple[int, ...], tuple[str, float] | None]  # rule, ranks and gate of a group


class SlotGroup(NamedTuple):
    """Tokens of a pass that share a rule, an exit set (as indices of exitable layers) and a gate.

    The gate is the gated rule's key, and the lowest predicted exit probability at which the rule reads a layer.
    """

    rule: Rule
    ranks: tuple[int, ...]
    gate: tuple[str, float] | None
    tokens: Index


def _criterion(configuration: EarlyExit, exitable_layers: Sequence[int]) -> Criterion:
    gate = None
    if configuration.gate not in (None, PERFECT):  # a perfect gate changes no exit
        gate = configuration.gated_rule, float(configuration.gate)
    return RULES[configuration.rule], configuration.ranks(exitable_layers), gate


@dataclass(frozen=True)
class ExitPlan:
    """Exit plan for the tokens of a pass: groups, modes, parameters, uniform draws, and the decisions so far."""

    groups: Sequence[SlotGroup]
    modes: Sequence[tuple[Mode, Tensor | None]]  # with a flag of its sequences, (B, 1) bool; None: all
    ranks: Sequence[int]  # of exitable layers at which a token may exit
    layer_X: Tensor
    parameter_NE: Tensor  # of the rule; NaN outside the exit set
    u_exit_N: Tensor
    u_token_N: Tensor
    can_all_exit: bool = True  # False if some tokens always run to full depth
    defers: bool = False  # True if a sequence needs the skipped layers at full depth
    forced_N: Tensor | None = None  # next tokens, if they are given
    checked: set[str] = field(default_factory=set)  # custom rules and modes whose numbers have been checked

    @classmethod
    def from_configurations(
        cls, configurations: Sequence[Configuration], decoding: DecodingConfig, decoder: Decoder, n_early: int
    ) -> "ExitPlan":
        """Return the plan, without draws, of sequences of which the first `n_early` have an early-exit pass."""
        layers, n_sequences = decoding.exitable_layers, len(configurations)
        parameters = np.zeros((n_sequences, len(layers)), np.float32)
        by_criterion, by_mode = defaultdict[Criterion, list[int]](list), defaultdict[Mode, list[int]](list)
        for at, configuration in enumerate(configurations):
            if isinstance(configuration, EarlyExit):
                parameters[at] = configuration.per_layer(layers)
                by_criterion[_criterion(configuration, layers)].append(at)
                if at < n_early:
                    by_mode[MODES[configuration.mode]].append(at)
        indices = [np.array(members) for members in by_criterion.values()]
        flags = [np.isin(np.arange(n_early), members)[:, None] for members in by_mode.values()]
        arrays = [np.array([*layers, decoder.n_layers - 1]), parameters, *indices, *flags]
        layer_X, parameter_BE, *sent = to_device(arrays, decoder.device)
        groups = [
            SlotGroup(*criterion, slice(None) if len(index_M) == n_sequences else index_M)
            for criterion, index_M in zip(by_criterion, sent, strict=False)
        ]
        modes = [
            (mode, None if len(members) == n_early else flag_B1)
            for (mode, members), flag_B1 in zip(by_mode.items(), sent[len(groups) :], strict=True)
        ]
        n_altering = sum(len(members) for mode, members in by_mode.items() if mode.modifies_kv)
        u_B = torch.zeros(n_sequences, device=decoder.device)
        return cls(
            groups, modes, sorted({rank for group in groups for rank in group.ranks}),
            layer_X, parameter_BE, u_B, u_B,
            can_all_exit=sum(map(len, by_mode.values())) == n_early, defers=n_altering < n_early,
        )  # fmt: skip

    @cached_property
    def chances(self) -> ExitChances:
        """Exit probabilities at each layer if it is reached, as far as decided."""
        return ExitChances(torch.zeros_like(self.parameter_NE), torch.ones_like(self.parameter_NE))

    @cached_property
    def score_NE(self) -> Tensor:
        """Exit scores, NaN where a rule has computed none."""
        return torch.full_like(self.parameter_NE, torch.nan)

    @cached_property
    def online(self) -> Sequence[SlotGroup]:
        return [group for group in self.groups if group.rule.name in ONLINE]

    def needs_check(self, custom: RegistryEntry) -> bool:
        """Return True if numbers of a custom rule or mode are to be checked now, and note the check.

        On a CPU they always are. Elsewhere they are once a batch, since the host waits for the device.
        """
        is_first = custom.name not in self.checked
        self.checked.add(custom.name)
        return is_first or self.layer_X.device.type == "cpu"

    def decide(self, reference: Divergence | None = None) -> None:
        """Decide the exits that need no read in this pass: exits of oracles, and of rules that read no layer."""
        for rule, _, _, at in self.groups:
            if rule.name in ONLINE:
                continue
            parameter_ME, score_ME = self.parameter_NE[at], None
            if FINAL in rule.needs:
                assert reference, f"{rule.name} reads the full-depth reference"
                score_ME = rule.exit_score(LayerView.at_final(reference, parameter_ME, at), self.needs_check(rule))
                self.score_NE[at] = score_ME.masked_fill(parameter_ME.isnan(), torch.nan)
            chances = rule.chances_in_set(score_ME, parameter_ME)
            self.chances.exit_BE[at], self.chances.pass_BE[at] = chances.exit_BE, chances.pass_BE

    def with_exits(self, exit_N: Tensor, **changes: Any) -> "ExitPlan":
        """Return the plan for the first tokens, whose exits (indices into X) are known."""
        parts = {name: getattr(self, name)[: len(exit_N)] for name in ("parameter_NE", "u_exit_N", "u_token_N")}
        plan = replace(self, groups=(), **parts, **changes)
        exit_NE = plan.chances.exit_BE
        exit_NE[:] = torch.arange(exit_NE.shape[1], device=exit_N.device) == exit_N[:, None]
        plan.chances.pass_BE[:] = 1 - exit_NE
        return plan

    def draw(self) -> Tensor:
        """Draw exits by stick-breaking, and return them as indices into X."""
        return choose_exits(self.chances, self.u_exit_N)

    def probabilities(self) -> Tensor:
        """Return the probability that each token exits at each layer, (N, X)."""
        return exit_probabilities(self.chances)
