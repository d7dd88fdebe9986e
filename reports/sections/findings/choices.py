"""The settings that `jobs/choose.py` chose: which, with which guarantee, and how they do on held-out prompts."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pandas as pd

from eexit.messages.wording import counted
from eexit.method.rules import ORACLES
from eexit.plan.configuration import NORMAL
from eexit.quality.learn_then_test import prompts_needed
from eexit.quality.risks import RISKS
from reports.frames.choices import share_written
from reports.sections.findings.sweep import is_known

MOST_TOLD: Final = 6  # questions; the latest are told
COSTS: Final = {
    "run": "multiply-adds of what was run",
    "needed": "multiply-adds that the exits would need if deciding were free",
    "depth": "mean depth",
}
Row = Mapping[Any, Any]


def choice_findings(choices: pd.DataFrame) -> list[str]:
    """What was chosen and with which guarantee, or plainly that nothing can be, one text for each question."""
    rows = choices.to_dict("records")
    told = [" ".join(_about(row)) for row in rows[-MOST_TOLD:]]
    if len(rows) > 1:
        told.append(
            f"{counted(len(rows), 'question')} were asked of jobs/choose.py"
            + (f", of which the latest {MOST_TOLD} are told" if len(rows) > MOST_TOLD else "")
            + ". Each guarantee holds for its own question, not for the best of several answers."
        )
    return told


def _about(row: Row) -> Iterator[str]:
    bound = f"{_bound(row)} is at most {share_written(row['at_most'])}"
    if not isinstance(row["configuration"], str):
        yield f"No setting can be certified: that {bound} holds for none of them with {_sure(row)}."
        yield from _nearest(row)
        yield f"{NORMAL} is what can be defended."
    else:
        yield f"Certified: {row['configuration']}, {_cost(row, '')}, the cheapest that is."
        yield (
            f"With {_sure(row)}, over prompts like these, {bound} (n = {_prompts(row['n'])}, mean "
            f"{share_written(row['mean_loss'])}, p = {row['p_value']:.2g}{_shared(row)})."
        )
        yield from _for_nothing(row)
        yield f"Held out: {_held_out(row, '')}."
    yield from _naive(row)


def _sure(row: Row) -> str:
    return f"{share_written(row['confidence'])} confidence"


def _bound(row: Row) -> str:
    return RISKS[row["risk"]].bound if row["risk"] in RISKS else str(row["risk"])


def _cost(row: Row, start: str) -> str:
    """What it costs beside full depth; `start` is that of the columns."""
    return f"at {share_written(row[f'{start}cost'])} of full depth's {COSTS.get(row['cost_by'], row['cost_by'])}"


def _shared(row: Row) -> str:
    n = len(row["families"])
    return f", the error shared by {n} families of settings" if n > 1 else ""


def _for_nothing(row: Row) -> Iterator[str]:
    """Why a certified setting may save nothing."""
    rule = row["configuration"].split("/")[1]
    if rule in ORACLES:
        yield "It is an oracle: at run time it saves nothing."
    elif row["cost"] >= 1:
        yield f"It saves nothing: {NORMAL} costs no more, and needs no guarantee."


def _nearest(row: Row) -> Iterator[str]:
    known = [setting for setting in row["tested"] if is_known(setting["p_value"])]
    if known:
        nearest = min(known, key=lambda setting: setting["p_value"])
        yield (
            f"The nearest, {nearest['configuration']}, has a mean of {share_written(nearest['mean_loss'])} (n = "
            f"{_prompts(nearest['n'])}, p = {nearest['p_value']:.2g}{_shared(row)}){_would_do(row, nearest)}."
        )


def _would_do(row: Row, setting: Row) -> str:
    """How many prompts would certify a setting whose mean loss stays as it is; empty if no number would."""
    enough = prompts_needed(setting["mean_loss"], row["at_most"], row["error_of_each"])
    return f"; if that stays so, {counted(enough, 'prompt')} for choosing would do" if enough else ""


def _held_out(row: Row, start: str) -> str:
    """How a setting does on the prompts that had no part in choosing it; without its full stop."""
    mean, n, upper, p_value = (row[f"{start}reporting_{name}"] for name in ("mean_loss", "n", "upper", "p_value"))
    if not is_known(mean):
        return "there is no prompt for reporting, so that nothing checks it"
    said = (
        f"on {_prompts(n)} that had no part in the choice, the mean is {share_written(mean)}, and by these alone it is "
        f"at most {share_written(upper)} with the same confidence"
    )
    if mean > row["at_most"]:
        return f"{said}: the mean is above the bound"
    if p_value <= 1 - row["confidence"]:
        return f"{said}: they confirm the bound"
    return f"{said}: within the bound, but too few to confirm it by themselves"


def _naive(row: Row) -> Iterator[str]:
    """The cheapest setting whose mean is within the bound, which is what one would take without a guarantee."""
    key = row["naive_configuration"]
    if not isinstance(key, str):
        yield "The naive choice, the cheapest whose mean is within the bound: none either."
    elif key == row["configuration"]:
        yield "The naive choice, the cheapest whose mean is within the bound, is the same."
    else:
        yield (
            f"The naive choice, the cheapest whose mean is within the bound, would be {key}, "
            f"{_cost(row, 'naive_')}, mean {share_written(row['naive_mean_loss'])}, without a guarantee: "
            f"{_held_out(row, 'naive_')}."
        )


def _prompts(n: float) -> str:
    return counted(int(n), "prompt")
