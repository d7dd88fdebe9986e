"""Families of settings: the parameters of one mode, rule, exit set and gate, in an order from the conservative end to
the bold one.

Each rule says itself which end of its parameter is conservative (`Rule.higher_exits_later`). A grid without an order
can't be tested as a sequence: rules without a parameter, controls, and drafts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eexit.method.rules import ORACLES, RULES
from eexit.plan.configuration import Exit, configuration_of


@dataclass(frozen=True)
class Family:
    """The settings of a mode, rule, exit set and gate by their keys, the most conservative one first."""

    mode: str
    rule: str
    settings: tuple[str, ...]
    within: str = ""  # exit set and gate, as in keys

    @property
    def name(self) -> str:
        return f"{self.mode}/{self.rule}{self.within}"

    @property
    def is_oracle(self) -> bool:
        return self.rule in ORACLES


def has_order(columns: Mapping[str, Any]) -> bool:
    """Whether the configuration with these columns, as in `eexit.results.tables.CONFIGURATION`, belongs to a family."""
    rule = RULES.get(columns["rule"] or "")
    return rule is not None and rule.higher_exits_later is not None and columns["parameter"] is not None


def _conservative_first(by_key: Mapping[str, float], rule: str) -> tuple[str, ...]:
    return tuple(sorted(by_key, key=by_key.__getitem__, reverse=bool(RULES[rule].higher_exits_later)))


def families(configurations: Iterable[Mapping[str, Any]]) -> list[Family]:
    """The families of these configurations that have an order, in order of appearance."""
    parameters: dict[tuple[str, str, str], dict[str, float]] = {}
    for columns in filter(has_order, configurations):
        configuration = configuration_of(columns)
        assert isinstance(configuration, Exit)
        by_key = parameters.setdefault((configuration.mode, configuration.rule, configuration.within), {})
        by_key[configuration.key] = columns["parameter"]
    return [
        Family(mode, rule, _conservative_first(by_key, rule), within)
        for (mode, rule, within), by_key in parameters.items()
    ]
