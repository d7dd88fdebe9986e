"""The numbers of a row of a frame as text, with their intervals, as templates of findings name them."""

from typing import Any

from eexit.messages.written import bracketed, is_known, percent, written
from reports.frames.axes import RUN, SKIPPED, CostAxis

Row = dict[Any, Any]


def with_interval(row: Row, name: str, form: str = ".1%") -> str:
    """An estimate, its interval if there is one, and its n if that isn't the row's."""
    fewer = "" if not is_known(row[name]) or row[f"{name}_n"] == row["n"] else f" (n = {row[f'{name}_n']:.0f})"
    return written(row[name], form) + bracketed(row[f"{name}_low"], row[f"{name}_high"], form) + fewer


def times(row: Row, name: str) -> str:
    """A speed-up as “1.25 [1.20, 1.30] times”."""
    return f"{row[name]:.2f}{bracketed(row[f'{name}_low'], row[f'{name}_high'], '.2f')} times"


def difference(row: Row, name: str, is_share: bool) -> str:
    """A difference from `normal`, as “−2.0 [−8.0, +4.0] pp” or as “−0.12 [−0.30, +0.10]”."""
    form, factor, unit = ("+.1f", 100, " pp") if is_share else ("+.2f", 1, "")
    mean, low, high = (factor * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{written(mean, form)}{bracketed(low, high, form)}".replace("-", "−") + unit


def saved_words(row: Row, cost: CostAxis) -> str:
    """What a configuration saves, as a verb with its number."""
    if not is_known(row[cost.column]):
        return "saves an unknown share"
    if cost.measured:
        return f"took {change(row, cost.column, 'time')}"
    if cost.column == SKIPPED:
        return f"would skip {with_interval(row | {'n': row[f'{SKIPPED}_n']}, SKIPPED)} of the layers"
    return f"{'ran' if cost.column == RUN else 'would need'} {change(row, cost.column, 'multiply-adds')}"


def change(row: Row, column: str, what: str) -> str:
    """A saving as “31.0% [29.5%, 32.0%] less time”, or as more of it if it is negative."""
    share, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    word = "fewer" if what.endswith("s") else "less"
    if share < 0:
        share, low, high, word = -share, -high, -low, "more"
    ends = bracketed(low, high, ".1%") if low != high else ""
    return f"{percent(share)}{ends.replace('-', '−')} {word} {what}"


def saves(row: Row, column: str) -> bool:
    """Whether it costs less than full depth, by the interval's end where there is one."""
    low = row[f"{column}_low"]
    return bool((low if is_known(low) else row[column]) > 0)
