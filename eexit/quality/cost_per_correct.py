"""Cost per correct answer, in multiply-adds and in tokens: Σ taken / Σ right, and as a multiple of `normal`'s.

A configuration that exits earlier may write longer texts or wrong answers: a token costs less, a correct answer more.
Prompts of the same text or group count once (`eexit.plan.splits.sampling_units`), and seeds are averaged first. Failed
runs are left out. The cost is reported if texts have thinking (`eexit.quality.thinking`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from eexit.plan.configuration import NORMAL
from eexit.plan.runs import OK
from eexit.quality.estimates import NOTHING, Estimate, Estimates, estimate_per_right
from eexit.quality.risks import numbers, with_units

if TYPE_CHECKING:
    import pyarrow as pa

COST_RUN: Final = "macs_executed"
COST_NEEDED: Final = "macs_required"
TOKENS: Final = "n_tokens"
TAKEN: Final = (COST_RUN, COST_NEEDED, TOKENS)
OF_PROMPTS: Final = ("prompt_exits", "macs_prompt")
COLUMNS: Final = (
    "prompt_id", "configuration", "seed", "status", "correct", "thinking_closed", *TAKEN, *OF_PROMPTS,
)  # fmt: skip


@dataclass(frozen=True)
class CostPerCorrect(Estimates):
    """Cost of a configuration per correct answer."""

    taken: Estimate
    beside_normal: Estimate  # as a multiple of normal's cost on the same prompts; NaN without normal


def has_chains(runs: "pa.Table") -> bool:
    """Return True if any text has thinking."""
    return bool(runs["thinking_closed"].null_count < len(runs))


def _with_prompts(runs: "pa.Table") -> "pa.Table":
    """Return the runs with the prompt's pass in all costs, if those of any configuration with prompt exits have it."""
    has_prompt = np.array([each is True for each in runs["prompt_exits"].to_pylist()])
    if not has_prompt.any():
        return runs
    prompt = np.where(has_prompt, 0, runs["macs_prompt"].to_numpy())
    for name in (COST_RUN, COST_NEEDED):
        cost = runs[name].to_numpy() + prompt
        runs = runs.set_column(runs.column_names.index(name), name, [cost])
    return runs


def per_right(runs: "pa.Table", unit_of: Mapping[str, str]) -> dict[str, dict[str, CostPerCorrect]]:
    """Return configuration → each of `TAKEN` → cost per correct answer; empty without thinking or graded answers.

    `runs` have `COLUMNS`; `unit_of` maps a prompt's id to its group.
    """
    runs = runs.filter(np.array(runs["status"].to_pylist()) == OK)
    if not has_chains(runs) or runs["correct"].null_count == len(runs):
        return {}
    runs = with_units(_with_prompts(runs), unit_of)
    right = numbers("correct", runs)
    keys, right_CP = right.configurations, right.loss_PC.T
    found: dict[str, dict[str, CostPerCorrect]] = {key: {} for key in keys}
    for name in TAKEN:
        pairs = dict(zip(keys, zip(numbers(name, runs).loss_PC.T, right_CP, strict=True), strict=True))
        for key, pair in pairs.items():
            is_compared = key != NORMAL and NORMAL in pairs
            beside = estimate_per_right(*pair, pairs[NORMAL]) if is_compared else NOTHING
            found[key][name] = CostPerCorrect(estimate_per_right(*pair), beside)
    return found
