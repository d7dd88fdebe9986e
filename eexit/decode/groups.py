"""By which rules and modes the tokens of a pass exit, and what is decided of them.

Shapes: B sequences, N tokens of all of them in a pass, M some of these, E exitable layers, X = E + 1 with the final
layer last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from eexit.cpu.token_subset import Index
from eexit.method.custom import RegistryEntry
from eexit.method.divergence import Divergence
from eexit.method.modes import Mode
from eexit.method.rules import FINAL, ONLINE, RULES, ExitChances, LayerView, Rule
from eexit.method.stick_breaking import choose_exits, exit_probabilities
from eexit.plan.configuration import PERFECT, EarlyExit

Criterion = tuple[Rule, tuple[int, ...], tuple[str, float] | None]  # what the slots of a group share


class SlotGroup(NamedTuple):
    """The tokens of a pass that share a rule, the exitable layers where it may exit (by index), and a gate.

    The gate is the key of the gated rule and the least chance with which it has a layer read.
    """

    rule: Rule
    ranks: tuple[int, ...]
    gate: tuple[str, float] | None
    tokens: Index


def criterion_of(configuration: EarlyExit, exitable_layers: Sequence[int]) -> Criterion:
    """Return what the slots of a group share; a perfect gate's exits are those without one."""
    gate = None
    if configuration.gate not in (None, PERFECT):
        gate = configuration.gated_rule, float(configuration.gate)
    return RULES[configuration.rule], configuration.ranks(exitable_layers), gate


@dataclass(frozen=True)
class Decisions:
    """What is decided of each token so far: the chances to exit at each layer and to pass it, and exit scores."""

    stop_NE: Tensor
    go_on_NE: Tensor
    score_NE: Tensor  # NaN where a rule computes none

    @classmethod
    def none(cls, n_tokens: int, n_exits: int, device: torch.device) -> "Decisions":
        """Return those of tokens that exit nowhere."""
        stop_NE = torch.zeros(n_tokens, n_exits, device=device)
        return cls(stop_NE, stop_NE + 1, torch.full_like(stop_NE, torch.nan))

    @classmethod
    def exits_at(cls, exit_N: Tensor, n_exits: int) -> "Decisions":
        """Return those of tokens that exit at these indices into X, whatever is drawn."""
        stop_NE = (torch.arange(n_exits, device=exit_N.device) == exit_N[:, None]).float()
        return cls(stop_NE, 1 - stop_NE, torch.full_like(stop_NE, torch.nan))

    def first(self, n_tokens: int) -> "Decisions":
        """Return those of the first tokens."""
        return Decisions(*(part[:n_tokens] for part in (self.stop_NE, self.go_on_NE, self.score_NE)))

    def draw(self, u_N: Tensor) -> Tensor:
        """Draw exits by stick-breaking, with one uniform draw of each token: indices into X."""
        return choose_exits(ExitChances(self.stop_NE, self.go_on_NE), u_N)

    def probabilities(self) -> Tensor:
        """Return the distribution that exits are drawn from, (N, X)."""
        return exit_probabilities(ExitChances(self.stop_NE, self.go_on_NE))


@dataclass(frozen=True)
class ExitPlan:
    """By which rules and modes the tokens of a pass exit, and with which parameters and draws."""

    groups: Sequence[SlotGroup]
    modes: Sequence[tuple[Mode, Tensor | None]]  # and which sequences have it, (B, 1) bool; None: all
    ranks: Sequence[int]  # of the exitable layers where a token may exit
    layer_X: Tensor
    parameter_NE: Tensor  # of the rule; NaN outside the exit set
    u_exit_N: Tensor
    u_token_N: Tensor
    can_all_exit: bool = True  # False: some tokens run to full depth, or all do together
    defers: bool = False  # True: skipped layers have to run later for some sequence
    next_token_N: Tensor | None = None  # if they are given
    checked: set[str] = field(default_factory=set)  # custom rules and modes whose numbers have been checked

    @cached_property
    def online(self) -> Sequence[SlotGroup]:
        """The groups whose rules read layers in the pass."""
        return [group for group in self.groups if group.rule.name in ONLINE]

    def checks(self, custom: RegistryEntry) -> bool:
        """Return True if numbers of a custom rule or mode are to be checked now, and note that they are.

        They always are on a CPU; elsewhere, where the host waits for the device, once a batch.
        """
        is_first = custom.name not in self.checked
        self.checked.add(custom.name)
        return is_first or self.layer_X.device.type == "cpu"

    def decide(self, reference: Divergence | None = None) -> Decisions:
        """Return what is known before the pass: by rules that read nothing, or the full-depth reference."""
        n_tokens, n_exits = self.parameter_NE.shape
        decided = Decisions.none(n_tokens, n_exits, self.parameter_NE.device)
        for rule, _, _, at in self.groups:
            if rule.name in ONLINE:
                continue
            parameter_ME, score_ME = self.parameter_NE[at], None
            if rule.needs == FINAL:
                assert reference, f"{rule.name} reads the full-depth reference"
                score_ME = rule.exit_score(LayerView.at_final(reference, parameter_ME, at), self.checks(rule))
                decided.score_NE[at] = score_ME.masked_fill(parameter_ME.isnan(), torch.nan)
            chances = rule.chances_in_set(score_ME, parameter_ME)
            decided.stop_NE[at], decided.go_on_NE[at] = chances.exit_BE, chances.pass_BE
        return decided

    def first(self, n_tokens: int) -> "ExitPlan":
        """Return the plan of the first tokens, whose exits are known."""
        parts = {name: getattr(self, name)[:n_tokens] for name in ("parameter_NE", "u_exit_N", "u_token_N")}
        return replace(self, groups=(), can_all_exit=True, **parts)
