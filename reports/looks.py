"""How configurations are told apart, the same way in every chart of a report.

Rules differ in colour and modes in shape and dashes. Where all configurations have one rule, their colour says the mode
too. Colours and shapes are those of the theme's category and symbol ranges, in the order of these lists.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import altair as alt
import pandas as pd

from eexit.configuration import NORMAL, Configuration

DASHES: Final = ([1, 0], [1, 0], [6, 3], [2, 2], [9, 3, 2, 3], [12, 4])  # of modes' lines; the first is normal's


@dataclass(frozen=True)
class Looks:
    """`modes` and `families` begin with `normal`, whether or not it is there; rules of controls come last."""

    modes: tuple[str, ...]
    families: tuple[str, ...]  # rules, and normal, which has none
    by_rule: bool

    @classmethod
    def of(cls, configurations: Iterable[Configuration]) -> Self:
        found = list(configurations)
        rules = dict.fromkeys(c.rule for c in found if c.rule and not c.columns["control_of"])
        controls = dict.fromkeys(c.rule for c in found if c.rule and c.columns["control_of"])
        modes = dict.fromkeys([NORMAL, *(c.mode for c in found)])
        return cls(tuple(modes), tuple(dict.fromkeys([NORMAL, *rules, *controls])), len(rules) > 1)

    def colour(self, frame: pd.DataFrame) -> alt.Color:
        if not self.by_rule:
            return alt.Color("mode:N", title=None).scale(domain=list(self.modes)).legend(values=self._modes(frame))
        rules = [family for family in self.families if family != NORMAL and family in set(frame["family"])]
        return alt.Color("family:N", title="Rule").scale(domain=list(self.families)).legend(values=rules)

    def shape(self, frame: pd.DataFrame) -> alt.Shape:
        title = "Mode" if self.by_rule else None
        return alt.Shape("mode:N", title=title).scale(domain=list(self.modes)).legend(values=self._modes(frame))

    def dash(self) -> alt.StrokeDash:
        """Of lines: only where their colour does not say the mode."""
        dashes: Sequence[Sequence[int]] = DASHES if self.by_rule else DASHES[:1]
        ranges = [dashes[place % len(dashes)] for place in range(len(self.modes))]
        return alt.StrokeDash("mode:N", legend=None).scale(domain=list(self.modes), range=ranges)

    def _modes(self, frame: pd.DataFrame) -> list[str]:
        return [mode for mode in self.modes if mode in set(frame["mode"])]
