"""Rules: the chance to exit at each exitable layer that a token reaches.

A rule is one entry of `RULES`; engine, records and reports know none of them by name. CONTRIBUTING shows how to add
one. This module does not import torch, so that the command line can check parameters without it: rules use the methods
of the tensors that they are given.

Shapes: B rows, E exitable layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from eexit.divergence import Divergence

KL_FACTOR: Final = "KL factor"
CONTROL: Final = "random"  # the rule whose parameter is a Control


@dataclass(frozen=True)
class Control:
    """The parameter of a rule that copies how often another configuration exits at each layer.

    `of` is that configuration's key, and `counts` are its decided tokens by exit layer, the final layer included.
    """

    of: str
    counts: tuple[tuple[int, int], ...]


Parameter = float | Control | None


@dataclass(frozen=True)
class Chances:
    """The chance to exit at a layer that is reached, and its complement, computed so that it is precise near 0."""

    stop_BE: Tensor
    go_on_BE: Tensor


class Rule(Protocol):
    """Decides where tokens exit. A rule that looks at the final layer is an oracle: it saves nothing at run time."""

    @property
    def definition(self) -> str:
        """The chance to exit at a layer, in words or as a formula, with its source, for schema and report."""

    @property
    def parameter(self) -> str:
        """The parameter's name; empty for a rule without one."""

    @property
    def unit(self) -> str:
        """The parameter's unit; empty if it has none."""

    @property
    def is_oracle(self) -> bool: ...

    def check(self, parameter: Parameter) -> None:
        """Raises `ValueError`, saying why, for a parameter that no model can use."""

    def setting(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The parameter as a number per exitable layer, (E,), which `chances` gets.

        Raises `ValueError` for a parameter that does not fit these layers.
        """

    def evidence(self, teacher: Divergence) -> Tensor | None:
        """What the rule looks at in each exitable layer, (B, E), in its own unit; None if it looks at nothing."""

    def chances(self, evidence_BE: Tensor | None, setting_BE: Tensor) -> Chances:
        """The chances to exit, from the evidence and the rows' settings."""


class KL:
    """Exits where a layer's distribution is close to the final one; the rule that this project started with."""

    definition = "exits with chance 2·sigmoid(−k·KL) at a layer whose distribution is KL nats from the final one"
    parameter, unit, is_oracle = KL_FACTOR, "1/nat", True

    def check(self, parameter: Parameter) -> None:
        if not (isinstance(parameter, float) and 0 <= parameter < math.inf):
            raise ValueError(f"the KL factor of rule kl must be finite and ≥ 0, got {shown(parameter)}")

    def setting(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        assert isinstance(parameter, float)
        return [parameter] * len(exitable_layers)

    def evidence(self, teacher: Divergence) -> Tensor | None:
        return teacher.kl_BE

    def chances(self, evidence_BE: Tensor | None, setting_BE: Tensor) -> Chances:
        """1 − 2·sigmoid(−x) is tanh(x / 2), which keeps its digits near 0."""
        assert evidence_BE is not None
        return Chances(2 * (-setting_BE * evidence_BE).sigmoid(), (setting_BE * evidence_BE / 2).tanh())


class Agree:
    """Exits where the likeliest token is already the final layer's: an upper bound for rules that keep that token."""

    definition = "exits at a layer whose likeliest token is the final layer's"
    parameter, unit, is_oracle = "", "", True

    def check(self, parameter: Parameter) -> None:
        if parameter is not None:
            raise ValueError(f"rule agree has no parameter, got {shown(parameter)}")

    def setting(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        return [0.0] * len(exitable_layers)

    def evidence(self, teacher: Divergence) -> Tensor | None:
        """1 where the layer's likeliest token is the final layer's, else 0."""
        return (teacher.likeliest_BX[:, :-1] == teacher.likeliest_BX[:, -1:]).to(teacher.kl_BE.dtype)

    def chances(self, evidence_BE: Tensor | None, setting_BE: Tensor) -> Chances:
        assert evidence_BE is not None
        return Chances(evidence_BE, 1 - evidence_BE)


class Fixed:
    """Exits at one layer, whatever the token: a control of known depth."""

    definition = "exits at one layer, whatever the token"
    parameter, unit, is_oracle = "exit layer", "", False

    def check(self, parameter: Parameter) -> None:
        if not (isinstance(parameter, float) and parameter >= 0 and parameter.is_integer()):
            raise ValueError(f"rule fixed takes a layer as its parameter, as in fixed=10, got {shown(parameter)}")

    def setting(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The chance to exit at each layer: 1 at the parameter's layer, else 0."""
        if parameter not in exitable_layers:
            layers = " ".join(map(str, exitable_layers))
            raise ValueError(f"rule fixed can't exit at layer {shown(parameter)}: the exitable layers are {layers}")
        return [float(layer == parameter) for layer in exitable_layers]

    def evidence(self, teacher: Divergence) -> Tensor | None:
        return None

    def chances(self, evidence_BE: Tensor | None, setting_BE: Tensor) -> Chances:
        return Chances(setting_BE, 1 - setting_BE)


class Random:
    """Exits at random, as often at each layer as another configuration: a control of the same depth."""

    definition = "exits at random, as often at each layer as another configuration, whatever the token"
    parameter, unit, is_oracle = "", "", False

    def check(self, parameter: Parameter) -> None:
        if not isinstance(parameter, Control):
            raise ValueError(f"rule {CONTROL} follows a configuration of a finished sweep: give --controls-of RESULTS")
        if sum(count for _, count in parameter.counts) < 1:
            raise ValueError(f"{parameter.of} decided no token, so that rule {CONTROL} has no exits to follow")

    def setting(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The chance to exit at a layer that is reached: the copied exits there over those there and deeper."""
        assert isinstance(parameter, Control)
        counts = dict(parameter.counts)
        foreign = [layer for layer in counts if layer < exitable_layers[-1] and layer not in exitable_layers]
        if foreign:
            layers = " ".join(map(str, exitable_layers))
            raise ValueError(f"{parameter.of} exits at layer {foreign[0]}: here the exitable layers are {layers}")
        beyond = [sum(n for other, n in counts.items() if other >= layer) for layer in exitable_layers]
        return [counts.get(layer, 0) / n if n else 0.0 for layer, n in zip(exitable_layers, beyond, strict=True)]

    def evidence(self, teacher: Divergence) -> Tensor | None:
        return None

    def chances(self, evidence_BE: Tensor | None, setting_BE: Tensor) -> Chances:
        return Chances(setting_BE, 1 - setting_BE)


RULES: Final[dict[str, Rule]] = {"kl": KL(), "agree": Agree(), "fixed": Fixed(), CONTROL: Random()}


def shown(parameter: Parameter) -> str:
    """A parameter as text, for keys and messages; different numbers give different texts."""
    if parameter is None:
        return "none"
    if isinstance(parameter, Control):
        return parameter.of.partition("/")[2]
    short = f"{parameter:g}"
    return short if float(short) == parameter else repr(parameter)
