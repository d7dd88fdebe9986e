"""Configurations of runs: a run exits early (`EarlyExit`), drafts (`Draft`), or does neither (`NoExit`).

Mode `normal` is full depth without exits, with which other modes are compared.
This module does not import torch.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Final

from eexit.method.modes import MODES
from eexit.method.rules import KL_FACTOR, ONLINE, ORACLES, RULES, ExitHistogram, Parameter, format_parameter

NORMAL: Final = "normal"  # the mode without exits
DRAFT: Final = "draft"  # the mode of self-speculative decoding
EVERY: Final = "all"  # exit set of all exitable layers
SET_MARK: Final = "@"  # precedes an exit set in a key
GATE_MARK: Final = "+gate"  # precedes a gate's threshold in a key
PROMPT_MARK: Final = "+prompt"  # ends the key of a configuration whose prompt tokens exit too
PROMPTS_SAVE_NOTHING: Final = "a prompt's tokens run together, so that their exits save nothing"
PERFECT: Final = "perfect"  # in place of a threshold: a gate that predicts exits without error
EARLIER_MARK: Final = "~"  # precedes six digits of the text's digest, in the name of a rule or mode that was redefined
GENERATE: Final = "generate"  # transformers' generate, in place of a configuration
LOOKUP: Final = "lookup"
LOOKUP_TOKENS: Final = 5  # per draft of transformers' prompt lookup
VARIANTS: Final = {  # variants of transformers' generate
    LOOKUP: "drafts that are looked up in the text so far (prompt_lookup_num_tokens)",
}
DRAFTING: Final = (
    "no exits: tokens are drafted at an early layer (LayerSkip, Elhoushi et al. 2024), and full depth keeps those that "
    "it agrees with"
)

Columns = dict[str, str | float | int | None]

COLUMNS: Final = (
    "configuration", "mode", "rule", "parameter", "kl_factor", "exit_set", "gate", "prompt_exits", "control_of",
    "draft_layer", "draft_length",
)  # fmt: skip
_NO_COLUMNS: Final[Columns] = dict.fromkeys(COLUMNS)


@dataclass(frozen=True)
class NoExit:
    """Configuration without exits: mode `normal`, or another program's name for it."""

    mode: str = NORMAL
    prompt_exits: ClassVar[bool] = False

    @property
    def key(self) -> str:
        return self.mode

    @property
    def columns(self) -> Columns:
        return {**_NO_COLUMNS, "configuration": self.key, "mode": self.mode}


@dataclass(frozen=True)
class EarlyExit:
    """Configuration with exits where its rule decides; `parameter` is None for a rule without one.

    `layers` is the exit set, where the rule is evaluated and tokens may exit; empty for every exitable layer. With a
    `gate`, a threshold such as "0.1", a layer is read only if the sweep's gate predicts at least this exit probability.
    "perfect" stands for a gate without errors, which only a replay can have. With `prompt_exits`, the prompt's tokens
    and the first generated token exit too; otherwise prefill runs at full depth.
    """

    mode: str
    rule: str
    parameter: Parameter = None
    layers: tuple[int, ...] = ()
    gate: str | None = None
    prompt_exits: bool = False

    @property
    def rule_key(self) -> str:
        """The configuration without its mode, such as `kl/0.5` or `confidence/0.97@20,25+gate0.1`."""
        return f"{self.gated_rule}{self.within}"

    @property
    def gated_rule(self) -> str:
        """The rule and its parameter, such as `confidence/0.97`, for which a gate is trained."""
        if isinstance(self.parameter, ExitHistogram) and mode_of(self.parameter.of) != self.mode:
            return f"{self.rule}/{self.parameter.of}"
        return self.rule if self.parameter is None else f"{self.rule}/{format_parameter(self.parameter)}"

    @property
    def within(self) -> str:
        """The end of the key, with exit set, gate and prompt exits, such as `@20,25+gate0.1+prompt`."""
        gate = f"{GATE_MARK}{self.gate}" if self.gate else ""
        return (f"{SET_MARK}{self.exit_set}" if self.layers else "") + gate + PROMPT_MARK * self.prompt_exits

    @property
    def exit_set(self) -> str | None:
        """The exit set as text, such as `20,25`; None for every exitable layer."""
        return ",".join(map(str, self.layers)) or None

    @property
    def key(self) -> str:
        """Unique name, such as `frozen_residual/kl/0.5`."""
        return f"{self.mode}/{self.rule_key}"

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
            "prompt_exits": self.prompt_exits,
            "control_of": self.parameter.of if isinstance(self.parameter, ExitHistogram) else None,
        }

    @property
    def is_oracle(self) -> bool:
        """True if the rule needs the full-depth pass, so that it saves nothing at run time."""
        return self.rule in ORACLES

    @property
    def is_online(self) -> bool:
        """True if the rule decides from layers that the token has run, and from no others."""
        return self.rule in ONLINE

    def per_layer(self, exitable_layers: Sequence[int]) -> Sequence[float]:
        """Return `Rule.per_layer` at each exitable layer, (E,), NaN outside the exit set.

        Raises: `ValueError` as `Rule.per_layer` does, or if a layer of the exit set is not exitable.
        """
        if foreign := [layer for layer in self.layers if layer not in exitable_layers]:
            layers = ", ".join(map(str, exitable_layers))
            raise ValueError(f"exit set {self.exit_set}: layer {foreign[0]} is not exitable, only {layers} are")
        own = self.layers or exitable_layers
        by_layer = dict(zip(own, RULES[self.rule].per_layer(self.parameter, own), strict=True))
        return [by_layer.get(layer, math.nan) for layer in exitable_layers]

    def ranks(self, exitable_layers: Sequence[int]) -> tuple[int, ...]:
        """Return the exit set as indices into the exitable layers."""
        return tuple(rank for rank, layer in enumerate(exitable_layers) if not self.layers or layer in self.layers)


