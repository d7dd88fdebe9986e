"""Styles that distinguish configurations, the same in every chart of a report.

In a chart of several rules, each rule has a colour and a shape, and each mode a dash pattern. In a chart of one rule,
each mode has a colour and a shape. So shapes distinguish them for readers who see few colours or print in grey. No rule
has the colour or the shape of a mode. Colours are used in the order of the theme's `category` range, shapes in the
order below.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Final, Self

import altair as alt
import pandas as pd

from eexit.plan.configuration import NORMAL, Configuration, EarlyExit
from reports.read.rule_parameters import ORACLE_MARK, oracles_beside_others

HOLLOW: Final = "Hollow: more than half of the text is one loop."
_STAR: Final = "M0,-1L0.29,-0.4L0.95,-0.31L0.48,0.15L0.59,0.81L0,0.5L-0.59,0.81L-0.48,0.15L-0.95,-0.31L-0.29,-0.4Z"
_SAND_GLASS: Final = "M-0.85,-0.85L0.85,-0.85L-0.85,0.85L0.85,0.85Z"
_BOW_TIE: Final = "M-0.85,-0.85L-0.85,0.85L0.85,-0.85L0.85,0.85Z"
_HEXAGON: Final = "M0,-0.95L0.82,-0.47L0.82,0.47L0,0.95L-0.82,0.47L-0.82,-0.47Z"
_PENTAGON: Final = "M0,-0.95L0.9,-0.29L0.56,0.77L-0.56,0.77L-0.9,-0.29Z"
_EX: Final = "M-0.9,-0.5L-0.5,-0.9L0,-0.4L0.5,-0.9L0.9,-0.5L0.4,0L0.9,0.5L0.5,0.9L0,0.4L-0.5,0.9L-0.9,0.5L-0.4,0Z"
_BAR: Final = "M-0.95,-0.35L0.95,-0.35L0.95,0.35L-0.95,0.35Z"
_POST: Final = "M-0.35,-0.95L0.35,-0.95L0.35,0.95L-0.35,0.95Z"
MODE_SHAPES: Final = ("square", _PENTAGON, "triangle-right", "triangle-left", _BAR, _POST)  # normal first
RULE_SHAPES: Final = (
    *("circle", "triangle-up", "diamond", "cross", "triangle-down"),
    *(_STAR, _EX, _HEXAGON, _SAND_GLASS, _BOW_TIE),
)
DASHES: Final = ([1, 0], [1, 0], [6, 3], [2, 2], [9, 3, 2, 3], [12, 4])  # of the lines of each mode, normal first


@dataclass(frozen=True)
class ChartStyle:
    """The modes of a sweep, with `normal` first even if the sweep lacks it, and its rules, with controls' last."""

    modes: tuple[str, ...]
    rules: tuple[str, ...]
    has_several_rules: bool  # not counting the rules of controls
    legends: str = "top"  # the side of the chart

    @classmethod
    def for_configurations(cls, configurations: Iterable[Configuration]) -> Self:
        found = list(configurations)
        keys = {c.key for c in found}
        exits = [c for c in found if isinstance(c, EarlyExit)]
        rules = dict.fromkeys(c.rule for c in exits if c.columns["control_of"] not in keys)
        controls = dict.fromkeys(c.rule for c in exits if c.columns["control_of"] in keys)
        modes = dict.fromkeys([NORMAL, *(c.mode for c in found)])
        return cls(tuple(modes), tuple(dict.fromkeys([*rules, *controls])), len(rules) > 1)

    def colour(self, frame: pd.DataFrame, one_rule: bool = False, has_legend: bool = True) -> alt.Color:
        """Return the colour channel for a chart of all rules of the sweep, or for a chart of one rule."""
        name, title, domain, legend = self._told_apart(frame, one_rule)
        return alt.Color(name, title=title, scale={"domain": domain}, legend=legend if has_legend else None)

    def shape(self, frame: pd.DataFrame, one_rule: bool = False, has_legend: bool = True) -> alt.Shape:
        """Return the shape channel of a chart, by the same field as `colour`."""
        name, title, domain, legend = self._told_apart(frame, one_rule)
        shapes = [*_in_turn(MODE_SHAPES, self.modes), *_in_turn(RULE_SHAPES, self.rules)][: len(domain)]
        scale = {"domain": domain, "range": shapes}
        return alt.Shape(name, title=title, scale=scale, legend=legend if has_legend else None)

    def dash(self, frame: pd.DataFrame) -> alt.StrokeDash:
        """Return the dash channel for lines in a chart of all rules."""
        dashes = _in_turn(DASHES if self.has_several_rules else DASHES[:1], self.modes)
        scale, title = {"domain": list(self.modes), "range": dashes}, "Mode" if self.has_several_rules else None
        legend: dict[str, Any] = {"values": self._modes(frame), "orient": self.legends}
        return alt.StrokeDash("mode:N", title=title, scale=scale, legend=legend)

    def mark(self, rule: str) -> str:
        """Return the suffix of the rule's name: a mark if the rule is an oracle and others are not, else ""."""
        return ORACLE_MARK if rule in oracles_beside_others(self.rules) else ""

    def _told_apart(self, frame: pd.DataFrame, one_rule: bool) -> tuple[str, str | None, list[str], dict[str, Any]]:
        """Return field, title, domain and legend options of the colour and shape channels.

        Vega merges the legends of colour and shape only if both have the same domain.
        """
        if one_rule or not self.has_several_rules:
            title = "Mode" if self.has_several_rules else None
            return "mode:N", title, list(self.modes), {"values": self._modes(frame), "orient": self.legends}
        rules = [rule for rule in self.rules if rule in set(frame["rule"])]
        legend: dict[str, Any] = {"values": rules, "orient": self.legends}
        if oracles := [rule for rule in rules if self.mark(rule)]:
            marked = f"indexof({json.dumps(oracles)}, datum.value) >= 0"
            legend["labelExpr"] = f"{marked} ? datum.label + '{ORACLE_MARK}' : datum.label"
        return "family:N", "Rule", [*self.modes, *self.rules], legend

    def _modes(self, frame: pd.DataFrame) -> list[str]:
        return [mode for mode in self.modes if mode in set(frame["mode"])]


def _in_turn(styles: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Return a style for each name. Styles repeat where there are more names."""
    return list(islice(cycle(styles), len(names)))
