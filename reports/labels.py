"""Where labels stand beside the points of a chart, so that none covers another or a point."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd

# The plot as narrow as on a phone, in pixels: what is apart there is apart in every wider one.
PLOT_WIDTH_PIXELS: Final = 260
LETTER_WIDTH_PIXELS: Final = 6.5
LINE_HEIGHT_PIXELS: Final = 12.0
POINT_PIXELS: Final = 10.0
Align = Literal["left", "center", "right"]
Box = tuple[float, float, float, float]  # left, top, right, bottom
_AWAY: Final[
    dict[str, tuple[int, int, Align]]
] = {  # from the point: pixels right and down, and how the text is aligned there
    "above": (0, -13, "center"),
    "below": (0, 14, "center"),
    "right": (9, 0, "left"),
    "left": (-9, 0, "right"),
    "above right": (7, -10, "left"),
    "above left": (-7, -10, "right"),
    "below right": (7, 11, "left"),
    "below left": (-7, 11, "right"),
}
ABOVE_FIRST: Final = tuple(_AWAY)
BELOW_FIRST: Final = ("below", "above", *ABOVE_FIRST[2:])


@dataclass(frozen=True)
class LabelPlace:
    """`dx` and `dy` from the point, in pixels, and how the label is aligned there."""

    dx: int
    dy: int
    align: Align


def label_places(
    frame: pd.DataFrame, y: str, shown: list[str], axes: tuple["Axis", "Axis"]
) -> dict[LabelPlace, list[str]]:
    """The configurations of a trade-off frame by the place of their label; those without a place are left out.

    `shown` are the configurations that have a label. Every other series has its labels below its points if it can.
    """
    known = frame[frame[y].notna() & frame["layers_skipped"].notna()]
    # Of a control nothing but its tick is drawn.
    intervals = [f"{name}_{end}" for name in ("layers_skipped", y) for end in ("low", "high")]
    known = known.assign(**known[intervals].mask(known["beneath"].notna()))
    right, up = (axis.pixels(known, name) for axis, name in zip(axes, ("layers_skipped", y), strict=True))
    labels = [str(row.label) if row.configuration in shown else "" for row in known.itertuples()]
    series = list(dict.fromkeys(known.loc[known["configuration"].isin(shown), "series"]))
    ahead = series[::2]
    prefer = [ABOVE_FIRST if name in ahead else BELOW_FIRST for name in known["series"]]
    lines = _control_lines(known["configuration"], known["beneath"], right, -up)
    found: dict[LabelPlace, list[str]] = {}
    for configuration, at in zip(known["configuration"], place(right, -up, labels, prefer, lines), strict=True):
        if at:
            found.setdefault(at, []).append(configuration)
    return found


def _control_lines(keys: pd.Series, followed: pd.Series, x: np.ndarray, y: np.ndarray) -> list[Box]:
    """What the line from each configuration to its control's tick covers."""
    place_of = {key: place for place, key in enumerate(keys)}
    ends = [(place_of[of], control) for control, of in enumerate(followed) if of in place_of]
    return [
        (
            x[at] - POINT_PIXELS / 2,
            min(y[at], y[to]) - POINT_PIXELS / 4,
            x[at] + POINT_PIXELS / 2,
            max(y[at], y[to]) + POINT_PIXELS / 4,
        )
        for at, to in ends
    ]


@dataclass(frozen=True)
class Axis:
    """An axis: its length and the margin at both ends, in pixels; whether it starts at 0, and is logarithmic."""

    size: float
    room: float
    zero: bool
    logarithmic: bool = False

    def pixels(self, frame: pd.DataFrame, name: str) -> np.ndarray:
        """How far along column `name` is. The axis goes as far as its values and their intervals do."""
        scale = np.log if self.logarithmic else np.asarray
        extent = frame[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
        low, high = scale(np.nanmin(extent, initial=0 if self.zero else np.inf)), scale(np.nanmax(extent))
        share = (scale(frame[name].to_numpy(dtype=float)) - low) / ((high - low) or 1)
        along: np.ndarray = self.room + share * (self.size - 2 * self.room)
        return along


def place(
    x: np.ndarray, y: np.ndarray, labels: list[str], prefer: list[tuple[str, ...]], covered: list[Box]
) -> list[LabelPlace | None]:
    """A place for each label that isn't empty, in turn, at the first of its preferences that is free; None if none is.

    `x` and `y` are pixels to the right and down, where the points are; `covered` is what else is not free.
    """
    taken = [
        (px - POINT_PIXELS / 2, py - POINT_PIXELS / 2, px + POINT_PIXELS / 2, py + POINT_PIXELS / 2)
        for px, py in zip(x, y, strict=True)
    ]
    taken += covered
    found: list[LabelPlace | None] = []
    for px, py, label, names in zip(x, y, labels, prefer, strict=True):
        chosen = None
        for dx, dy, align in (_AWAY[name] for name in names if label):
            box = _box(px + dx, py + dy, LETTER_WIDTH_PIXELS * len(label), align)
            if not any(_overlap(box, other) for other in taken):
                chosen = LabelPlace(dx, dy, align)
                taken.append(box)
                break
        found.append(chosen)
    return found


def _box(x: float, y: float, width: float, align: Align) -> Box:
    left = x - {"left": 0, "center": width / 2, "right": width}[align]
    return left, y - LINE_HEIGHT_PIXELS / 2, left + width, y + LINE_HEIGHT_PIXELS / 2


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
