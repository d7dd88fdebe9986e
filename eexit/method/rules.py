"""Rules: the chance to exit at each exitable layer that a token reaches.

A rule is one entry of `ORACLES`, `ONLINE` or `BLIND`, by what it looks at; engine, records and reports know none of
them by name. CONTRIBUTING shows how to add one. This module does not import torch, so that the command line can check
parameters without it: rules use the methods of the tensors that they are given.

Shapes: B rows, E exitable layers (all of them, or the one that is looked at), W width of the residual stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from eexit.method.divergence import Divergence
    from eexit.method.probes import Probe

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


@dataclass(frozen=True)
class Distribution:
    """A layer's distribution over the next token, for each row."""

    top_p_B2: Tensor  # the two highest probabilities, highest first
    entropy_B: Tensor  # nats


@dataclass(frozen=True)
class Look:
    """What an online rule can look at: the student's own pass at an exitable layer, for the rows that have reached it.

    The distribution is there only for rules that read; for those that compare, `likeliest_BR` has the likeliest token
    at each of the R exitable layers so far, this one last. The probe is there if the sweep has one.
    """

    layer: int
    before_BW: Tensor  # the residual stream before the layer, which is the one after the layer before it
    after_BW: Tensor
    read: Distribution | None
    likeliest_BR: Tensor | None
    parameter_B: Tensor  # of the rule, at this layer
    probe: Probe | None = None


class Rule(Protocol):
    """Decides where tokens exit."""

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
    def higher_exits_later(self) -> bool | None:
        """Whether a higher parameter is the more conservative one; None if its parameters have no order."""

    @property
    def draws(self) -> bool:
        """Whether exits are left to chance; else it exits at the first layer that meets its condition."""

    @property
    def sees(self) -> str:
        """What the rule's evidence is, with the unit, in a few words; empty for a rule that looks at nothing."""

    def check(self, parameter: Parameter) -> None:
        """Raises `ValueError`, saying why, for a parameter that no model can use."""

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The parameter as a number per exitable layer, (E,), which `chances` gets.

        Raises `ValueError` for a parameter that does not fit these layers.
        """

    def chances(self, evidence_BE: Tensor | None, parameter_BE: Tensor) -> Chances:
        """The chances to exit, from the evidence and the rows' parameters; each layer's from its own alone.

        The evidence is None for rules that look at nothing.
        """


class Oracle(Rule, Protocol):
    """A rule that looks at the final layer: it needs the full-depth pass, and saves nothing at run time."""

    def evidence(self, teacher: Divergence) -> Tensor:
        """What the rule looks at in each exitable layer, (B, E), in its own unit."""


class Online(Rule, Protocol):
    """A rule that looks only at layers that have been run."""

    @property
    def reads(self) -> bool:
        """Whether it needs the layer's distribution, which costs a product with the head at every layer it looks at."""

    @property
    def compares(self) -> bool:
        """Whether it needs the distributions of earlier layers too, so that none may be passed over."""

    @property
    def probes(self) -> bool:
        """Whether it needs a trained probe."""

    def evidence(self, look: Look) -> Tensor:
        """What the rule sees at one exitable layer, (B,), in its own unit."""


class ByKL:
    """Exits by a KL from the final layer's distribution, or an estimate of it: the lower, the likelier."""

    name: str
    parameter, unit = KL_FACTOR, "1/nat"
    higher_exits_later = draws = True

    def check(self, parameter: Parameter) -> None:
        if not (isinstance(parameter, float) and 0 <= parameter < math.inf):
            raise ValueError(f"the KL factor of rule {self.name} must be finite and ≥ 0, got {shown(parameter)}")

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        assert isinstance(parameter, float)
        return [parameter] * len(exitable_layers)

    def chances(self, evidence_BE: Tensor | None, parameter_BE: Tensor) -> Chances:
        """1 − 2·sigmoid(−x) is tanh(x / 2), which keeps its digits near 0."""
        assert evidence_BE is not None
        return Chances(2 * (-parameter_BE * evidence_BE).sigmoid(), (parameter_BE * evidence_BE / 2).tanh())


class TrueKL(ByKL):
    """Exits where a layer's distribution is close to the final one; the rule that this project started with."""

    name = "kl"
    definition = "exits with chance 2·sigmoid(−k·KL) at a layer whose distribution is KL nats from the final one"
    sees = "KL, nats"

    def evidence(self, teacher: Divergence) -> Tensor:
        return teacher.kl_BE


class PredictedKL(ByKL):
    """Exits by the KL that a trained probe predicts from the layer's residual stream, so that it can be deployed."""

    name = "predicted_kl"
    definition = "exits with chance 2·sigmoid(−k·KL), where a trained probe predicts the KL from the layer's stream"
    sees, reads, compares, probes = "predicted KL, nats", False, False, True

    def evidence(self, look: Look) -> Tensor:
        assert look.probe is not None
        return look.probe.predicted_kl(look.after_BW, look.layer, look.parameter_B)


