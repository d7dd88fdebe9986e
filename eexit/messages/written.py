"""Numbers as text, the same in every table and sentence."""

import math
import re
from typing import Any


def is_known(number: Any) -> bool:
    return number is not None and math.isfinite(number)


def written(number: float | None, form: str) -> str:
    """`format(number, form)`, but without the sign of what rounds to zero; "–" if the number is not known.

    >>> written(-0.0004, ".1%"), written(-0.0005, ".4f"), written(None, ".1%")
    ('0.0%', '-0.0005', '–')
    """
    return "–" if number is None or math.isnan(number) else format(float(number), re.sub("^[+]?", r"\g<0>z", form))


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return written(share, f".{digits}%")


def short_percent(share: float | None) -> str:
    """A share in percent, with three digits; "–" if it is not known.

    >>> short_percent(0.05), short_percent(0.12345)
    ('5%', '12.3%')
    """
    return f"{written(100 * share, '.3g')}%" if share is not None and math.isfinite(share) else "–"


def interval(low: float | None, high: float | None, form: str) -> str:
    """Both ends of an interval with a dash between them, for tables of a terminal; a dash alone if there is none."""
    return f"{written(low, form)}–{written(high, form)}" if is_known(low) and is_known(high) else "–"


def bracketed(low: float | None, high: float | None, form: str) -> str:
    """An interval as it follows its estimate in a sentence or on the page; empty if there is none."""
    return f" [{written(low, form)}, {written(high, form)}]" if is_known(low) and is_known(high) else ""
