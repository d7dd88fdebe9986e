"""Ranges of a parameter: a text such as 0.25:16:13 stands for 13 values from 0.25 to 16.

KL factors and nats are spaced geometrically, with equal ratios. All other parameters (shares, cosines, layers) are
spaced linearly.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from eexit.errors import UsageError
from eexit.method.rules import RULES

GEOMETRIC_UNITS: Final = ("1/nat", "nats")
DIGITS: Final = 4  # significant digits of values inside a range, for short names of configurations
MOST_VALUES: Final = 1000  # of a range


def parse_numbers(texts: Sequence[str], unit: str, name: str) -> tuple[float, ...]:
    """Return the numbers in texts of comma-separated numbers and ranges LOW:HIGH:N; `name` is for messages.

    Raises: `UsageError` for other texts.
    """
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    return tuple(number for part in parts for number in _numbers(part, unit, name))


def parse_rules(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return rules and their parameters, from texts such as "confidence=0.5:0.99:9", "entropy=0.1,1" and "agree".

    Unknown rules and unsuitable parameters are accepted. Raises: `UsageError` for malformed texts and repeated rules.
    """
    table: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, _, rest = (part.strip() for part in text.partition("="))
        if not name or name in table:
            problem = f"lists rule {name} more than once" if name else f"starts with a name, got {text!r}"
            raise UsageError(f"--rules {problem}: give each rule once, as in confidence=0.5:0.9:5 or agree")
        table[name] = parse_numbers([rest], RULES[name].unit if name in RULES else "", f"rule {name}")
    return table


def _numbers(part: str, unit: str, name: str) -> Sequence[float]:
    ends = part.split(":")
    if len(ends) not in (1, 3):
        raise UsageError(f"{name}: {part} is neither a number nor a range LOW:HIGH:N, such as 0.25:16:13")
    low, *rest = (_number(end, part, name) for end in ends[:2])
    if not rest:
        return [low]
    [high], how_many = rest, ends[2].strip()
    if not how_many.isdecimal() or not 2 <= int(how_many) <= MOST_VALUES:
        raise UsageError(f"{name}: a range has 2 to {MOST_VALUES:,} values, got {how_many or 'none'} in {part}")
    if not low < high:
        raise UsageError(f"{name}: a range goes from its lower end to its higher one, got {part}")
    is_geometric = unit in GEOMETRIC_UNITS
    if is_geometric and low <= 0:
        raise UsageError(
            f"{name}: a range in {unit} is spaced by equal ratios and starts above 0, got {part}: give 0 by itself"
        )
    between = (np.geomspace if is_geometric else np.linspace)(low, high, int(how_many))[1:-1]
    values = [low, *(float(f"{value:.{DIGITS}g}") for value in between), high]
    if not all(lower < higher for lower, higher in pairwise(values)):
        raise UsageError(f"{name}: {part} has more values than {DIGITS} digits can distinguish: give fewer")
    return values


def _number(text: str, part: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        where = "" if text == part else f" in {part}"
        raise UsageError(f"{name}: {text.strip() or 'nothing'}{where} is not a number") from None
    if not np.isfinite(number):
        raise UsageError(f"{name}: {part} is not finite: mode normal is the limit of a conservative parameter")
    return number