@dataclass(frozen=True)
class Draft:
    """Self-speculative decoding: up to `n_tokens` are drafted at `layer`, then verified.

    It is lossless (LayerSkip, Elhoushi et al. 2024). An early layer drafts tokens one by one. One pass of the remaining
    layers over all of them verifies the draft. Tokens that equal the full-depth ones are accepted, and the next
    full-depth token follows.
    """

    layer: int
    n_tokens: int
    mode = DRAFT
    prompt_exits: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """Unique name, such as `draft/20:4`."""
        return f"{DRAFT}/{self}"

    @property
    def columns(self) -> Columns:
        naming = {"configuration": self.key, "mode": DRAFT}
        return {**_NO_COLUMNS, **naming, "draft_layer": self.layer, "draft_length": str(self.n_tokens)}

    def __str__(self) -> str:
        return f"{self.layer}:{self.n_tokens}"


# `key` is the unique name, and `columns` has `COLUMNS` of both tables (`results.tables.CONFIGURATION`).
Configuration = NoExit | EarlyExit | Draft


@dataclass(frozen=True)
class HFGenerate:
    """Baseline of timings: the `generate` of transformers.

    With a `draft_layer`, it drafts with the layers up to that one (`assistant_early_exit` of transformers).
    transformers then chooses the number of tokens, and decodes one sequence at a time. A `variant` is one of VARIANTS.
    """

    draft_layer: int | None = None
    variant: str | None = None

    @property
    def key(self) -> str:
        within = self.variant if self.draft_layer is None else self.draft_layer
        return GENERATE if within is None else f"{GENERATE}/{within}"

    @property
    def takes_one_row(self) -> bool:
        """True if it can decode only one sequence at a time."""
        return self.draft_layer is not None or self.variant == LOOKUP

    @property
    def columns(self) -> Columns:
        """Values of the baseline in the columns that identify a configuration."""
        return {**_NO_COLUMNS, "configuration": self.key, "draft_layer": self.draft_layer}


def exiting_modes() -> dict[str, str]:
    """Return the definition of each mode by name: `normal`, and all modes of exits, custom ones included."""
    definitions = {name: mode.definition for name, mode in MODES.items()}
    return {NORMAL: "no exits: every token comes from the final layer", **definitions}


def all_modes() -> dict[str, str]:
    """Return the definitions of all modes."""
    return {**exiting_modes(), DRAFT: DRAFTING}


def is_earlier(key: str) -> bool:
    """Return True for a configuration whose custom rule or mode was redefined, such as `skip/ratio~ba9c4d/2`."""
    return EARLIER_MARK in key


def renamed_key(key: str, names: Mapping[str, str]) -> str:
    """Return a key, or the name of a rule or mode, with other names of rules and modes."""
    return re.sub(r"(?<![\w~+.])[A-Za-z_]\w*(~[0-9a-f]+)?", lambda found: names.get(found[0], found[0]), key)


def renamed(configuration: Configuration, names: Mapping[str, str]) -> Configuration:
    """Return the configuration with other names of rules and modes."""
    if not names or not isinstance(configuration, EarlyExit):
        return configuration
    parameter = configuration.parameter
    if isinstance(parameter, ExitHistogram):
        parameter = replace(parameter, of=renamed_key(parameter.of, names))
    mode, rule = (names.get(name, name) for name in (configuration.mode, configuration.rule))
    return replace(configuration, mode=mode, rule=rule, parameter=parameter)


