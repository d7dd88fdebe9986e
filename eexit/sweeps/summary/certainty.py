"""At which depth tokens become certain, by kind of prompt: what each layer says of the texts of `normal`.

A token is sure at a layer whose highest probability is at least a threshold, which is what rule `confidence` asks of a
layer. It is confirmed where the likeliest token there is also the final layer's. A layer can be sure long before it
says what the final layer says, so that the depth at which tokens are sure isn't the one at which they could leave.

Prompts are counted, never tokens: a prompt has the mean of its runs, and a run that of its decided tokens.

Shapes: C thresholds, R runs, P prompts, D decided tokens, X layers (the exitable ones, then the final one), M measures.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.errors import UsageError
from eexit.quality.estimates import ValueKind, estimate_columns, estimate_median, means_of_groups
from eexit.results.landed import nested_array

SURE: Final = 0.9  # the threshold, unless the caller says otherwise
ALL: Final = "all prompts"  # the first kind of the table
MEASURES: Final = {"sure": "first_sure", "confirmed": "first_confirmed"}  # the columns of each
OF_TOKENS: Final = ("decided", "top_token_ids", "top_prob")


def certainty(
    tokens: Iterable[pa.RecordBatch],
    prompt_of: Mapping[str, str],
    layers: Sequence[int],
    kind_of: Mapping[str, str],
    unit_of: Mapping[str, str],
    thresholds: Sequence[float] = (SURE,),
) -> pd.DataFrame:
    """A row for each threshold, kind of prompt, all prompts first, and X layer; no row if nothing was recorded.

    `tokens` have `run_id` and `OF_TOKENS`; those of runs in `prompt_of` (run id → prompt id) count. `layers` are the
    exitable ones and the final one. `kind_of` and `unit_of` (prompt id → name) say what kind a prompt is, if any, and
    as what it counts (`eexit.plan.splits`).

    Columns: `threshold`; `kind`; `layer`, 0-based; `sure` and `confirmed`, the shares of decided tokens that are so at
    this layer; and, the same in all rows of a kind, `first_sure` and `first_confirmed`, the first layer at which a
    token is, as the median over prompts of the medians over tokens; infinite where half of the tokens never are. Each
    has the ends of its 95 % interval over prompts and their number beside it (`_low`, `_high`, `_n`).

    Raises `ValueError` for a threshold that is not in (0, 1].
    """
    for threshold in thresholds:
        if not isinstance(threshold, Real) or not 0 < threshold <= 1:
            raise UsageError(f"sure must be a probability above 0, such as {SURE}, got {threshold!r}")
    counts = _counts(tokens, list(prompt_of), len(layers), thresholds)
    known_R = counts.n_R > 0
    prompts = [prompt_id for prompt_id, known in zip(prompt_of.values(), known_R, strict=True) if known]
    kind_R = np.array([kind_of.get(prompt_id, "") for prompt_id in prompts])
    unit_R = np.array([unit_of[prompt_id] for prompt_id in prompts])
    share_CRMX = counts.at_CRMX[:, known_R] / counts.n_R[known_R, None, None]
    median_CRM = _medians(counts.first_CRMX[:, known_R], np.array([*layers, math.inf]))
    rows: list[dict[str, Any]] = []
    for threshold, share_RMX, median_RM in zip(thresholds, share_CRMX, median_CRM, strict=True):
        for kind in [ALL, *sorted({*kind_of.values()})]:
            of_R = kind_R == kind if kind != ALL else np.full(len(prompts), True)
            if of_R.any():
                of_layers = _of_kind(share_RMX[of_R], median_RM[of_R], unit_R[of_R])
                named = {"threshold": threshold, "kind": kind}
                rows += [{**named, "layer": layer, **row} for layer, row in zip(layers, of_layers, strict=True)]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Counts:
    """Decided tokens of each run: all of them, those that are sure or confirmed at a layer, and those that first are
    there, of which the last are those that never are."""

    n_R: np.ndarray
    at_CRMX: np.ndarray
    first_CRMX: np.ndarray


def _counts(
    tokens: Iterable[pa.RecordBatch], run_ids: Sequence[str], n_layers: int, thresholds: Sequence[float]
) -> _Counts:
    ids, shape = pa.array(run_ids, pa.string()), (len(thresholds), len(run_ids), len(MEASURES))
    n_R, at_CRMX, first_CRMX = np.zeros(len(run_ids)), np.zeros((*shape, n_layers)), np.zeros((*shape, n_layers + 1))
    for batch in tokens:
        batch = batch.filter(pc.field("decided") & pc.field("top_prob").is_valid() & pc.field("run_id").isin(ids))
        if not len(batch):
            continue
        run_D = pc.index_in(batch["run_id"], ids).to_numpy()
        np.add.at(n_R, run_D, 1)
        p_DX, likeliest_DX = (nested_array(batch[name])[..., 0] for name in ("top_prob", "top_token_ids"))
        for at_RMX, first_RMX, threshold in zip(at_CRMX, first_CRMX, thresholds, strict=True):
            sure_DX = p_DX >= threshold
            confirmed_DX = sure_DX & (likeliest_DX == likeliest_DX[:, -1:])
            for measure, is_so_DX in enumerate((sure_DX, confirmed_DX)):
                np.add.at(at_RMX[:, measure], run_D, is_so_DX)
                first_D = np.where(is_so_DX.any(1), is_so_DX.argmax(1), n_layers)
                np.add.at(first_RMX[:, measure], (run_D, first_D), 1)
    return _Counts(n_R, at_CRMX, first_CRMX)


def _medians(count_CRMX: np.ndarray, layer_X: np.ndarray) -> np.ndarray:
    """The median of layers that come so often: (C, R, M)."""
    below_CRMX, n_CRM1 = count_CRMX.cumsum(-1), count_CRMX.sum(-1, keepdims=True)
    middle_2CRM = np.stack([(below_CRMX > at).argmax(-1) for at in ((n_CRM1 - 1) // 2, n_CRM1 // 2)])
    median_CRM: np.ndarray = layer_X[middle_2CRM].mean(0)
    return median_CRM


def _of_kind(share_RMX: np.ndarray, median_RM: np.ndarray, unit_R: np.ndarray) -> list[dict[str, float]]:
    """The columns of each layer, from runs of a kind of prompt."""
    n_layers = share_RMX.shape[-1]
    share_PV = means_of_groups(share_RMX.reshape(len(share_RMX), -1), unit_R)
    shares = estimate_columns(share_PV, [ValueKind.SHARE] * share_PV.shape[1])
    firsts: dict[str, float] = {}
    for first, median_P in zip(MEASURES.values(), means_of_groups(median_RM, unit_R).T, strict=True):
        firsts |= estimate_median(median_P).columns(first)
    return [
        shares[rank].columns("sure") | shares[n_layers + rank].columns("confirmed") | firsts for rank in range(n_layers)
    ]
