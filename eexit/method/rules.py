"""Exit rules: the exit probability at each exitable layer that a token reaches.

A rule is a function of a `LayerView`, decorated with `rule`: those at the end of this module as well as those in users'
files and notebooks. Engine, records and reports name no rule. This module does not import torch, so that the command
line can check parameters without it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, overload

from eexit.errors import UsageError
from eexit.method.custom import RAISED, RegistryEntry, check_shape_and_dtype, entry_fields, needs_of

if TYPE_CHECKING:
    from torch import Tensor

    from eexit.method.divergence import Divergence

KL_FACTOR: Final = "KL factor"
CONTROL: Final = "random"  # the rule whose parameter is an `ExitHistogram`
# What a rule needs, and the attributes of `LayerView` that it has then.
NOTHING, HIDDEN, HIDDEN_HISTORY, PROBE, DISTRIBUTION, HISTORY, LOGITS, FINAL = (
    "nothing", "hidden", "hidden_history", "probe", "distribution", "history", "logits", "final",
)  # fmt: skip
_HIDDEN: Final = ("hidden_in", "hidden_out")
_READ: Final = (*_HIDDEN, "top2_prob", "entropy", "top_token")
HISTORIES: Final = {"top2_prob_history": "top2_prob", "entropy_history": "entropy", "top_token_history": "top_token"}
NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    NOTHING: (),
    HIDDEN: _HIDDEN,
    HIDDEN_HISTORY: (*_HIDDEN, "hidden_history"),
    PROBE: (*_HIDDEN, "predicted_kl"),
    DISTRIBUTION: _READ,
    HISTORY: (*_READ, *HISTORIES),
    LOGITS: (*_READ, "logits"),
    FINAL: ("kl", "jsd", "top_token", "final_top_token"),
}
_HEAD: Final = frozenset({DISTRIBUTION, HISTORY, LOGITS})  # needs that cost a read of the LM head


@dataclass(frozen=True)
class ExitHistogram:
    """Parameter of a rule that copies how often another configuration exits at each layer.

    `of` is the copied configuration's key. `counts` has its decided tokens by exit layer, including the final layer.
    """

    of: str
    counts: tuple[tuple[int, int], ...]


Parameter = float | ExitHistogram | None


@dataclass(frozen=True)
class ExitChances:
    """Probability to exit at a layer that a token reaches, and its complement with full precision near 0."""

    exit_BE: Tensor
    pass_BE: Tensor


class LayerView:
    """The input of a rule at one exitable layer: values for the N tokens that have reached it.

    Each value is there for rules with the need that it names. "distribution", "history" and "logits" cost a read of
    the LM head. Histories have the R exitable layers so far, this one last. A rule that needs "final" is an oracle,
    whose view has all exitable layers at once.
    """

    index: int  # the layer, from 0; -1 for oracles
    parameter: Tensor  # of the rule, at this layer: (N,)
    hidden_in: Tensor  # all but "final": the hidden state before the layer, (N, D)
    hidden_out: Tensor  # all but "final": the hidden state after the layer, (N, D)
    top2_prob: Tensor  # "distribution", the default: the two highest probabilities, (N, 2)
    entropy: Tensor  # "distribution": nats, (N,)
    top_token: Tensor  # "distribution": token ids, (N,); "final": of each exitable layer, (N, E)
    top2_prob_history: Tensor  # "history": (N, R, 2)
    entropy_history: Tensor  # "history": nats, (N, R)
    top_token_history: Tensor  # "history": token ids, (N, R)
    hidden_history: Tensor  # "hidden_history": the hidden states after the exitable layers so far, (N, R, D)
    logits: Tensor  # "logits": (N, V)
    predicted_kl: Tensor  # "probe": the prediction of a trained probe (`--probe`), nats, (N,)
    kl: Tensor  # "final": KL of each exitable layer from the final one, nats, (N, E)
    jsd: Tensor  # "final": Jensen–Shannon divergence of each exitable layer and the final one, nats, (N, E)
    final_top_token: Tensor  # "final": token ids, (N, 1)

    def __init__(self, index: int, **values: Any):
        self.__dict__.update(values, index=index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        needs = [f'"{need}"' for need, names in NEEDS.items() if name in names]
        way_out = f"give needs={' or '.join(needs)}" if needs else f"there are {', '.join(sorted(vars(self)))}"
        raise AttributeError(f"it uses {name}, which its needs lack: {way_out}")

    def view_for(self, needs: Sequence[str], tokens: slice, **more: Tensor) -> LayerView:
        """Return the view of some of the tokens for a rule with these needs."""
        names = {"hidden_in", "hidden_out", "parameter", *(name for need in needs for name in NEEDS[need])}
        values = {name: value[tokens] for name, value in vars(self).items() if name in names}
        return LayerView(self.index, **values, **more)

    @classmethod
    def at_final(cls, reference: Divergence, parameter_NE: Tensor, at: Tensor | slice = slice(None)) -> LayerView:
        """Return the view of oracles for the tokens at these indices."""
        top_token_NX = reference.top_token_BX[at]
        tokens = {"top_token": top_token_NX[:, :-1], "final_top_token": top_token_NX[:, -1:]}
        return cls(-1, parameter=parameter_NE, kl=reference.kl_BE[at], jsd=reference.jsd_BE[at], **tokens)


@dataclass(frozen=True, eq=False, kw_only=True)
class Rule(RegistryEntry):
    """Exit rule, whose function returns an exit score, compared with the parameter, or an exit probability.

    The function returns a probability if it takes the parameter, or if the rule has none.
    """

    takes_parameter: bool = False
    needs: Sequence[str] = (DISTRIBUTION,)  # of NEEDS
    parameter: str = ""  # its name; empty for a rule without one
    unit: str = ""
    score_name: str = ""  # the exit score's name, with the unit; empty for a rule without a score
    at_most: bool = False  # True: exits where the score is at most the threshold, not at least
    draws: bool = False  # True: exits are drawn; False: a token exits at the first layer that meets the condition
    higher_exits_later: bool | None = None  # None if its parameters have no order
    least: float = -math.inf  # the range of the parameter; `positive` excludes the lower end
    most: float = math.inf
    positive: bool = False
    whole: bool = False  # True: the parameter is a whole number
    example: float | None = None

    @property
    def needs_distribution(self) -> bool:
        """True if the rule needs the layer's distribution, which costs a product with the LM head at each layer."""
        return not _HEAD.isdisjoint(self.needs)

    @property
    def needs_history(self) -> bool:
        """True if the rule needs earlier layers too, so that scores depend on the exit set, and no gate fits it."""
        return not {HISTORY, HIDDEN_HISTORY}.isdisjoint(self.needs)

    @property
    def needs_probe(self) -> bool:
        return PROBE in self.needs

    @property
    def can_be_gated(self) -> bool:
        """True if a gate can save the rule's reads: those of single layers by the LM head or a screen."""
        return self.needs_distribution and not self.needs_history and not self.needs_probe

    def read_by(self, has_screen: bool) -> tuple[str, ...]:
        """Return the columns that count the rule's reads; empty if it reads hidden states or nothing."""
        by_head = ("screen_reads" if has_screen else "head_reads",) if self.needs_distribution else ()
        return (*by_head, *(("probe_reads",) if self.needs_probe else ()))

    @property
    def returns_chance(self) -> bool:
        """True if the function returns an exit probability."""
        return self.takes_parameter or not self.parameter

    def check(self, parameter: Parameter) -> None:
        """Raise `ValueError` with the reason for a parameter that no model can use."""
        if not self.parameter:
            if parameter is not None:
                raise ValueError(f"rule {self.name} has no parameter, got {format_parameter(parameter)}")
            return
        number = parameter if isinstance(parameter, float) and math.isfinite(parameter) else math.nan
        is_in_range = self.least <= number <= self.most and not (self.positive and number == self.least)
        if is_in_range and (number.is_integer() or not self.whole):
            return
        ends = [f"≥ {self.least:g}"] * (self.least > -math.inf) + [f"≤ {self.most:g}"] * (self.most < math.inf)
        limits = f"from {self.least:g} to {self.most:g}" if len(ends) == 2 else " ".join(ends) or "that is finite"
        limits = f"above {self.least:g} and up to {self.most:g}" if self.positive else limits
        kind = "whole number" if self.whole else self.parameter
        limits += f" ({self.parameter})" * self.whole
        example = f", as in {self.name}={self.example:g}" if self.example is not None else ""
        raise ValueError(f"rule {self.name} takes a {kind} {limits}{example}, got {format_parameter(parameter)}")

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """Return the parameter by exitable layer, (E,), for `chances`. Raise `ValueError` if it does not fit them."""
        return [parameter if isinstance(parameter, float) else 0.0] * len(exitable_layers)

    def exit_score(self, view: LayerView, checked_N: Tensor | bool = True) -> Tensor:
        """Return the exit score in its own unit: (N,) at one exitable layer, (N, E) of an oracle.

        Raise `UsageError` if the function of a custom rule fails, or returns another shape or dtype. So does NaN for a
        token in `checked_N` (False: none), for which the host waits.
        """
        arguments = (view, view.parameter) if self.takes_parameter else (view,)
        score: Tensor
        if self.source is None:
            score = self.function(*arguments)
            return score
        try:
            score = self.function(*arguments)
            gives_bool = self.returns_chance and not self.draws
            check_shape_and_dtype(score, view.parameter.shape, kind="bool" if gives_bool else "numbers")
            if gives_bool and str(score.dtype) != "torch.bool":
                raise TypeError("gives numbers, not True or False: if they are exit probabilities, give draws=True")
            if checked_N is not False:
                is_finite = view.kl.isfinite() if view.index < 0 else view.hidden_out.isfinite().all(-1)
                counts_N = ~view.parameter.isnan() & is_finite & checked_N
                if n_nan := int((counts_N & score.isnan()).sum()):
                    raise ValueError(f"gives NaN, {n_nan} times of {score.numel()}")
        except RAISED as error:
            where = f"layer {view.index}" if view.index >= 0 else "all layers"
            raise UsageError(f"rule {self.name}, {where}: {self.cause(error)}") from error
        return score.float()

    def chances(self, score_BE: Tensor | None, parameter_BE: Tensor) -> ExitChances:
        """Return exit probabilities: the parameters, or each from one layer's score and the token's parameter."""
        if score_BE is None:
            return ExitChances(parameter_BE, 1 - parameter_BE)
        if self.returns_chance:
            exit_BE = score_BE.nan_to_num(0).clamp(0, 1)  # NaN: a gate was shut
        else:
            met_BE = score_BE <= parameter_BE if self.at_most else score_BE >= parameter_BE
            exit_BE = met_BE.to(parameter_BE.dtype)
        return ExitChances(exit_BE, 1 - exit_BE)

    def chances_in_set(self, score_BE: Tensor | None, parameter_BE: Tensor) -> ExitChances:
        """Return exit probabilities, 0 at layers outside the exit set, whose parameter is NaN."""
        chances, outside_BE = self.chances(score_BE, parameter_BE), parameter_BE.isnan()
        return ExitChances(chances.exit_BE.masked_fill(outside_BE, 0), chances.pass_BE.masked_fill(outside_BE, 1))

    def register(self) -> None:
        for kind in (ORACLES, ONLINE, BLIND):
            kind.pop(self.name, None)
        registry = ORACLES if FINAL in self.needs else BLIND if NOTHING in self.needs else ONLINE
        RULES[self.name] = registry[self.name] = self


