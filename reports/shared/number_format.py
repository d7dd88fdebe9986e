"""Numbers of a row as text, with their intervals."""

from typing import Any

from eexit.output.text import bracketed, format_number, is_known, percent
from reports.shared.measures import SKIPPED, CostAxis

Row = dict[Any, Any]


def with_interval(row: Row, name: str) -> str:
    """Return share `name` of a row, its interval if there is one, and its n if that differs from the row's."""
    fewer = "" if not is_known(row[name]) or row[f"{name}_n"] == row["n"] else f" (n = {row[f'{name}_n']:.0f})"
    return percent(row[name]) + bracketed(row[f"{name}_low"], row[f"{name}_high"], ".1%") + fewer


def difference(row: Row, name: str, is_share: bool) -> str:
    """Return a difference from `normal`, as “−2.0 [−8.0, +4.0] pp” or as “−0.12 [−0.30, +0.10]”."""
    form, factor, unit = ("+.1f", 100, " pp") if is_share else ("+.2f", 1, "")
    mean, low, high = (factor * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{format_number(mean, form)}{bracketed(low, high, form)}".replace("-", "−") + unit


def costs_words(row: Row, cost: CostAxis) -> str:
    """Return a configuration's cost relative to full depth, as “costs 0.5% more multiply-adds (0.5 to 0.6)”."""
    if not is_known(row[cost.column]):
        return "costs an unknown share"
    if cost.column == SKIPPED:
        return skips(row)
    verb, what = ("takes", "time") if cost.measured else ("costs", "multiply-adds")
    share, low, high = (row[f"{cost.column}{end}"] for end in ("", "_low", "_high"))
    return f"{verb} {format_saving(share, low, high, what)}"


def skips(row: Row) -> str:
    share, low, high = (row[f"{SKIPPED}{end}"] for end in ("", "_low", "_high"))
    return f"would skip {percent(share)} of the layers{_between(low, high)}"


def format_saving(share: float, low: float | None, high: float | None, what: str) -> str:
    """Return a saving as “5.0% less time (4.0 to 6.5)”, or as more if it is negative; if the interval has both signs,
    as “5.0% less time, not certainly (−2.0 to 9.1)”.
    """
    word = "more" if share < 0 else "fewer" if what.endswith("s") else "less"
    ends = (low, high) if share >= 0 or low is None or high is None else (-high, -low)
    is_sure = ends[0] is None or not ends[0] < 0
    return f"{percent(abs(share))} {word} {what}{'' if is_sure else ', not certainly'}{_between(*ends)}"


def _between(low: float | None, high: float | None) -> str:
    if low is None or high is None or not (is_known(low) and is_known(high)) or low == high:
        return ""
    return " ({} to {})".format(*(format_number(100 * end, ".1f").replace("-", "−") for end in (low, high)))


def points(share: float) -> str:
    """Return a share as “2 points”."""
    return f"{format_number(100 * share, '.3g')} points"
