"""Placing labels beside the points of a chart, so that no label covers another label or a point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd

# The width of the plot on a phone. Labels that don't overlap there don't overlap in a wider plot either.
PLOT_WIDTH_PIXELS: Final = 260
LETTER_WIDTH_PIXELS: Final = 6.5
LINE_HEIGHT_PIXELS: Final = 12.0
POINT_PIXELS: Final = 10.0
Align = Literal["left", "center", "right"]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class LabelPosition:
    """The offset from the point in pixels, to the right (`dx`) and down (`dy`), and the alignment of the label."""

    dx: int
    dy: int
    align: Align


_ABOVE, _BELOW = LabelPosition(0, -13, "center"), LabelPosition(0, 14, "center")
_ASIDE: Final = (
    *(LabelPosition(9, 0, "left"), LabelPosition(-9, 0, "right")),
    *(LabelPosition(7, -10, "left"), LabelPosition(-7, -10, "right")),
    *(LabelPosition(7, 11, "left"), LabelPosition(-7, 11, "right")),
)
ABOVE_FIRST: Final = (_ABOVE, _BELOW, *_ASIDE)
BELOW_FIRST: Final = (_BELOW, _ABOVE, *_ASIDE)


def label_positions(
    frame: pd.DataFrame, x: str, y: str, shown: list[str], axes: tuple["Axis", "Axis"]
) -> dict[LabelPosition, list[str]]:
    """The configurations of a trade-off frame, drawn at columns `x` and `y`, grouped by the position of their label.

    `shown` are the configurations to label; one without a free one is left out. Labels of every second series prefer
    the position below their point, so that neighbouring series collide less.
    """
    known = frame[frame[x].notna() & frame[y].notna()]
    # A control is drawn without an interval, so that its intervals must not extend the axes.
    intervals = [f"{name}_{end}" for name in (x, y) for end in ("low", "high")]
    known = known.assign(**known[intervals].mask(known["beneath"].notna()))
    right, up = (axis.pixels(known, name) for axis, name in zip(axes, (x, y), strict=True))
    labels = [str(row.label) if row.configuration in shown else "" for row in known.itertuples()]
    series = list(dict.fromkeys(known.loc[known["configuration"].isin(shown), "series"]))
    ahead = series[::2]
    prefer = [ABOVE_FIRST if name in ahead else BELOW_FIRST for name in known["series"]]
    lines = _control_lines(known["configuration"], known["beneath"], right, -up)
    found: dict[LabelPosition, list[str]] = {}
    for configuration, at in zip(
        known["configuration"], free_positions(right, -up, labels, prefer, lines), strict=True
    ):
        if at:
            found.setdefault(at, []).append(configuration)
    return found


def _control_lines(keys: pd.Series, followed: pd.Series, x: np.ndarray, y: np.ndarray) -> list[Box]:
    """The boxes that the lines from configurations to their controls cover."""
    index_of = {key: index for index, key in enumerate(keys)}
    ends = [(index_of[of], control) for control, of in enumerate(followed) if of in index_of]
    across, along = POINT_PIXELS / 2, POINT_PIXELS / 4
    return [(x[at] - across, min(y[at], y[to]) - along, x[at] + across, max(y[at], y[to]) + along) for at, to in ends]


@dataclass(frozen=True)
class Axis:
    """An axis: its length and the margin at each end in pixels, and whether it includes 0 and is logarithmic."""

    size: float
    room: float
    zero: bool
    logarithmic: bool = False

    def pixels(self, frame: pd.DataFrame, name: str) -> np.ndarray:
        """The positions of column `name` along the axis, which spans the column's values and their intervals."""
        scale = np.log if self.logarithmic else np.asarray
        extent = frame[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
        low, high = scale(np.nanmin(extent, initial=0 if self.zero else np.inf)), scale(np.nanmax(extent))
        share = (scale(frame[name].to_numpy(dtype=float)) - low) / ((high - low) or 1)
        along: np.ndarray = self.room + share * (self.size - 2 * self.room)
        return along


def free_positions(
    x: np.ndarray, y: np.ndarray, labels: list[str], prefer: Sequence[Sequence[LabelPosition]], covered: list[Box]
) -> list[LabelPosition | None]:
    """The position of each label: the first of its preferred ones that is free. None if none is, or for an empty label.

    `x` and `y` are the points' positions in pixels, to the right and down. `covered` are further boxes to keep free.
    """
    half = POINT_PIXELS / 2
    taken = [*((px - half, py - half, px + half, py + half) for px, py in zip(x, y, strict=True)), *covered]
    found: list[LabelPosition | None] = []
    for px, py, label, positions in zip(x, y, labels, prefer, strict=True):
        boxes = {at: _box(px + at.dx, py + at.dy, label, at.align) for at in positions if label}
        free = (at for at, box in boxes.items() if not any(_overlap(box, other) for other in taken))
        chosen = next(free, None)
        taken += [boxes[chosen]] if chosen else []
        found.append(chosen)
    return found


def _box(x: float, y: float, label: str, align: Align) -> Box:
    width = LETTER_WIDTH_PIXELS * len(label)
    left = x - {"left": 0, "center": width / 2, "right": width}[align]
    return left, y - LINE_HEIGHT_PIXELS / 2, left + width, y + LINE_HEIGHT_PIXELS / 2


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