RULES: Final[dict[str, Rule]] = {}
ORACLES: Final[dict[str, Rule]] = {}  # they need the full-depth pass, and save nothing
ONLINE: Final[dict[str, Rule]] = {}  # they need only layers that have been run
BLIND: Final[dict[str, Rule]] = {}  # they need nothing


class KLRule(Rule):
    """Rule by a KL from the final layer's distribution, or a prediction of it: the lower, the likelier an exit."""

    def chances(self, score_BE: Tensor | None, parameter_BE: Tensor) -> ExitChances:
        """Return 2·sigmoid(−x), and its complement as tanh(x / 2), which keeps its digits near 0."""
        assert score_BE is not None
        return ExitChances(2 * (-parameter_BE * score_BE).sigmoid(), (parameter_BE * score_BE / 2).tanh())


class FixedRule(Rule):
    """Rule that exits at one layer, which is its parameter."""

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """Return 1 at the parameter's layer, else 0. A layer behind all exitable ones means the final layer."""
        assert isinstance(parameter, float)
        if parameter not in exitable_layers and parameter < exitable_layers[-1]:
            raise ValueError(
                f"rule fixed can't exit at layer {format_parameter(parameter)}: the exitable layers are "
                f"{_listed(exitable_layers)}; choose one of them, or give others with --exit-layers"
            )
        return [float(layer == parameter) for layer in exitable_layers]


