"""A configuration: mode × rule × parameter, and what it is called."""

from dataclasses import dataclass
from typing import Final

from eexit.rules import KL_FACTOR, RULES, Control, Parameter, shown
from eexit.states import STATES

NORMAL: Final = "normal"  # the mode without exits
MODES: Final = {
    NORMAL: "no exits: every token comes from the final layer",
    **{name: state.definition for name, state in STATES.items()},
}


def mode_of(key: str) -> str:
    """The mode of the configuration with this key."""
    return key.partition("/")[0]


@dataclass(frozen=True)
class Configuration:
    """How a run exits. `rule` is None for mode `normal`, and `parameter` is None for rules without one."""

    mode: str
    rule: str | None = None
    parameter: Parameter = None

    @property
    def key(self) -> str:
        """Its unique name, such as `normal` or `frozen_residual/kl/0.5`."""
        if self.rule is None:
            return self.mode
        return "/".join([self.mode, self.rule, *([] if self.parameter is None else [shown(self.parameter)])])

    @property
    def columns(self) -> dict[str, str | float | None]:
        """Its columns in both tables: see `schema.CONFIGURATION`."""
        number = self.parameter if isinstance(self.parameter, float) else None
        return {
            "configuration": self.key,
            "mode": self.mode,
            "rule": self.rule,
            "parameter": number,
            "kl_factor": number if self.rule in RULES and RULES[self.rule].parameter == KL_FACTOR else None,
            "control_of": self.parameter.of if isinstance(self.parameter, Control) else None,
        }
