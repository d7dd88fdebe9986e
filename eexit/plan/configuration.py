"""A configuration is how a run exits, drafts, or does neither: `Exit`, `Draft` or `Normal`.

This module does not import torch.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from eexit.method.rules import KL_FACTOR, ONLINE, ORACLES, RULES, Control, Parameter, shown
from eexit.method.states import STATES

NORMAL: Final = "normal"  # the mode without exits
DRAFT: Final = "draft"  # the mode that drafts
EVERY: Final = "all"  # the exit set of every exitable layer
SET_MARK: Final = "@"  # before an exit set in a key
GATE_MARK: Final = "+gate"  # before a gate's threshold in a key
PERFECT: Final = "perfect"  # in place of a threshold: a gate that lets through what exits, and nothing else
GENERATE: Final = "generate"  # transformers' own, in place of a configuration
LOOKUP: Final = "lookup"
LOOKUP_TOKENS: Final = 5  # that transformers' own lookup is asked to draft at a time
VARIANTS: Final = {  # of transformers' own
    LOOKUP: "drafts that are looked up in the text so far (prompt_lookup_num_tokens)",
}
DRAFTING: Final = (
    "no exits: tokens are drafted at an early layer (LayerSkip, Elhoushi et al. 2024), and full depth keeps those that "
    "it agrees with"
)

Columns = dict[str, str | float | int | None]

COLUMNS: Final = (
    "configuration", "mode", "rule", "parameter", "kl_factor", "exit_set", "gate", "control_of", "draft_layer",
    "draft_length",
)  # fmt: skip
_NO_COLUMNS: Final[Columns] = dict.fromkeys(COLUMNS)


@dataclass(frozen=True)
class Normal:
    """No exits. Results of others may have another mode without a rule."""

    mode: str = NORMAL

    @property
    def key(self) -> str:
        return self.mode

    @property
    def columns(self) -> Columns:
        return {**_NO_COLUMNS, "configuration": self.key, "mode": self.mode}


@dataclass(frozen=True)
class Exit:
    """Exits where a rule says so; `state` is what an exit leaves behind. `parameter` is None for rules without one.

    `layers` are its exit set: the layers that it may exit at, and that its rule looks at; none: every exitable one.
    With a `gate`, a threshold such as "0.1", a layer is read only where the sweep's gate gives the rule at least this
    chance to exit there; "perfect" stands for a gate that always knows, which only a replay can have.
    """

    state: str
    rule: str
    parameter: Parameter = None
    layers: tuple[int, ...] = ()
    gate: str | None = None

    @property
    def mode(self) -> str:
        return self.state

    @property
    def rule_key(self) -> str:
        """The configuration without the state, such as `kl/0.5` or `confidence/0.97@20,25+gate0.1`."""
        return f"{self.gated_rule}{self.within}"

    @property
    def gated_rule(self) -> str:
        """The rule and its parameter, such as `confidence/0.97`: what a gate is trained for."""
        if isinstance(self.parameter, Control) and mode_of(self.parameter.of) != self.mode:
            return f"{self.rule}/{self.parameter.of}"
        return self.rule if self.parameter is None else f"{self.rule}/{shown(self.parameter)}"

    @property
    def within(self) -> str:
        """The end of the key, which says where the rule looks: exit set and gate, such as `@20,25+gate0.1`."""
        return (f"{SET_MARK}{self.exit_set}" if self.layers else "") + (f"{GATE_MARK}{self.gate}" if self.gate else "")

    @property
    def exit_set(self) -> str | None:
        """The layers of its exit set, such as `20,25`; None for every exitable one."""
        return ",".join(map(str, self.layers)) or None

    @property
    def key(self) -> str:
        """Such as `frozen_residual/kl/0.5`."""
        return f"{self.state}/{self.rule_key}"

    @property
    def columns(self) -> Columns:
        number = self.parameter if isinstance(self.parameter, float) else None
        return {
            **_NO_COLUMNS,
            "configuration": self.key,
            "mode": self.mode,
            "rule": self.rule,
            "parameter": number,
            "kl_factor": number if self.rule in RULES and RULES[self.rule].parameter == KL_FACTOR else None,
            "exit_set": self.exit_set,
            "gate": self.gate,
            "control_of": self.parameter.of if isinstance(self.parameter, Control) else None,
        }

    @property
    def is_oracle(self) -> bool:
        """Whether the rule looks at the final layer, and so saves nothing at run time."""
        return self.rule in ORACLES

    @property
    def is_online(self) -> bool:
        """Whether the rule looks at layers that were run, and at no other."""
        return self.rule in ONLINE

    def per_layer(self, exitable_layers: Sequence[int]) -> Sequence[float]:
        """The parameter as `Rule.per_layer` has it: a number per exitable layer, (E,), NaN outside the exit set.

        Raises `ValueError` as that, and for an exit set that is not among these layers.
        """
        if foreign := [layer for layer in self.layers if layer not in exitable_layers]:
            layers = ", ".join(map(str, exitable_layers))
            raise ValueError(f"exit set {self.exit_set}: layer {foreign[0]} is not exitable, only {layers} are")
        own = self.layers or exitable_layers
        by_layer = dict(zip(own, RULES[self.rule].per_layer(self.parameter, own), strict=True))
        return [by_layer.get(layer, math.nan) for layer in exitable_layers]

    def ranks(self, exitable_layers: Sequence[int]) -> tuple[int, ...]:
        """The exit set as indices into the exitable layers."""
        return tuple(rank for rank, layer in enumerate(exitable_layers) if not self.layers or layer in self.layers)


@dataclass(frozen=True)
class Draft:
    """No exits, but up to `n_tokens` are drafted after `layer`.

    Lossless self-speculation (LayerSkip, Elhoushi et al. 2024): up to N tokens are read one after the other after an
    early layer; one pass of the remaining layers over all of them then says what full depth would have said. What it
    agrees with is kept, and its own next token after that.
    """

    layer: int
    n_tokens: int
    mode = DRAFT

    @property
    def key(self) -> str:
        """Such as `draft/20:4`."""
        return f"{DRAFT}/{self}"

    @property
    def columns(self) -> Columns:
        naming = {"configuration": self.key, "mode": DRAFT}
        return {**_NO_COLUMNS, **naming, "draft_layer": self.layer, "draft_length": str(self.n_tokens)}

    def __str__(self) -> str:
        return f"{self.layer}:{self.n_tokens}"


# `key` is its unique name, and `columns` are its columns in both tables, `COLUMNS`: see `results.tables.CONFIGURATION`.
Configuration = Normal | Exit | Draft


@dataclass(frozen=True)
class Generate:
    """The `generate` of transformers, which is timed beside configurations.

    With a `draft_layer`, it drafts with the layers up to that one (its `assistant_early_exit`), as many tokens as suits
    it, and only one row at a time. A `variant` is one of VARIANTS.
    """

    draft_layer: int | None = None
    variant: str | None = None

    @property
    def key(self) -> str:
        within = self.variant if self.draft_layer is None else self.draft_layer
        return GENERATE if within is None else f"{GENERATE}/{within}"

    @property
    def takes_one_row(self) -> bool:
        """Whether it can't decode several rows together."""
        return self.draft_layer is not None or self.variant == LOOKUP

    @property
    def columns(self) -> Columns:
        """The columns that tell it apart, by the names that those of a configuration have."""
        return {**_NO_COLUMNS, "configuration": self.key, "draft_layer": self.draft_layer}


