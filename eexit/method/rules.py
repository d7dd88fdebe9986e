"""Rules: the chance to exit at each exitable layer that a token reaches.

A rule is a function of what a layer shows (`LayerView`), decorated with `rule`: those at the end of this module, and
those in users' own files and notebooks, alike. Engine, records and reports know none of them by name. This module does
not import torch, so that the command line can check parameters without it: rules use the methods of the tensors that
they are given.

Shapes: B tokens, E exitable layers, R of them so far, W width of the residual stream, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, overload

from eexit.errors import UsageError
from eexit.method.custom import (
    RAISED,
    RegistryEntry,
    check_shape_and_dtype,
    refuse_name,
    refuse_no_function,
    source_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from eexit.method.divergence import Divergence

KL_FACTOR: Final = "KL factor"
CONTROL: Final = "random"  # the rule whose parameter is a Control
# What rules may need, and what they can look at then: each name stands for an attribute of `LayerView`.
NOTHING, HIDDEN, PROBE, DISTRIBUTION, HISTORY, LOGITS, FINAL = (
    "nothing", "hidden", "probe", "distribution", "history", "logits", "final",
)  # fmt: skip
_HIDDEN: Final = ("hidden_in", "hidden_out")
_READ: Final = (*_HIDDEN, "top2_prob", "entropy", "top_token")
NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    NOTHING: (),
    HIDDEN: _HIDDEN,
    PROBE: (*_HIDDEN, "predicted_kl"),
    DISTRIBUTION: _READ,
    HISTORY: (*_READ, "top_token_history"),
    LOGITS: (*_READ, "logits"),
    FINAL: ("kl", "top_token", "final_top_token"),
}


@dataclass(frozen=True)
class ExitHistogram:
    """The parameter of a rule that copies how often another configuration exits at each layer.

    `of` is that configuration's key, and `counts` are its decided tokens by exit layer, the final layer included.
    """

    of: str
    counts: tuple[tuple[int, int], ...]


Parameter = float | ExitHistogram | None


@dataclass(frozen=True)
class ExitChances:
    """The chance to exit at a layer that is reached, and its complement, computed so that it is precise near 0."""

    exit_BE: Tensor
    pass_BE: Tensor


class LayerView:
    """What a rule can look at: the pass at one exitable layer, for the B tokens that have reached it.

    | attribute                 | shape, unit       | needs of the rule |
    | ------------------------- | ----------------- | ----------------------------------------------------------------|
    | `index`                   | a number          | the layer, from 0 |
    | `hidden_in`, `hidden_out` | (B, D)            | all but "final": the hidden state before and after the layer |
    | `top2_prob`               | (B, 2)            | "distribution", the default: the two highest probabilities |
    | `entropy`                 | (B,), nats        | "distribution" |
    | `top_token`               | (B,), token ids   | "distribution" |
    | `top_token_history`       | (B, R), token ids | "history": at the exitable layers so far, this one last |
    | `logits`                  | (B, V)            | "logits" |
    | `predicted_kl`            | (B,), nats        | "probe": predicted from `hidden_out` by a probe (`--probe`) |
    | `kl`                      | (B, E), nats      | "final": from the exitable layer to the final one |
    | `top_token`               | (B, E), token ids | "final", where `index` is -1, and all layers are read at once |
    | `final_top_token`         | (B, 1), token ids | "final" |

    Each need but "hidden", "probe" and "final" stands for a read of the head. Rules that need "final" are oracles.
    """

    index: int
    parameter: Tensor  # of the rule, at this layer: (B,)
    hidden_in: Tensor
    hidden_out: Tensor
    top2_prob: Tensor
    entropy: Tensor
    top_token: Tensor
    top_token_history: Tensor
    logits: Tensor
    predicted_kl: Tensor
    kl: Tensor
    final_top_token: Tensor

    def __init__(self, index: int, **seen: Any):
        self.__dict__.update(seen, index=index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        needs = [f'"{need}"' for need, names in NEEDS.items() if name in names]
        way_out = f"say needs={' or '.join(needs)}" if needs else f"there are {', '.join(sorted(vars(self)))}"
        raise AttributeError(f"it looks at {name}, which it does not need: {way_out}")

    def part(self, needs: str, own: slice, **more: Tensor) -> LayerView:
        """Return what a rule with this need may read of some of the tokens."""
        names = {"hidden_in", "hidden_out", "parameter", *NEEDS[needs]}
        return LayerView(self.index, **{name: each[own] for name, each in vars(self).items() if name in names}, **more)

    @property
    def is_finite(self) -> Tensor:
        """Flag the tokens whose pass has finite numbers here: (B,) bool, or (B, E) at the final layer."""
        return self.kl.isfinite() if self.index < 0 else self.hidden_out.isfinite().all(-1)

    @classmethod
    def at_final(cls, reference: Divergence, parameter_BE: Tensor, at: Tensor | slice = slice(None)) -> LayerView:
        """Return what oracles read of the tokens at these indices."""
        likeliest_BX = reference.likeliest_BX[at]
        seen = {"kl": reference.kl_BE[at], "top_token": likeliest_BX[:, :-1], "final_top_token": likeliest_BX[:, -1:]}
        return cls(-1, parameter=parameter_BE, **seen)


@dataclass(frozen=True, eq=False, kw_only=True)
class Rule(RegistryEntry):
    """Decides where tokens exit: what it sees at a layer, held against its parameter, or its chance itself.

    `at_most` exits where what is seen is at most the threshold, not at least. With `takes_parameter`, or without a
    parameter, the function gives the chance to exit.
    """

    takes_parameter: bool = False
    needs: str = DISTRIBUTION  # one of NEEDS
    parameter: str = ""  # its name; empty for a rule without one
    unit: str = ""
    sees: str = ""  # what its evidence is, with the unit; empty for a rule that looks at nothing
    at_most: bool = False
    draws: bool = False  # whether exits are left to chance; else it exits at the first layer that meets its condition
    higher_exits_later: bool | None = None  # None if its parameters have no order
    least: float = -math.inf  # the range of the parameter; `positive` excludes the lower end
    most: float = math.inf
    positive: bool = False
    example: float | None = None

    @property
    def reads(self) -> bool:
        """Whether it needs the layer's distribution, which costs a product with the head at every layer it looks at."""
        return self.needs in (DISTRIBUTION, HISTORY, LOGITS)

    @property
    def compares(self) -> bool:
        """Whether it needs the distributions of earlier layers too, so that none may be passed over."""
        return self.needs == HISTORY

    @property
    def probes(self) -> bool:
        """Whether it needs a trained probe."""
        return self.needs == PROBE

    def read_by(self, has_screen: bool) -> str | None:
        """Return the column that counts the reads of what predicts for it; None: it reads hidden states or nothing."""
        read = {HIDDEN: None, NOTHING: None, FINAL: None, PROBE: "probe_reads"}
        return read.get(self.needs, "screen_reads" if has_screen else "head_reads")

    @property
    def sees_parameter(self) -> bool:
        """Whether what it sees is another thing with another parameter."""
        return self.takes_parameter or self.probes

    @property
    def gives_chance(self) -> bool:
        """Whether its function gives the chance to exit, not what is held against a threshold."""
        return self.takes_parameter or not self.parameter

    def check(self, parameter: Parameter) -> None:
        """Raises `ValueError`, saying why, for a parameter that no model can use."""
        if not self.parameter:
            if parameter is not None:
                raise ValueError(f"rule {self.name} has no parameter, got {format_parameter(parameter)}")
            return
        number = parameter if isinstance(parameter, float) and math.isfinite(parameter) else math.nan
        if self.least <= number <= self.most and not (self.positive and number == self.least):
            return
        at_ends = [f"≥ {self.least:g}"] * (self.least > -math.inf) + [f"≤ {self.most:g}"] * (self.most < math.inf)
        ends = f"from {self.least:g} to {self.most:g}" if len(at_ends) == 2 else " ".join(at_ends) or "that is finite"
        ends = f"above {self.least:g} and up to {self.most:g}" if self.positive else ends
        example = f", as in {self.name}={self.example:g}" if self.example is not None else ""
        raise ValueError(
            f"rule {self.name} takes a {self.parameter} {ends}{example}, got {format_parameter(parameter)}"
        )

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The parameter as a number per exitable layer, (E,), which `chances` gets.

        Raises `ValueError` for a parameter that does not fit these layers.
        """
        return [parameter if isinstance(parameter, float) else 0.0] * len(exitable_layers)

    def exit_score(self, look: LayerView, checked_B: Tensor | bool = True) -> Tensor:
        """Return the exit score at one exitable layer, (B,), in its own unit; an oracle's is of all, (B, E).

        Raises `UsageError`, in a line with rule and layer, for a custom rule whose function fails, or gives other
        shapes or dtypes. Of the tokens in `checked_B`, if any, for which the host waits, also if the score is NaN.
        """
        given = (look, look.parameter) if self.takes_parameter else (look,)
        seen: Tensor
        if self.source is None:
            seen = self.function(*given)
            return seen
        try:
            seen = self.function(*given)
            wanted = "bool" if self.gives_chance and not self.draws else "numbers"
            check_shape_and_dtype(seen, look.parameter.shape, kind=wanted)
            if self.gives_chance and not self.draws and str(seen.dtype) != "torch.bool":
                raise TypeError("gives numbers, not True or False: if they are chances, say draws=True")
            if checked_B is not False:
                counts_B = ~look.parameter.isnan() & look.is_finite & checked_B
                if n_nan := int((counts_B & seen.isnan()).sum()):
                    raise ValueError(f"gives NaN, {n_nan} times of {seen.numel()}")
        except RAISED as error:
            where = f"layer {look.index}" if look.index >= 0 else "all layers"
            raise UsageError(f"rule {self.name}, {where}: {self.cause(error)}") from error
        return seen.float()

    def chances(self, score_BE: Tensor | None, parameter_BE: Tensor) -> ExitChances:
        """The chances to exit, from the evidence and the tokens' parameters; each layer's from its own alone.

        The evidence is None for rules that look at nothing: their parameters are the chances.
        """
        if score_BE is None:
            return ExitChances(parameter_BE, 1 - parameter_BE)
        if self.gives_chance:
            exit_BE = score_BE.nan_to_num(0).clamp(0, 1)  # NaN: a gate was shut
        else:
            met_BE = score_BE <= parameter_BE if self.at_most else score_BE >= parameter_BE
            exit_BE = met_BE.to(parameter_BE.dtype)
        return ExitChances(exit_BE, 1 - exit_BE)

    def chances_in_set(self, score_BE: Tensor | None, parameter_BE: Tensor) -> ExitChances:
        """The chances, and none to exit at layers outside the exit set, whose parameter is NaN."""
        found, outside_BE = self.chances(score_BE, parameter_BE), parameter_BE.isnan()
        return ExitChances(found.exit_BE.masked_fill(outside_BE, 0), found.pass_BE.masked_fill(outside_BE, 1))


class KLRule(Rule):
    """Exits by a KL from the final layer's distribution, or an estimate of it: the lower, the likelier."""

    def check(self, parameter: Parameter) -> None:
        if not (isinstance(parameter, float) and 0 <= parameter < math.inf):
            raise ValueError(
                f"the KL factor of rule {self.name} must be finite and ≥ 0, got {format_parameter(parameter)}"
            )

    def chances(self, score_BE: Tensor | None, parameter_BE: Tensor) -> ExitChances:
        """1 − 2·sigmoid(−x) is tanh(x / 2), which keeps its digits near 0."""
        assert score_BE is not None
        return ExitChances(2 * (-parameter_BE * score_BE).sigmoid(), (parameter_BE * score_BE / 2).tanh())


