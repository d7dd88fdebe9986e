"""What settings do to each kind of prompt, beside full depth on the same prompts.

Prompts of the same text, and those of a group, count once (`eexit.plan.splits.units`), and seeds are averaged first.
Runs that failed are left out.

Shapes: P prompts, C configurations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import numpy as np

from eexit.plan.runs import OK
from eexit.quality.estimates import Estimate, ValueKind, estimate_columns, estimate_ratios
from eexit.quality.risks import RISKS, Risk, losses, numbers
from eexit.quality.text_measures import cut

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: Final = (
    "prompt_id", "configuration", "seed", "status", "finish_reason", "correct", "disagreement", "mean_depth",
    "cost_full", "cost_run",
)  # fmt: skip

# No loss, but counted as one: how much more often a run is right than that of `normal` with the same prompt and seed.
BETTER: Final = Risk("correct", "", "", "", lambda number, normal: number - normal, best=1.0)


@dataclass(frozen=True)
class BesideNormal:
    """A setting on some prompts: shares with their intervals, over as many prompts as say anything of them."""

    accuracy: Estimate  # right answers, of the prompts that bring one
    cut: Estimate  # texts that `max_new_tokens` ended, of the same prompts (`eexit.quality.text_measures.cut`)
    difference: Estimate  # of its accuracy less that of `normal`, by run
    lost: Estimate  # answers that `normal` gets right and the setting gets wrong (`RISKS["answers"]`)
    disagreement: Estimate  # decided tokens that full depth, given the same text, would not have said
    mean_depth: Estimate  # of decided tokens, as a share of the layers
    saved: Estimate  # 1 − Σ cost_run / Σ cost_full

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """For JSON: mean, low, high and n of each; what is not known is None."""
        return {each.name: getattr(self, each.name).as_dict for each in fields(self)}


def by_kind(
    runs: "pa.Table", kind_of: Mapping[str, str], unit_of: Mapping[str, str]
) -> dict[str, dict[str, BesideNormal]]:
    """configuration → kind → what it does there; kinds in alphabetical order.

    `runs` have `COLUMNS`. `kind_of` and `unit_of` say of each prompt, by its id, what kind it is and as what it counts;
    prompts without a kind are left out.
    """
    ok_R = np.array(runs["status"].to_pylist()) == OK
    ids = runs["prompt_id"].to_pylist()
    kind_R = np.array([kind_of.get(each, "") for each in ids])
    runs = runs.append_column("unit", [[unit_of[each] for each in ids]]).append_column("draw", runs["seed"])
    is_cut_R = cut(runs["finish_reason"].to_pylist(), runs["correct"].is_valid().to_numpy())
    runs = runs.append_column("cut", [np.ma.masked_invalid(is_cut_R)])
    found: dict[str, dict[str, BesideNormal]] = {}
    for kind in sorted({*kind_R[ok_R]} - {""}):
        for key, beside in _beside_normal(runs.filter(ok_R & (kind_R == kind))).items():
            found.setdefault(key, {})[str(kind)] = beside
    return found


def _beside_normal(runs: "pa.Table") -> dict[str, BesideNormal]:
    """By configuration, on all prompts of these runs."""
    lost = losses(RISKS["answers"], runs)
    full_PC, run_PC = (numbers(column, runs).loss_PC for column in ("cost_full", "cost_run"))
    figures = zip(
        _estimates(numbers("correct", runs).loss_PC),
        _estimates(numbers("cut", runs).loss_PC),
        _estimates(losses(BETTER, runs).loss_PC, ValueKind.DIFFERENCE),
        _estimates(lost.loss_PC),
        _estimates(numbers("disagreement", runs).loss_PC),
        _estimates(numbers("mean_depth", runs).loss_PC),
        estimate_ratios(full_PC - run_PC, full_PC),
        strict=True,
    )
    return {key: BesideNormal(*of) for key, of in zip(lost.configurations, figures, strict=True)}


def _estimates(values_PC: np.ndarray, what: ValueKind = ValueKind.SHARE) -> list[Estimate]:
    return estimate_columns(values_PC, [what] * values_PC.shape[1])