class RandomRule(Rule):
    """Rule that exits at random, as often at each layer as another configuration: a control of the same depth."""

    def check(self, parameter: Parameter) -> None:
        if not isinstance(parameter, ExitHistogram):
            raise ValueError(f"rule {CONTROL} follows a configuration of a finished sweep: give --controls-of RESULTS")
        if sum(count for _, count in parameter.counts) < 1:
            raise ValueError(f"{parameter.of} decided no token, so that rule {CONTROL} has no exits to follow")

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        """Return the exit probability at each layer: the copied exits at it, over the exits at it and deeper."""
        assert isinstance(parameter, ExitHistogram)
        counts = dict(parameter.counts)
        for layer in counts:
            if layer < exitable_layers[-1] and layer not in exitable_layers:
                exitable = _listed(exitable_layers)
                raise ValueError(f"{parameter.of} exits at layer {layer}: here the exitable layers are {exitable}")
        deeper = [sum(n for other, n in counts.items() if other >= layer) for layer in exitable_layers]
        return [counts.get(layer, 0) / n if n else 0.0 for layer, n in zip(exitable_layers, deeper, strict=True)]


class PatienceRule(Rule):
    """Rule that needs a number of exitable layers in a row."""

    def per_layer(self, parameter: Parameter, exitable_layers: Sequence[int]) -> Sequence[float]:
        assert isinstance(parameter, float)
        if parameter > len(exitable_layers):
            raise ValueError(
                f"{self.name}={format_parameter(parameter)} never exits: the exitable layers are only "
                f"{_listed(exitable_layers)}; lower it, or give more --exit-layers"
            )
        return [parameter] * len(exitable_layers)