class FixedRule(Rule):
    """Exits at one layer: its parameter per layer is the chance to exit there."""

    def check(self, parameter: Parameter) -> None:
        if not (isinstance(parameter, float) and parameter >= 0 and parameter.is_integer()):
            raise ValueError(
                f"rule fixed takes a layer as its parameter, as in fixed=10, got {format_parameter(parameter)}"
            )

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The chance to exit at each layer: 1 at the parameter's, else 0. Behind them is only the final layer."""
        assert isinstance(parameter, float)
        if parameter not in exitable_layers and parameter < exitable_layers[-1]:
            layers = " ".join(map(str, exitable_layers))
            raise ValueError(
                f"rule fixed can't exit at layer {format_parameter(parameter)}: the exitable layers are {layers}; "
                "choose one of them, or give others with --exit-layers"
            )
        return [float(layer == parameter) for layer in exitable_layers]


class RandomRule(Rule):
    """Exits at random, as often at each layer as another configuration: a control of the same depth."""

    def check(self, parameter: Parameter) -> None:
        if not isinstance(parameter, ExitHistogram):
            raise ValueError(f"rule {CONTROL} follows a configuration of a finished sweep: give --controls-of RESULTS")
        if sum(count for _, count in parameter.counts) < 1:
            raise ValueError(f"{parameter.of} decided no token, so that rule {CONTROL} has no exits to follow")

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The chance to exit at a layer that is reached: the copied exits there over those there and deeper."""
        assert isinstance(parameter, ExitHistogram)
        counts = dict(parameter.counts)
        foreign = [layer for layer in counts if layer < exitable_layers[-1] and layer not in exitable_layers]
        if foreign:
            layers = " ".join(map(str, exitable_layers))
            raise ValueError(f"{parameter.of} exits at layer {foreign[0]}: here the exitable layers are {layers}")
        beyond = [sum(n for other, n in counts.items() if other >= layer) for layer in exitable_layers]
        return [counts.get(layer, 0) / n if n else 0.0 for layer, n in zip(exitable_layers, beyond, strict=True)]


class PatienceRule(Rule):
    """Needs a number of exitable layers in a row."""

    def check(self, parameter: Parameter) -> None:
        if not (isinstance(parameter, float) and parameter >= 2 and parameter.is_integer()):
            raise ValueError(
                f"rule {self.name} takes a whole number ≥ 2, as in patience=2, got {format_parameter(parameter)}"
            )

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        assert isinstance(parameter, float)
        if parameter > len(exitable_layers):
            layers = " ".join(map(str, exitable_layers))
            raise ValueError(
                f"{self.name}={format_parameter(parameter)} never exits: the exitable layers are only "
                f"{layers}; lower it, or give "
                "more --exit-layers"
            )
        return [parameter] * len(exitable_layers)


RULES: Final[dict[str, Rule]] = {}
ORACLES: Final[dict[str, Rule]] = {}  # they look at the final layer: they need full depth, and save nothing
ONLINE: Final[dict[str, Rule]] = {}  # they look only at layers that have been run
BLIND: Final[dict[str, Rule]] = {}  # they look at nothing


@overload
def rule(function: Callable[..., Any], /) -> Rule: ...


@overload
def rule(
    *, parameter: str = "", unit: str = "", needs: str = DISTRIBUTION, sees: str = "", at_most: bool = False,
    draws: bool = False, higher_exits_later: bool | None = None, least: float = -math.inf, most: float = math.inf,
    example: float | None = None, kind: type[Rule] = Rule, **further: Any,
) -> Callable[[Callable[..., Any]], Rule]: ...  # fmt: skip


def rule(
    function: Callable[..., Any] | None = None, /,
    *, parameter: str = "", unit: str = "", needs: str = DISTRIBUTION, sees: str = "", at_most: bool = False,
    draws: bool = False, higher_exits_later: bool | None = None, least: float = -math.inf, most: float = math.inf,
    example: float | None = None, kind: type[Rule] = Rule, **further: Any,
) -> Rule | Callable[[Callable[..., Any]], Rule]:  # fmt: skip
    """Make a function a rule, whose name is the function's, and whose definition is its docstring.

    `function(layer, parameter)` gives (B,) bool: whether tokens exit at the layer; `parameter` is (B,), and may be left
    out where the rule has none. With `draws=True`, it gives the chance in [0, 1] instead. `function(layer)` of a rule
    with a parameter gives numbers (B,): tokens exit where they are at least the parameter, or at most with `at_most`;
    these numbers are recorded, so that a replay tries any threshold in one pass. `layer` is a `LayerView`, and `needs`
    says which of its attributes there are. `least` and `most` are the parameter's range.

    Raises `UsageError` for a function that can't be a rule, and for a name that is taken by one of ours.

        @eexit.rule(parameter="ratio of the two highest probabilities")
        def ratio(layer, parameter):
            return layer.top2_prob[:, 0] / layer.top2_prob[:, 1] >= parameter
    """

    def made(function: Callable[..., Any]) -> Rule:
        refuse_no_function("rule", function)
        name, source = function.__name__, source_of(function)
        refuse_name(f"rule {name}", name, RULES)
        n_taken = len(inspect.signature(function).parameters)
        if needs not in [*NEEDS] or (source and needs == NOTHING):
            known = ", ".join(each for each in NEEDS if each != NOTHING)
            raise UsageError(f"rule {name}: needs is one of {known}, got {needs!r}")
        if n_taken not in ((1, 2) if parameter else (1,)):
            way_out = "layer, or layer and parameter" if parameter else "layer alone: or say parameter="
            raise UsageError(f"rule {name} is a function of {way_out}, got one of {n_taken}")
        order = not at_most if parameter and n_taken == 1 and higher_exits_later is None else higher_exits_later
        entry = kind(
            name=name, definition=" ".join((inspect.getdoc(function) or f"own rule {name}").split()), source=source,
            function=function, takes_parameter=n_taken == 2, needs=needs, parameter=parameter, unit=unit,
            sees=sees or ("" if needs == NOTHING else "chance to exit" if n_taken == 2 or not parameter else parameter),
            at_most=at_most, draws=draws, higher_exits_later=order, least=least, most=most, example=example, **further,
        )  # fmt: skip
        register(entry)
        return entry

    return made if function is None else made(function)


def register(entry: Rule) -> None:
    """Make a rule known by its name, in place of an own one of that name."""
    for kind in (ORACLES, ONLINE, BLIND):
        kind.pop(entry.name, None)
    RULES[entry.name] = ({FINAL: ORACLES, NOTHING: BLIND}.get(entry.needs, ONLINE))[entry.name] = entry


@rule(parameter=KL_FACTOR, unit="1/nat", needs=FINAL, sees="KL, nats", draws=True, kind=KLRule)
def kl(layer: LayerView) -> Tensor:
    """exits with chance 2·sigmoid(−k·KL) at a layer whose distribution is KL nats from the final one"""
    return layer.kl


@rule(needs=FINAL, sees="final layer's token, 1 or 0")
def agree(layer: LayerView) -> Tensor:
    """exits at a layer whose likeliest token is the final layer's"""
    return (layer.top_token == layer.final_top_token).to(layer.kl.dtype)


