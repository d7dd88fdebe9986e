"""Numbers as text, the same in every table and sentence."""

import math
import re


def written(number: float | None, form: str) -> str:
    """`format(number, form)`, but without the sign of what rounds to zero; "–" if the number is not known.

    >>> written(-0.0004, ".1%"), written(-0.0005, ".4f"), written(None, ".1%")
    ('0.0%', '-0.0005', '–')
    """
    return "–" if number is None or math.isnan(number) else format(float(number), re.sub("^[+]?", r"\g<0>z", form))


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return written(share, f".{digits}%")
