"""What an assessment says beforehand of how likely it is to certify a setting: before anything is run, once it is known
how fast the model is, and before the run. All of it is what the test that will be made does (`parts.Enough`).
"""

import math
from collections.abc import Iterator, Mapping

from eexit.messages.wording import ordinal
from eexit.messages.written import percent, short_percent
from eexit.quality.risk_tests import POWER
from eexit.studies.assessment.parts import ANSWERS, CHOOSING, REPORTING, Enough
from eexit.studies.assessment.sizes import Budget, expected_choosing, minutes_for_enough


def of_asks(n_before: int, enough: Enough) -> str:
    """That the prompts for choosing were asked before, in results beside these."""
    return (
        f"It is the {ordinal(n_before + 1)} ask of these prompts for choosing, by the results beside these: it may err "
        f"with {short_percent(enough.error)} only. Other --prompts, or another --seed of generated ones, are fresh."
    )


def of_prompts(enough: Enough, available: Mapping[str, int], risk: str) -> Iterator[str]:
    """Of the prompts that there are, if minutes suffice for all of them."""
    n, half = available[CHOOSING], short_percent(enough.margin / 2)
    yield (
        f"a margin of {short_percent(enough.margin)} takes {enough.least:,} prompts for choosing at the least, and "
        f"{enough.likely:,} to certify a setting that loses {half} with a chance of {percent(POWER, 0)}; there are "
        f"{n:,}, and {available[REPORTING]:,} for reporting"
    )
    if risk != ANSWERS:
        yield (
            "these numbers are for answers that are lost or not; shares of tokens take fewer where they are small on "
            "all prompts, and more where they are large on a few"
        )
    elif n < enough.likely:
        yield f"{promise(enough, n)}; about {enough.likely_in_all:,} prompts in all would do for {half}"


def of_minutes(budget: Budget, risk: str, max_new_tokens: int, minutes: float) -> tuple[str, bool]:
    """Of the minutes that there are, as far as the first step tells, and whether they are likely to be enough."""
    n, enough = expected_choosing(budget, max_new_tokens), budget.enough
    if risk != ANSWERS:
        return f"with {minutes:g} minutes, there is time for at least {n:,} prompts for choosing", True
    said = f"with {minutes:g} minutes: {promise(enough, n)}"
    wanted = min(enough.likely, budget.available[CHOOSING])
    if n >= wanted:
        return said, True
    would_do = minutes_for_enough(budget, max_new_tokens, minutes)
    return f"{said}; about {would_do:,} minutes would do for {short_percent(enough.margin / 2)}", False


def promise(enough: Enough, n: int) -> str:
    """How likely n prompts are to certify what loses less than the margin."""
    loss, margin = enough.loss_certified(n), short_percent(enough.margin)
    if math.isnan(loss):
        return f"{n:,} prompts for choosing can't certify a loss of at most {margin}"
    return (
        f"{n:,} prompts for choosing certify {margin} with a chance of {percent(POWER, 0)} if a setting loses "
        f"{short_percent(loss)} of them, and of {percent(enough.chance(n), 0)} if it loses "
        f"{short_percent(enough.margin / 2)}"
    )