def exiting_modes() -> dict[str, str]:
    """The modes of exits, those of own states among them, and what each does; `draft` is a mode too."""
    definitions = {name: state.definition for name, state in STATES.items()}
    return {NORMAL: "no exits: every token comes from the final layer", **definitions}


def all_modes() -> dict[str, str]:
    """All modes, and what each does."""
    return {**exiting_modes(), DRAFT: DRAFTING}


def mode_of(key: str) -> str:
    """The mode of the configuration with this key."""
    return key.partition("/")[0]


def short_name(key: str) -> str:
    """A key as menus, charts and narrow tables have it; different keys have different short names.

    Keys without the mode or the parameter are shortened alike.

    >>> short_name("frozen_residual/confidence/0.97@25"), short_name("unfrozen/confidence@25"), short_name("kl/0.5")
    ('F·conf .97@25', 'U·conf@25', 'kl .5')
    """
    mode, _, within = key.partition("/")
    if within and (letter := "D" if mode == DRAFT else STATES[mode].short if mode in STATES else ""):
        return f"{letter}·{short_name(within)}"
    words = [re.sub("^[^@+]+", lambda name: _short(name[0]), part) for part in key.split("/")]
    return re.sub(r"(?<![\d.])0(?=\.\d)", "", " ".join(words))  # 0.97 as .97


