"""What each outcome of the study is called, and how FINDINGS.md writes its numbers.

Of the questions that PLAN.md asks, it said before they ran what outcomes are called.
"""

import math
from collections.abc import Sequence
from typing import Final

from eexit.quality.estimates import Estimate

AT_MOST: Final = 0.02  # of the prompts, that normal gets right and the setting gets wrong
ALIKE: Final = 0.05  # p-values above it show no difference
FINAL_STAYS: Final = 0.97  # of held-out tokens, that a student's final layer must say as the model's does
TAUGHT: Final = 20  # a layer at two thirds of the depth, at which a student must gain
LEAST_GAIN: Final = 0.10  # of held-out tokens, that it must say there beyond what readouts alone do
FEW_RIGHT: Final = 0.10  # right answers, below which none can need its chain
NORMAL_95, NORMAL_80 = 1.96, 0.84  # standard errors: of a 95 % interval to each side, and for a chance of 80 %


def certificate(p_value: float, error: float, lost: Estimate) -> str:
    """Of one dtype, given what this ask may err with."""
    if p_value <= error:
        return "certified"
    return "loses more than that" if lost.low > AT_MOST else "not certified"


def holds(certificates: dict[str, str]) -> str:
    """Of all dtypes together."""
    certified = [dtype for dtype, each in certificates.items() if each == "certified"]
    if len(certified) == len(certificates):
        return "The certificate holds in both dtypes"
    return f"The certificate holds in {certified[0]} alone" if certified else "There is no certificate in either dtype"


def saving(saved: Estimate) -> str:
    """Of what was run, deciding included."""
    return _called(saved, "saves", "costs more", "neither saves nor costs, as far as is shown")


def growth(difference: Estimate) -> str:
    """Of the disagreement in long texts less that in short ones of the same prompts."""
    return _called(difference, "errors build up", "errors get fewer", "it is not shown that errors build up")


def beside(one: Estimate, other: Estimate) -> str:
    """How many one loses, beside the other, if it is certain."""
    if one.low <= other.high and other.low <= one.high:
        return "not certainly fewer or more"
    return "certainly fewer" if one.mean < other.mean else "certainly more"


def _called(found: Estimate, above: str, below: str, neither: str) -> str:
    """By which side of 0 all of an interval is on."""
    return above if found.low > 0 else below if found.high < 0 else neither


def dtypes(p_value: float) -> str:
    """Of the prompts that one dtype alone loses."""
    return "differ" if p_value <= ALIKE else "are not shown to differ"


def pays(saved: Estimate, certificates: dict[str, str], time_high: float) -> str:
    """The verdict. `time_high` is the upper end of its time, as a multiple of that of `normal`."""
    if saving(saved) != "saves" or "certified" not in certificates.values():
        return "No"
    return "Yes" if time_high < 1 else "Not in time"


def teaching(final_agreement: float, gain: float) -> str:
    """Of a student, by its final layer's agreement with the model's and by `TAUGHT`'s gain beside readouts alone."""
    if final_agreement < FINAL_STAYS:
        return "changes too much of what full depth says"
    return "gains too little to build on" if gain < LEAST_GAIN else "gains enough to build on"


def necessity(need: Estimate) -> str:
    """Of right answers with a chain less those without it."""
    return _called(need, "need the chain", "are better without it", "do not certainly need the chain")


def beside_control(difference: Estimate, control_right: Estimate) -> str:
    """Of a setting's necessity less that of its control, of whose answers so many are right with a chain."""
    if control_right.mean < FEW_RIGHT:
        return f"not to be compared, since the control gets fewer than {percent_of(FEW_RIGHT)} right,"
    return _called(
        difference, "certainly more necessary", "certainly less necessary", "as necessary, as far as is shown,"
    )


def tells(right: Estimate) -> str:
    """Whether the answers of a model say anything of its chains, by the right ones with a chain."""
    return "too few to tell" if right.high < FEW_RIGHT else "enough to tell"


def enough(difference: Estimate) -> int:
    """So many prompts show a difference of this size with a chance of 80 %; 0 where none is seen."""
    if not difference.mean:
        return 0
    error = (difference.high - difference.low) / (2 * NORMAL_95)
    return math.ceil(difference.n * ((NORMAL_95 + NORMAL_80) * error / difference.mean) ** 2)


def rows_at(batch: int) -> str:
    return "one row" if batch == 1 else f"{batch} rows"


def share_of(share: Estimate, form: str = "z.1f", unit: str = " %") -> str:
    mean, low, high = (format(100 * each, form) for each in (share.mean, share.low, share.high))
    return f"{mean}{unit} ({low} to {high})"


def points_of(share: Estimate, digits: int = 1) -> str:
    return share_of(share, f"+z.{digits}f", "")


def percent_of(share: float) -> str:
    return f"{100 * share:z.1f} %"


def times_of(time: Estimate) -> str:
    return f"{time.mean:.2f} times ({time.low:.2f} to {time.high:.2f})"


def p_of(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, aligned, *rows))