@overload
def rule(function: Callable[..., Any], /) -> Rule: ...


@overload
def rule(*, kind: type[Rule] = Rule, **declared: Any) -> Callable[[Callable[..., Any]], Rule]: ...


def rule(
    function: Callable[..., Any] | None = None, /, *, kind: type[Rule] = Rule, **declared: Any
) -> Rule | Callable[[Callable[..., Any]], Rule]:
    """Make a function a rule, whose name is the function's and whose definition is its docstring.

    `function(layer, parameter)` returns (N,) bool: True for tokens that exit at the layer. `parameter` is (N,), and is
    left out where the rule has none. With `draws=True`, it returns the exit probability instead. `function(layer)` of a
    rule with a parameter returns scores (N,): tokens exit where they are at least the parameter, or at most with
    `at_most=True`. Scores are recorded, so that a replay tries any threshold in one pass.

        @eexit.rule(parameter="ratio of the two highest probabilities")
        def ratio(layer, parameter):
            return layer.top2_prob[:, 0] / layer.top2_prob[:, 1] >= parameter

    `declared` are further fields of `Rule`: `needs` chooses the attributes of its `LayerView`, by one name or a list of
    several, and `least` and `most` are the parameter's range. Raise `UsageError` for a function that can't be a rule,
    or has a name of eexit's.
    """

    def define(function: Callable[..., Any]) -> Rule:
        fields = entry_fields("rule", function, RULES)
        parameter, needs = declared.get("parameter", ""), needs_of(declared.get("needs", DISTRIBUTION))
        what, n_arguments = f"rule {fields['name']}", len(inspect.signature(function).parameters)
        known = [need for need in NEEDS if need != NOTHING or not fields["source"]]
        if unknown := [need for need in needs or ("nothing at all",) if need not in known]:
            raise UsageError(f"{what}: needs are of {', '.join(known)}, got {unknown[0]!r}")
        if FINAL in needs and len(needs) > 1:
            others = ", ".join(need for need in needs if need != FINAL)
            raise UsageError(f"{what} needs {FINAL}, which has all layers at once: leave out {others}")
        if n_arguments not in ((1, 2) if parameter else (1,)):
            way_out = "layer, or layer and parameter" if parameter else "layer alone: or give parameter="
            raise UsageError(f"{what} is a function of {way_out}, got one of {n_arguments}")
        fields["takes_parameter"] = n_arguments == 2
        if parameter and n_arguments == 1:
            score_name = parameter * (NOTHING not in needs)
            fields |= {"score_name": score_name, "higher_exits_later": not declared.get("at_most")}
        elif NOTHING not in needs:
            fields["score_name"] = "exit probability"
        entry = kind(**fields | declared | {"needs": needs})
        entry.register()
        return entry

    return define if function is None else define(function)