def _short(rule: str) -> str:
    return (RULES[rule].short if rule in RULES else "") or rule


def configuration_of(columns: Mapping[str, Any]) -> Configuration:
    """The configuration with these `COLUMNS`; those that are None may be missing.

    A control's histogram isn't among them, and is left empty.
    """
    if (length := columns.get("draft_length")) is not None:
        return Draft(int(columns["draft_layer"]), int(length))
    if columns.get("rule") is None:
        return Normal(columns["mode"])
    if columns.get("control_of") is not None:
        return Exit(columns["mode"], columns["rule"], Control(columns["control_of"], ()))
    parameter, exit_set = columns.get("parameter"), columns.get("exit_set")
    layers = tuple(map(int, exit_set.split(","))) if exit_set else ()
    number = None if parameter is None else float(parameter)
    return Exit(columns["mode"], columns["rule"], number, layers, columns.get("gate"))


def depends_on_seed(configuration: Configuration, temperature: float | None) -> bool:
    """Whether its runs can differ between seeds. If not, the runs of all seeds are the same one, which counts once.

    They do if tokens are sampled or exits left to chance. Where the temperature or the rule is not known, as in results
    of others, runs may differ.
    """
    if isinstance(configuration, Exit) and (configuration.rule not in RULES or RULES[configuration.rule].draws):
        return True
    return temperature != 0


def gives_its_exits(configuration: Configuration) -> bool:
    """Whether its exits follow from it alone, whatever the tokens: all at one layer, or none at all."""
    if not isinstance(configuration, Exit):
        return True
    rule = RULES.get(configuration.rule)
    return rule is not None and not rule.sees and not rule.draws


def without_mode(configuration: Configuration) -> Configuration:
    """Return what all configurations have in common that have the same tokens and exits, whatever their mode.

    Where all tokens exit at one layer, none of them ever runs a layer above it, so that none attends to what an exit
    leaves in the KV cache there. Only costs differ. A custom mode's function may fail, so that it has runs of its own.
    """
    mode = STATES.get(configuration.mode)
    if isinstance(configuration, Exit) and gives_its_exits(configuration) and mode and mode.source is None:
        return replace(configuration, state="")
    return configuration


def hashed(configuration: Configuration) -> dict[str, Any]:
    """What ids are hashes of: these four, whichever kind it is, and an exit set and a gate where there are, so that a
    sweep that was interrupted can go on.
    """
    of = asdict(configuration)
    draft = of if isinstance(configuration, Draft) else None
    further = {name: of[name] for name in ("layers", "gate") if of.get(name)}
    naming = {"mode": configuration.mode, "rule": of.get("rule"), "parameter": of.get("parameter"), "draft": draft}
    return {**naming, **further}


def parse_exit_set(text: str) -> tuple[int, ...]:
    """The layers of a text such as "20,25"; none for "all". Raises `ValueError` for any other."""
    if text == EVERY:
        return ()
    try:
        layers = tuple(int(layer) for layer in text.split(","))
    except ValueError:
        layers = ()
    if not layers or layers[0] < 0 or list(layers) != sorted(set(layers)):
        raise ValueError(f"an exit set is increasing layers with commas, as in 20,25, or {EVERY}, got {text!r}")
    return layers


def parse_drafts(text: str) -> list[Draft]:
    """The grid that a text such as "20:4" or "10,20:2,4" stands for. Raises `ValueError` for any other."""
    layers, colon, lengths = text.partition(":")
    try:
        parsed = [Draft(int(layer), int(length)) for layer in layers.split(",") for length in lengths.split(",")]
    except ValueError:
        parsed = []
    if not colon or not parsed:
        raise ValueError(f"a draft is LAYER:N, as in 20:4 or 10,20:2,4, got {text!r}")
    for draft in parsed:
        if draft.n_tokens < 1:
            raise ValueError(f"N of a draft must be 1 or more, got {draft}")
    return parsed
