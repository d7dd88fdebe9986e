"""What each outcome of the study is called, as PLAN.md said before it was run."""

from typing import Final

from eexit.quality.estimates import Estimate

AT_MOST: Final = 0.02  # of the prompts, that normal gets right and the setting gets wrong
ALIKE: Final = 0.05  # p-values above it show no difference


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
    if saved.low > 0:
        return "saves"
    return "costs more" if saved.high < 0 else "neither saves nor costs, as far as is shown"


def growth(difference: Estimate) -> str:
    """Of the disagreement in long texts less that in short ones of the same prompts."""
    if difference.low > 0:
        return "errors build up"
    return "errors get fewer" if difference.high < 0 else "it is not shown that errors build up"


def dtypes(p_value: float) -> str:
    """Of the prompts that one dtype alone loses."""
    return "differ" if p_value <= ALIKE else "are not shown to differ"


def pays(saved: Estimate, certificates: dict[str, str], time_high: float) -> str:
    """The verdict. `time_high` is the upper end of its time, as a multiple of that of `normal`."""
    if saving(saved) != "saves" or "certified" not in certificates.values():
        return "No"
    return "Yes" if time_high < 1 else "Not in time"