class Agree:
    """Exits where the likeliest token is already the final layer's: an upper bound for rules that keep that token."""

    definition = "exits at a layer whose likeliest token is the final layer's"
    parameter, unit, sees = "", "", "final layer's token, 1 or 0"
    higher_exits_later, draws = None, False

    def check(self, parameter: Parameter) -> None:
        if parameter is not None:
            raise ValueError(f"rule agree has no parameter, got {shown(parameter)}")

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        return [0.0] * len(exitable_layers)

    def evidence(self, teacher: Divergence) -> Tensor:
        """1 where the layer's likeliest token is the final layer's, else 0."""
        return (teacher.likeliest_BX[:, :-1] == teacher.likeliest_BX[:, -1:]).to(teacher.kl_BE.dtype)

    def chances(self, evidence_BE: Tensor | None, parameter_BE: Tensor) -> Chances:
        assert evidence_BE is not None
        return Chances(evidence_BE, 1 - evidence_BE)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Exits at layers where what it sees is at least the threshold; `at_most` turns that round."""

    name: str
    definition: str
    unit: str
    example: float
    least: float  # the range of the threshold; `positive` excludes the lower end
    most: float
    see: Callable[[Look], Tensor]
    sees: str
    reads: bool = True
    compares: bool = False
    probes: bool = False
    positive: bool = False
    at_most: bool = False
    parameter: str = "threshold"
    draws: bool = False

    @property
    def higher_exits_later(self) -> bool:
        return not self.at_most

    def check(self, parameter: Parameter) -> None:
        is_within = isinstance(parameter, float) and self.least <= parameter <= self.most and parameter < math.inf
        if is_within and not (self.positive and parameter == self.least):
            return
        ends = f"≥ {self.least:g}" if self.most == math.inf else f"from {self.least:g} to {self.most:g}"
        ends = f"above {self.least:g} and up to {self.most:g}" if self.positive else ends
        example = f"{self.name}={self.example:g}"
        raise ValueError(f"rule {self.name} takes a threshold {ends}, as in {example}, got {shown(parameter)}")

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        assert isinstance(parameter, float)
        return [parameter] * len(exitable_layers)

    def evidence(self, look: Look) -> Tensor:
        return self.see(look)

    def chances(self, evidence_BE: Tensor | None, parameter_BE: Tensor) -> Chances:
        assert evidence_BE is not None
        return certain(evidence_BE <= parameter_BE if self.at_most else evidence_BE >= parameter_BE, parameter_BE)


def certain(stop_BE: Tensor, parameter_BE: Tensor) -> Chances:
    """The chances of a rule that leaves nothing to chance, from where it stops."""
    stop_BE = stop_BE.to(parameter_BE.dtype)
    return Chances(stop_BE, 1 - stop_BE)


def chances_in_set(rule: Rule, evidence_BE: Tensor | None, parameter_BE: Tensor) -> Chances:
    """The rule's chances, and none to exit at layers outside the exit set, whose parameter is NaN."""
    found, outside_BE = rule.chances(evidence_BE, parameter_BE), parameter_BE.isnan()
    return Chances(found.stop_BE.masked_fill(outside_BE, 0), found.go_on_BE.masked_fill(outside_BE, 1))


def _read(look: Look) -> Distribution:
    assert look.read is not None
    return look.read


def _cosine(look: Look) -> Tensor:
    """Of the residual streams after the layer and before it, in fp32."""
    before_BW, after_BW = look.before_BW.float(), look.after_BW.float()
    cosine_B: Tensor = (before_BW * after_BW).sum(-1) / (before_BW.norm(dim=-1) * after_BW.norm(dim=-1))
    return cosine_B


class Fixed:
    """Exits at one layer, whatever the token: a control of known depth."""

    definition = "exits at one layer, whatever the token"
    parameter, unit, sees = "exit layer", "", ""
    higher_exits_later, draws = True, False

    def check(self, parameter: Parameter) -> None:
        if not (isinstance(parameter, float) and parameter >= 0 and parameter.is_integer()):
            raise ValueError(f"rule fixed takes a layer as its parameter, as in fixed=10, got {shown(parameter)}")

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The chance to exit at each layer: 1 at the parameter's, else 0. Behind them is only the final layer."""
        assert isinstance(parameter, float)
        if parameter not in exitable_layers and parameter < exitable_layers[-1]:
            layers = " ".join(map(str, exitable_layers))
            raise ValueError(
                f"rule fixed can't exit at layer {shown(parameter)}: the exitable layers are {layers}; "
                "choose one of them, or give others with --exit-layers"
            )
        return [float(layer == parameter) for layer in exitable_layers]

    def chances(self, evidence_BE: Tensor | None, parameter_BE: Tensor) -> Chances:
        return Chances(parameter_BE, 1 - parameter_BE)