@rule(
    parameter=KL_FACTOR, unit="1/nat", needs=FINAL, score_name="KL, nats", draws=True, kind=KLRule, least=0, example=0.5
)  # fmt: skip
def kl(layer: LayerView) -> Tensor:
    """exits with probability 2·sigmoid(−k·KL) at a layer whose distribution is KL nats from the final one"""
    return layer.kl


@rule(needs=FINAL, score_name="final layer's token, 1 or 0")
def agree(layer: LayerView) -> Tensor:
    """exits at a layer whose likeliest token is the final layer's"""
    return (layer.top_token == layer.final_top_token).to(layer.kl.dtype)


@rule(
    parameter="threshold", unit="probability", score_name="probability", least=0, most=1, positive=True, example=0.9,
    short="conf",
)  # fmt: skip
def confidence(layer: LayerView) -> Tensor:
    """exits at a layer that gives its likeliest token at least this probability (EE-LLM, Chen et al. 2023)"""
    return layer.top2_prob[:, 0]


@rule(parameter="threshold", unit="probability", score_name="margin", least=0, most=1, example=0.5)
def margin(layer: LayerView) -> Tensor:
    """exits at a layer whose likeliest token is at least so much more probable than the next (the softmax response of
    CALM, Schuster et al. 2022)"""
    return layer.top2_prob[:, 0] - layer.top2_prob[:, 1]


@rule(parameter="threshold", unit="nats", score_name="entropy, nats", at_most=True, least=0, example=0.5)
def entropy(layer: LayerView) -> Tensor:
    """exits at a layer whose distribution has at most this entropy (BranchyNet, Teerapittayanon et al. 2016; DeeBERT,
    Xin et al. 2020)"""
    return layer.entropy


@rule(
    parameter="threshold", unit="cosine", needs=HIDDEN, score_name="cosine", least=-1, most=1, example=0.95, short="sim"
)  # fmt: skip
def similarity(layer: LayerView) -> Tensor:
    """exits at a layer whose hidden states before and after it have at least this cosine (the hidden-state saturation
    of CALM, Schuster et al. 2022)"""
    before_ND, after_ND = layer.hidden_in.float(), layer.hidden_out.float()
    cosine_N: Tensor = (before_ND * after_ND).sum(-1) / (before_ND.norm(dim=-1) * after_ND.norm(dim=-1))
    return cosine_N


@rule(
    parameter="exitable layers in a row", unit="layers", needs=HISTORY, score_name="layers in a row", kind=PatienceRule,
    least=2, whole=True, example=2, short="pat",
)  # fmt: skip
def patience(layer: LayerView) -> Tensor:
    """exits at the last of so many exitable layers in a row that have the same likeliest token (PABEE, Zhou et al.
    2020)"""
    same_NR = (layer.top_token_history == layer.top_token_history[:, -1:]).flip(-1)
    return same_NR.float().cumprod(-1).sum(-1)


@rule(
    parameter=KL_FACTOR, unit="1/nat", needs=PROBE, score_name="predicted KL, nats", draws=True, kind=KLRule, least=0,
    example=0.5, short="pkl",
)  # fmt: skip
def predicted_kl(layer: LayerView) -> Tensor:
    """exits with probability 2·sigmoid(−k·KL), where a trained probe predicts the KL from the layer's hidden state"""
    return layer.predicted_kl


@rule(parameter="exit layer", needs=NOTHING, kind=FixedRule, least=0, whole=True, example=10)
def fixed(layer: LayerView) -> Tensor:
    """exits at one layer, whatever the token"""
    return layer.parameter


@rule(needs=NOTHING, draws=True, kind=RandomRule)
def random(layer: LayerView) -> Tensor:
    """exits at random, as often at each layer as another configuration, whatever the token"""
    return layer.parameter


def format_parameter(parameter: Parameter) -> str:
    """Return a parameter as text, for keys and messages; different numbers give different texts."""
    if parameter is None:
        return "none"
    if isinstance(parameter, ExitHistogram):
        return parameter.of.partition("/")[2]
    short = f"{parameter:g}"
    return short if float(short) == parameter else repr(parameter)


def _listed(layers: Sequence[int]) -> str:
    return " ".join(map(str, layers))
