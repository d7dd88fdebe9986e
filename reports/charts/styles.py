"""How configurations are told apart, the same way in every chart of a report.

Each mode has a shape. In a chart of several rules, each rule has a colour and each mode a dash pattern; in a chart of
one rule, each mode has a colour. No rule has the colour of a mode. Colours and shapes are taken in order from the
theme's `category` and `symbol` ranges.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import altair as alt
import pandas as pd

from eexit.plan.configuration import NORMAL, Configuration, Exit
from reports.read.parameters import ORACLE_MARK, oracles_beside_others

HOLLOW: Final = "more than half of the text is one loop"
DASHES: Final = ([1, 0], [1, 0], [6, 3], [2, 2], [9, 3, 2, 3], [12, 4])  # of the lines of each mode, normal first


@dataclass(frozen=True)
class Looks:
    """The modes of a sweep, with `normal` first even if the sweep lacks it, and its rules, those of controls last."""

    modes: tuple[str, ...]
    rules: tuple[str, ...]
    has_several_rules: bool  # not counting the rules of controls

    @classmethod
    def of(cls, configurations: Iterable[Configuration]) -> Self:
        found = list(configurations)
        keys = {c.key for c in found}
        exits = [c for c in found if isinstance(c, Exit)]
        rules = dict.fromkeys(c.rule for c in exits if c.columns["control_of"] not in keys)
        controls = dict.fromkeys(c.rule for c in exits if c.columns["control_of"] in keys)
        modes = dict.fromkeys([NORMAL, *(c.mode for c in found)])
        return cls(tuple(modes), tuple(dict.fromkeys([*rules, *controls])), len(rules) > 1)

    def colour(self, frame: pd.DataFrame, one_rule: bool = False) -> alt.Color:
        """The colour in a chart of all rules of the sweep, or in a chart of one rule."""
        if one_rule or not self.has_several_rules:
            # Vega merges the legends of colour and shape only if both have the same domain.
            modes = alt.Color("mode:N", title=self._mode_title).scale(domain=list(self.modes))
            return modes.legend(values=self._modes(frame))
        rules = [rule for rule in self.rules if rule in set(frame["rule"])]
        colour = alt.Color("family:N", title="Rule").scale(domain=[*self.modes, *self.rules])
        return colour.legend(values=rules, **_marking([rule for rule in rules if self.mark(rule)]))

    def outline(self) -> alt.Stroke:
        """The colour of outlines in a chart of all rules of the sweep; the colour's legend speaks for it."""
        several = self.has_several_rules
        scale = alt.Scale(domain=[*self.modes, *self.rules] if several else list(self.modes))
        return alt.Stroke("family:N" if several else "mode:N", scale=scale, legend=None)

    def shape(self, frame: pd.DataFrame) -> alt.Shape:
        values = self._modes(frame)
        return alt.Shape("mode:N", title=self._mode_title).scale(domain=list(self.modes)).legend(values=values)

    def dash(self, frame: pd.DataFrame) -> alt.StrokeDash:
        """The dash pattern of lines in a chart of all rules."""
        values = self._modes(frame)
        dashes = [DASHES[index % len(DASHES)] if self.has_several_rules else [1, 0] for index in range(len(self.modes))]
        channel = alt.StrokeDash("mode:N", title=self._mode_title)
        return channel.scale(domain=list(self.modes), range=dashes).legend(values=values)

    def mark(self, rule: str) -> str:
        """What follows the rule's name: a mark if it is an oracle beside other rules."""
        return ORACLE_MARK if rule in oracles_beside_others(self.rules) else ""

    @property
    def _mode_title(self) -> str | None:
        return "Mode" if self.has_several_rules else None

    def _modes(self, frame: pd.DataFrame) -> list[str]:
        return [mode for mode in self.modes if mode in set(frame["mode"])]


def hollow(points: pd.DataFrame, outline: alt.Stroke) -> dict[str, Any]:
    """Channels that draw configurations whose text is mostly one loop without a fill, if there are any."""
    if not points["looping"].any():
        return {}
    fill = alt.FillOpacityValue(1, condition=[{"test": "datum.looping", "value": 0}])
    # The legend is that of the outlines' width, since Vega has none for the opacity of fills.
    width = alt.StrokeWidth("looping:N", title="Hollow").scale(domain=[True, False], range=[2, 2])
    legend = alt.Legend(
        values=[True], labelExpr=f"'{HOLLOW}'", labelLimit=0, symbolType="circle", symbolFillColor="transparent"
    )
    return {"stroke": outline, "strokeWidth": width.legend(legend), "fillOpacity": fill}


def _marking(oracles: list[str]) -> dict[str, Any]:
    """Options of a legend that mark these rules as oracles."""
    if not oracles:
        return {}
    marked = f"indexof({json.dumps(oracles)}, datum.value) >= 0"
    return {"labelExpr": f"{marked} ? datum.label + '{ORACLE_MARK}' : datum.label"}
