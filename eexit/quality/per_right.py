"""What a right answer takes, of multiply-adds and of tokens: Σ taken / Σ right, and as a multiple of `normal`'s.

A setting that leaves earlier may write more, or be wrong: then each token costs less, and each right answer more.
Prompts of the same text, and those of a group, count once (`eexit.plan.splits.units`), and seeds are averaged first.
Runs that failed are left out. It is told where texts have a chain of thought (`eexit.quality.parts`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import numpy as np

from eexit.plan.configuration import NORMAL
from eexit.plan.runs import OK
from eexit.quality.estimates import NOTHING, Estimate, estimate_per_right
from eexit.quality.risks import numbers

if TYPE_CHECKING:
    import pyarrow as pa

COST_RUN: Final = "cost_run"
COST_NEEDED: Final = "cost_needed"
TOKENS: Final = "n_tokens"
TAKEN: Final = (COST_RUN, COST_NEEDED, TOKENS)
COLUMNS: Final = ("prompt_id", "configuration", "seed", "status", "correct", "thinking_closed", *TAKEN)


@dataclass(frozen=True)
class PerRight:
    """What a configuration takes for a right answer."""

    taken: Estimate
    beside_normal: Estimate  # as a multiple of what normal takes on the same prompts; nothing without normal

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """For JSON: mean, low, high and n of each; what is not known is None."""
        return {each.name: getattr(self, each.name).as_dict for each in fields(self)}


def has_chains(runs: "pa.Table") -> bool:
    """Whether any text has a chain of thought."""
    return bool(runs["thinking_closed"].null_count < len(runs))


def per_right(runs: "pa.Table", unit_of: Mapping[str, str]) -> dict[str, dict[str, PerRight]]:
    """configuration → each of `TAKEN` → what it takes; nothing where no text has a chain, or no answer is marked.

    `runs` have `COLUMNS`; `unit_of` says as what a prompt counts, by its id.
    """
    runs = runs.filter(np.array(runs["status"].to_pylist()) == OK)
    if not has_chains(runs) or runs["correct"].null_count == len(runs):
        return {}
    unit = [unit_of[each] for each in runs["prompt_id"].to_pylist()]
    runs = runs.append_column("unit", [unit]).append_column("draw", runs["seed"])
    right = numbers("correct", runs)
    keys, right_CP = right.configurations, right.loss_PC.T
    found: dict[str, dict[str, PerRight]] = {key: {} for key in keys}
    for name in TAKEN:
        taken_CP = numbers(name, runs).loss_PC.T
        normal = keys.index(NORMAL) if NORMAL in keys else None
        for at, key in enumerate(keys):
            pair = taken_CP[at], right_CP[at]
            beside = (taken_CP[normal], right_CP[normal]) if normal is not None else None
            found[key][name] = PerRight(
                estimate_per_right(*pair), estimate_per_right(*pair, beside) if beside and at != normal else NOTHING
            )
    return found
