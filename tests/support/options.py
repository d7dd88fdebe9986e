"""Figures of a ledger whose lines are what is given, as if all prompts were the same."""

from collections.abc import Mapping

import numpy as np

from cluster.assessment.outcome.ledger import LedgerOptions, Option, Proven
from eexit.quality.estimates import Estimate

ONE_DRAW = np.zeros(1)


def option(key: str, saved: float, loss: float = 0.0, run: float | None = None) -> Option:
    """One that runs nothing to decide, unless it is said what it saves by what was run."""
    return Option(key, ONE_DRAW + saved, ONE_DRAW + (saved if run is None else run), ONE_DRAW + loss, n=393)


def options_of(
    ceiling: float,
    state: float,
    knowing: float,
    proven: tuple[float, float, Mapping[int, float], Mapping[int, Estimate]] | None = None,
) -> LedgerOptions:
    """What is proven saves so much by its exits, by what was run, and, by batch size, as steps allow; and its times."""
    found = None
    if proven is not None:
        saved, run, allowed, times = proven
        allowed_D = {batch: ONE_DRAW + share for batch, share in allowed.items()}
        found = Proven(option("proven", saved, run=run), allowed_D, times)
    return LedgerOptions(
        option("unfrozen/agree", ceiling), [option("state", state)], [option("knowing", knowing)], found
    )