class Random:
    """Exits at random, as often at each layer as another configuration: a control of the same depth."""

    definition = "exits at random, as often at each layer as another configuration, whatever the token"
    parameter, unit, sees = "", "", ""
    higher_exits_later, draws = None, True

    def check(self, parameter: Parameter) -> None:
        if not isinstance(parameter, Control):
            raise ValueError(f"rule {CONTROL} follows a configuration of a finished sweep: give --controls-of RESULTS")
        if sum(count for _, count in parameter.counts) < 1:
            raise ValueError(f"{parameter.of} decided no token, so that rule {CONTROL} has no exits to follow")

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The chance to exit at a layer that is reached: the copied exits there over those there and deeper."""
        assert isinstance(parameter, Control)
        counts = dict(parameter.counts)
        foreign = [layer for layer in counts if layer < exitable_layers[-1] and layer not in exitable_layers]
        if foreign:
            layers = " ".join(map(str, exitable_layers))
            raise ValueError(f"{parameter.of} exits at layer {foreign[0]}: here the exitable layers are {layers}")
        beyond = [sum(n for other, n in counts.items() if other >= layer) for layer in exitable_layers]
        return [counts.get(layer, 0) / n if n else 0.0 for layer, n in zip(exitable_layers, beyond, strict=True)]

    def chances(self, evidence_BE: Tensor | None, parameter_BE: Tensor) -> Chances:
        return Chances(parameter_BE, 1 - parameter_BE)


class Patience:
    """Exits where a layer's likeliest token has been the same at several exitable layers in a row."""

    definition = (
        "exits at the last of so many exitable layers in a row that have the same likeliest token (PABEE, Zhou et al. "
        "2020)"
    )
    parameter, unit, sees = "exitable layers in a row", "layers", "layers in a row"
    higher_exits_later, draws = True, False
    reads, compares, probes = True, True, False

    def check(self, parameter: Parameter) -> None:
        if not (isinstance(parameter, float) and parameter >= 2 and parameter.is_integer()):
            raise ValueError(f"rule patience takes a whole number ≥ 2, as in patience=2, got {shown(parameter)}")

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        assert isinstance(parameter, float)
        if parameter > len(exitable_layers):
            layers = " ".join(map(str, exitable_layers))
            raise ValueError(
                f"patience={shown(parameter)} never exits: the exitable layers are only {layers}; lower it, or give "
                "more --exit-layers"
            )
        return [parameter] * len(exitable_layers)

    def evidence(self, look: Look) -> Tensor:
        """How many exitable layers in a row have had this likeliest token."""
        assert look.likeliest_BR is not None
        same_BR = (look.likeliest_BR == look.likeliest_BR[:, -1:]).flip(-1)
        return same_BR.float().cumprod(-1).sum(-1)

    def chances(self, evidence_BE: Tensor | None, parameter_BE: Tensor) -> Chances:
        assert evidence_BE is not None
        return certain(evidence_BE >= parameter_BE, parameter_BE)


ORACLES: Final[dict[str, Oracle]] = {"kl": TrueKL(), "agree": Agree()}
ONLINE: Final[dict[str, Online]] = {
    "confidence": Threshold(
        name="confidence",
        definition="exits at a layer that gives its likeliest token at least this probability (EE-LLM, Chen et al. "
        "2023)",
        see=lambda look: _read(look).top_p_B2[:, 0],
        sees="probability",
        unit="probability",
        example=0.9,
        least=0,
        most=1,
        positive=True,
    ),
    "margin": Threshold(
        name="margin",
        definition="exits at a layer whose likeliest token is at least so much more probable than the next (the "
        "softmax response of CALM, Schuster et al. 2022)",
        see=lambda look: _read(look).top_p_B2[:, 0] - _read(look).top_p_B2[:, 1],
        sees="margin",
        unit="probability",
        example=0.5,
        least=0,
        most=1,
    ),
    "entropy": Threshold(
        name="entropy",
        definition="exits at a layer whose distribution has at most this entropy (BranchyNet, Teerapittayanon et al. "
        "2016; DeeBERT, Xin et al. 2020)",
        see=lambda look: _read(look).entropy_B,
        sees="entropy, nats",
        unit="nats",
        example=0.5,
        least=0,
        most=math.inf,
        at_most=True,
    ),
    "similarity": Threshold(
        name="similarity",
        definition="exits at a layer that leaves the residual stream at least so similar, by their cosine, to the one "
        "before it (the hidden-state saturation of CALM, Schuster et al. 2022)",
        see=_cosine,
        sees="cosine",
        unit="cosine",
        example=0.95,
        least=-1,
        most=1,
        reads=False,
    ),
    "patience": Patience(),
    "predicted_kl": PredictedKL(),
}
BLIND: Final[dict[str, Rule]] = {"fixed": Fixed(), CONTROL: Random()}  # they look at nothing
RULES: Final[dict[str, Rule]] = {**ORACLES, **ONLINE, **BLIND}
SHORT_NAMES: Final = {
    "confidence": "conf",
    "similarity": "sim",
    "patience": "pat",
    "predicted_kl": "pkl",
}  # of the long


def shown(parameter: Parameter) -> str:
    """A parameter as text, for keys and messages; different numbers give different texts."""
    if parameter is None:
        return "none"
    if isinstance(parameter, Control):
        return parameter.of.partition("/")[2]
    short = f"{parameter:g}"
    return short if float(short) == parameter else repr(parameter)
