"""A configuration: mode × rule × parameter, or a draft, and what it is called."""

from dataclasses import dataclass
from typing import Final

from eexit.method.rules import KL_FACTOR, RULES, Control, Parameter, shown
from eexit.method.states import STATES
from eexit.plan.drafts import DRAFT, Draft

NORMAL: Final = "normal"  # the mode without exits
GENERATE: Final = "generate"  # transformers' own, in place of a configuration
MODES: Final = {  # of exits; `draft` is a mode too
    NORMAL: "no exits: every token comes from the final layer",
    **{name: state.definition for name, state in STATES.items()},
}

ALL_MODES: Final = {
    **MODES,
    DRAFT: "no exits: tokens are drafted at an early layer, and full depth keeps those that it agrees with (LayerSkip, "
    "Elhoushi et al. 2024)",
}


def mode_of(key: str) -> str:
    """The mode of the configuration with this key."""
    return key.partition("/")[0]


def depends_on_seed(rule: str | None, temperature: float | None) -> bool:
    """Whether runs with this rule, None for `normal` and drafts, can differ between seeds.

    They do if tokens are sampled or exits left to chance. If not, the runs of all seeds are the same one, which counts
    once. Where the temperature or the rule is not known, as in results of others, runs may differ.
    """
    return temperature != 0 or (rule is not None and (rule not in RULES or RULES[rule].draws))


@dataclass(frozen=True)
class Configuration:
    """How a run exits, or drafts.

    `rule` is None for the modes without exits, `normal` and `draft`, and `parameter` for rules without one. Mode
    `draft` has a `draft`.
    """

    mode: str
    rule: str | None = None
    parameter: Parameter = None
    draft: Draft | None = None

    @property
    def key(self) -> str:
        """Its unique name, such as `normal`, `frozen_residual/kl/0.5` or `draft/20:4`."""
        if self.draft:
            return f"{self.mode}/{self.draft}"
        if self.rule is None:
            return self.mode
        return "/".join([self.mode, self.rule, *([] if self.parameter is None else [shown(self.parameter)])])

    @property
    def columns(self) -> dict[str, str | float | int | None]:
        """Its columns in both tables: see `schema.CONFIGURATION`."""
        number = self.parameter if isinstance(self.parameter, float) else None
        return {
            "configuration": self.key,
            "mode": self.mode,
            "rule": self.rule,
            "parameter": number,
            "kl_factor": number if self.rule in RULES and RULES[self.rule].parameter == KL_FACTOR else None,
            "control_of": self.parameter.of if isinstance(self.parameter, Control) else None,
            "draft_layer": self.draft.layer if self.draft else None,
            "draft_length": self.draft.length if self.draft else None,
        }


@dataclass(frozen=True)
class Generate:
    """The `generate` of transformers, which is timed beside configurations.

    With a `draft_layer`, it drafts with the layers up to that one (its `assistant_early_exit`), as many tokens as suits
    it, and only one row at a time.
    """

    draft_layer: int | None = None

    @property
    def key(self) -> str:
        return GENERATE if self.draft_layer is None else f"{GENERATE}/{self.draft_layer}"

    @property
    def columns(self) -> dict[str, str | float | int | None]:
        """As those of a configuration."""
        nothing = dict.fromkeys(Configuration(NORMAL).columns)
        return {**nothing, "configuration": self.key, "draft_layer": self.draft_layer}