def mode_of(key: str) -> str:
    """Return the mode of the configuration with this key."""
    return key.partition("/")[0]


def short_name(key: str) -> str:
    """Return a short key for menus, charts and narrow tables; different keys have different short names.

    Keys without the mode or the parameter are shortened alike.

    >>> short_name("frozen_residual/confidence/0.97@25"), short_name("unfrozen/confidence@25"), short_name("kl/0.5")
    ('F·conf .97@25', 'U·conf@25', 'kl .5')
    """
    mode, _, within = key.partition("/")
    if within and (letter := "D" if mode == DRAFT else MODES[mode].short if mode in MODES else ""):
        return f"{letter}·{short_name(within)}"
    words = [re.sub("^[^@+]+", lambda name: _short(name[0]), part) for part in key.split("/")]
    return re.sub(r"(?<![\d.])0(?=\.\d)", "", " ".join(words))  # 0.97 as .97


def _short(rule: str) -> str:
    return (RULES[rule].short if rule in RULES else "") or rule


def configuration_of(columns: Mapping[str, Any]) -> Configuration:
    """Return the configuration with these `COLUMNS`; columns that are None may be missing.

    The histogram of a control (rule `random`, with the exit layers of another configuration) is in no column and stays
    empty.
    """
    if (length := columns.get("draft_length")) is not None:
        return Draft(int(columns["draft_layer"]), int(length))
    if columns.get("rule") is None:
        return NoExit(columns["mode"])
    if columns.get("control_of") is not None:
        return EarlyExit(columns["mode"], columns["rule"], ExitHistogram(columns["control_of"], ()))
    parameter, exit_set = columns.get("parameter"), columns.get("exit_set")
    layers = tuple(map(int, exit_set.split(","))) if exit_set else ()
    number = None if parameter is None else float(parameter)
    prompt_exits = columns.get("prompt_exits") in (True,)  # of older results, it is None or NaN
    return EarlyExit(columns["mode"], columns["rule"], number, layers, columns.get("gate"), prompt_exits)


def depends_on_seed(configuration: Configuration, temperature: float | None) -> bool:
    """Return True if runs can differ between seeds; otherwise the runs of all seeds are one run, which counts once.

    Runs differ if tokens are sampled or exits drawn. With an unknown temperature or rule, as in results of other
    programs, they may differ.
    """
    if isinstance(configuration, EarlyExit) and (configuration.rule not in RULES or RULES[configuration.rule].draws):
        return True
    return temperature != 0


def same_for_every_seed(configurations: Iterable[Configuration], temperature: float | None) -> frozenset[str]:
    """Return the keys of configurations whose runs are the same for every seed, so that one run stands for all."""
    return frozenset(each.key for each in configurations if not depends_on_seed(each, temperature))


def gives_its_exits(configuration: Configuration) -> bool:
    """Return True if a configuration's exits are the same for every token: at one layer, or none."""
    if not isinstance(configuration, EarlyExit):
        return True
    rule = RULES.get(configuration.rule)
    return rule is not None and not rule.score_name and not rule.draws


def without_mode(configuration: Configuration) -> Configuration:
    """Return the configuration with an empty mode if all modes have the same tokens and exits, else unchanged.

    If all tokens exit at one layer, no token ever runs a layer above it or attends to its KV cache. Only costs differ
    between modes. A custom mode's function may fail, so that its configurations stay unchanged.
    """
    mode = MODES.get(configuration.mode)
    if isinstance(configuration, EarlyExit) and gives_its_exits(configuration) and mode and mode.source is None:
        return replace(configuration, mode="")
    return configuration


def hashed(configuration: Configuration) -> dict[str, Any]:
    """Return the fields that run ids hash; later ones only if set, so that interrupted sweeps keep their ids."""
    of = asdict(configuration)
    draft = of if isinstance(configuration, Draft) else None
    further = {name: of[name] for name in ("layers", "gate", "prompt_exits") if of.get(name)}
    naming = {"mode": configuration.mode, "rule": of.get("rule"), "parameter": of.get("parameter"), "draft": draft}
    return {**naming, **further}


def parse_exit_set(text: str) -> tuple[int, ...]:
    """Return the layers of a text such as "20,25"; empty for "all". Raises `ValueError` for other texts."""
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
    """Return the drafts of a text such as "20:4" or the grid "10,20:2,4". Raises `ValueError` for other texts."""
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
