"""At which depth tokens become certain, by kind of prompt: what each layer says of the texts of `normal`.

A token is sure at a layer where some token has at least the probability `sure`, which is what rule `confidence` asks of
a layer. It is confirmed where that token is also the final layer's likeliest. A layer can be sure long before it says
what the final layer says: where tokens are sure says alone not where they could leave.

Prompts are counted, never tokens: a prompt has the mean of its runs, and a run that of its decided tokens.

Shapes: R runs, P prompts, D decided tokens, X layers (the exitable ones, then the final one), M measures.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.quality.estimates import ValueKind, estimate_columns, estimate_median, means_of_groups
from eexit.results.landed import nested_array

SURE: Final = 0.9  # the probability from which on a layer is sure, unless the caller says otherwise
ALL: Final = "all prompts"  # the first kind of the table
MEASURES: Final = {"sure": "first_sure", "confirmed": "first_confirmed"}  # the columns of each
OF_TOKENS: Final = ("run_id", "decided", "top_token_ids", "top_prob")


def certainty(
    tokens: Iterable[pa.RecordBatch],
    prompt_of: Mapping[str, str],
    layers: Sequence[int],
    kind_of: Mapping[str, str],
    unit_of: Mapping[str, str],
    sure: float = SURE,
) -> pd.DataFrame:
    """A row for each kind of prompt, all prompts first, and each of the X layers; no row if nothing was recorded.

    `tokens` have the columns `OF_TOKENS`; those of runs in `prompt_of` (run id → prompt id) are looked at. `layers` are
    the exitable ones and the final one. `kind_of` and `unit_of` (prompt id → name) say what kind a prompt is, if any,
    and as what it counts (`eexit.plan.splits`).

    Columns: `kind`; `layer`, 0-based; `sure` and `confirmed`, the shares of decided tokens that are so at this layer;
    and, the same in all rows of a kind, `first_sure` and `first_confirmed`, the first layer at which a token is, as the
    median over prompts of the medians over tokens; infinite where half of the tokens never are. Each has the ends of
    its 95 % interval over prompts and their number beside it (`_low`, `_high`, `_n`).

    Raises `ValueError` unless 0 < `sure` ≤ 1.
    """
    if not 0 < sure <= 1:
        raise ValueError(f"sure must be a probability above 0, such as {SURE}, got {sure}")
    counts = _counts(tokens, list(prompt_of), len(layers), sure)
    known_R = counts.n_R > 0
    share_RMX = counts.at_RMX[known_R] / counts.n_R[known_R, None, None]
    median_RM = _medians(counts.first_RMX[known_R], np.array([*layers, math.inf]))
    prompts = [prompt_id for prompt_id, known in zip(prompt_of.values(), known_R, strict=True) if known]
    kind_R, unit_R = (
        np.array([kind_of.get(each, "") for each in prompts]),
        np.array([unit_of[each] for each in prompts]),
    )
    rows: list[dict[str, Any]] = []
    for kind in [ALL, *sorted({*kind_of.values()})]:
        of_R = kind_R == kind if kind != ALL else np.full(len(prompts), True)
        if of_R.any():
            rows += _rows(kind, share_RMX[of_R], median_RM[of_R], unit_R[of_R], layers)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Counts:
    """Decided tokens of each run: all of them, those that are sure or confirmed at a layer, and those that first are
    there; at the end of the last axis of `first_RMX`, those that never are."""

    n_R: np.ndarray
    at_RMX: np.ndarray
    first_RMX: np.ndarray


def _counts(tokens: Iterable[pa.RecordBatch], run_ids: Sequence[str], n_layers: int, sure: float) -> _Counts:
    ids = pa.array(run_ids, pa.string())
    shape = len(run_ids), len(MEASURES), n_layers
    at_RMX, first_RMX = np.zeros(shape), np.zeros((*shape[:2], n_layers + 1))
    for batch in tokens:
        batch = batch.filter(pc.field("decided") & pc.field("top_prob").is_valid() & pc.field("run_id").isin(ids))
        if not len(batch):
            continue
        run_D = pc.index_in(batch["run_id"], ids).to_numpy()
        p_DX, likeliest_DX = (nested_array(batch[name])[..., 0] for name in ("top_prob", "top_token_ids"))
        sure_DX = p_DX >= sure
        confirmed_DX = sure_DX & (likeliest_DX == likeliest_DX[:, -1:])
        for measure, is_so_DX in enumerate((sure_DX, confirmed_DX)):
            first_D = np.where(is_so_DX.any(1), is_so_DX.argmax(1), n_layers)
            np.add.at(at_RMX[:, measure], run_D, is_so_DX)
            np.add.at(first_RMX[:, measure], (run_D, first_D), 1)
    return _Counts(first_RMX[:, 0].sum(-1), at_RMX, first_RMX)


def _medians(count_RMX: np.ndarray, layer_X: np.ndarray) -> np.ndarray:
    """The median of layers that come so often: (R, M)."""
    below_RMX, n_RM1 = count_RMX.cumsum(-1), count_RMX.sum(-1, keepdims=True)
    middle_2RM = [(below_RMX > at_RM1).argmax(-1) for at_RM1 in ((n_RM1 - 1) // 2, n_RM1 // 2)]
    median_RM: np.ndarray = layer_X[np.stack(middle_2RM)].mean(0)
    return median_RM


def _rows(
    kind: str, share_RMX: np.ndarray, median_RM: np.ndarray, unit_R: np.ndarray, layers: Sequence[int]
) -> list[dict[str, Any]]:
    share_PV = means_of_groups(share_RMX.reshape(len(share_RMX), -1), unit_R)
    shares = estimate_columns(share_PV, [ValueKind.SHARE] * share_PV.shape[1])
    medians = [estimate_median(median_P) for median_P in means_of_groups(median_RM, unit_R).T]
    of_kind: dict[str, Any] = {}
    for first, median in zip(MEASURES.values(), medians, strict=True):
        of_kind |= median.columns(first)
    return [
        {"kind": kind, "layer": layer}
        | shares[rank].columns("sure")
        | shares[len(layers) + rank].columns("confirmed")
        | of_kind
        for rank, layer in enumerate(layers)
    ]