@rule(
    parameter="threshold", unit="probability", sees="probability", least=0, most=1, positive=True, example=0.9,
    short="conf",
)  # fmt: skip
def confidence(layer: LayerView) -> Tensor:
    """exits at a layer that gives its likeliest token at least this probability (EE-LLM, Chen et al. 2023)"""
    return layer.top2_prob[:, 0]


@rule(parameter="threshold", unit="probability", sees="margin", least=0, most=1, example=0.5)
def margin(layer: LayerView) -> Tensor:
    """exits at a layer whose likeliest token is at least so much more probable than the next (the softmax response of
    CALM, Schuster et al. 2022)"""
    return layer.top2_prob[:, 0] - layer.top2_prob[:, 1]


@rule(parameter="threshold", unit="nats", sees="entropy, nats", at_most=True, least=0, example=0.5)
def entropy(layer: LayerView) -> Tensor:
    """exits at a layer whose distribution has at most this entropy (BranchyNet, Teerapittayanon et al. 2016; DeeBERT,
    Xin et al. 2020)"""
    return layer.entropy


@rule(
    parameter="threshold", unit="cosine", needs=HIDDEN, sees="cosine", least=-1, most=1, example=0.95, short="sim"
)  # fmt: skip
def similarity(layer: LayerView) -> Tensor:
    """exits at a layer that leaves the residual stream at least so similar, by their cosine, to the one before it (the
    hidden-state saturation of CALM, Schuster et al. 2022)"""
    before_BW, after_BW = layer.hidden_in.float(), layer.hidden_out.float()
    cosine_B: Tensor = (before_BW * after_BW).sum(-1) / (before_BW.norm(dim=-1) * after_BW.norm(dim=-1))
    return cosine_B


