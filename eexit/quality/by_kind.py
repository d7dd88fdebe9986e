"""Metrics of each configuration by kind of prompt, paired with full depth (`normal`) on the same prompts.

Prompts of the same text or group count once (`eexit.plan.splits.sampling_units`), and seeds are averaged first. Failed
runs are left out.

Shapes: P prompts, C configurations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from eexit.plan.runs import OK
from eexit.quality.estimates import Estimate, Estimates, ValueKind, estimate_columns, estimate_ratios
from eexit.quality.risks import RISKS, Risk, losses, numbers, with_units
from eexit.quality.text_metrics import cut

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: Final = (
    "prompt_id", "configuration", "seed", "status", "finish_reason", "correct", "disagreement", "mean_depth",
    "macs_full", "macs_executed",
)  # fmt: skip

# No loss, but averaged like one: a run's accuracy minus that of the `normal` run of the same prompt and seed.
BETTER: Final = Risk("correct", "", "", "", lambda number, normal: number - normal, best=1.0)


@dataclass(frozen=True)
class PairedMetrics(Estimates):
    """Metrics of a configuration on some prompts: shares with intervals, over the prompts that have a value."""

    accuracy: Estimate  # correct answers, over prompts with an expected one
    cut: Estimate  # texts that `max_new_tokens` ended, over the same prompts (`eexit.quality.text_metrics.cut`)
    difference: Estimate  # paired difference of its accuracy from that of `normal`, by run
    lost: Estimate  # answers that are right with `normal` and wrong with this configuration (`RISKS["answers"]`)
    disagreement: Estimate  # decided tokens that the full-depth pass on the same text does not predict
    mean_depth: Estimate  # of decided tokens, as a share of the layers
    saved: Estimate  # 1 − Σ macs_executed / Σ macs_full


def by_kind(
    runs: "pa.Table", kind_of: Mapping[str, str], unit_of: Mapping[str, str]
) -> dict[str, dict[str, PairedMetrics]]:
    """Return configuration → kind → metrics; kinds in alphabetical order.

    `runs` have `COLUMNS`. `kind_of` and `unit_of` map a prompt's id to its kind and its group. Prompts without a kind
    are left out.
    """
    ok_R = np.array(runs["status"].to_pylist()) == OK
    kind_R = np.array([kind_of.get(each, "") for each in runs["prompt_id"].to_pylist()])
    runs = with_units(runs, unit_of)
    is_cut_R = cut(runs["finish_reason"].to_pylist(), runs["correct"].is_valid().to_numpy())
    runs = runs.append_column("cut", [np.ma.masked_invalid(is_cut_R)])
    found: dict[str, dict[str, PairedMetrics]] = {}
    for kind in sorted({*kind_R[ok_R]} - {""}):
        for key, beside in _beside_normal(runs.filter(ok_R & (kind_R == kind))).items():
            found.setdefault(key, {})[str(kind)] = beside
    return found


def _beside_normal(runs: "pa.Table") -> dict[str, PairedMetrics]:
    """Return each configuration's metrics, paired with `normal`, over all prompts of these runs."""
    lost = losses(RISKS["answers"], runs)
    full_PC, run_PC = (numbers(column, runs).loss_PC for column in ("macs_full", "macs_executed"))
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
    return {key: PairedMetrics(*of) for key, of in zip(lost.configurations, figures, strict=True)}


def _estimates(values_PC: np.ndarray, what: ValueKind = ValueKind.SHARE) -> list[Estimate]:
    return estimate_columns(values_PC, [what] * values_PC.shape[1])