@rule(
    parameter="exitable layers in a row", unit="layers", needs=HISTORY, sees="layers in a row", kind=PatienceRule,
    short="pat",
)  # fmt: skip
def patience(layer: LayerView) -> Tensor:
    """exits at the last of so many exitable layers in a row that have the same likeliest token (PABEE, Zhou et al.
    2020)"""
    same_BR = (layer.top_token_history == layer.top_token_history[:, -1:]).flip(-1)
    return same_BR.float().cumprod(-1).sum(-1)


@rule(
    parameter=KL_FACTOR, unit="1/nat", needs=PROBE, sees="predicted KL, nats", draws=True, kind=KLRule, short="pkl"
)  # fmt: skip
def predicted_kl(layer: LayerView) -> Tensor:
    """exits with chance 2·sigmoid(−k·KL), where a trained probe predicts the KL from the layer's stream"""
    return layer.predicted_kl


@rule(parameter="exit layer", needs=NOTHING, kind=FixedRule)
def fixed(layer: LayerView) -> Tensor:
    """exits at one layer, whatever the token"""
    return layer.parameter


@rule(needs=NOTHING, draws=True, kind=RandomRule)
def random(layer: LayerView) -> Tensor:
    """exits at random, as often at each layer as another configuration, whatever the token"""
    return layer.parameter


def format_parameter(parameter: Parameter) -> str:
    """A parameter as text, for keys and messages; different numbers give different texts."""
    if parameter is None:
        return "none"
    if isinstance(parameter, ExitHistogram):
        return parameter.of.partition("/")[2]
    short = f"{parameter:g}"
    return short if float(short) == parameter else repr(parameter)
