"""Depth at which tokens become certain, by kind of prompt: predictions of each layer on the texts of `normal`.

A token is sure at a layer whose highest probability reaches a threshold, which is the criterion of rule `confidence`.
It is confirmed where the layer's likeliest token is also the final layer's. A layer can be sure long before it predicts
the final layer's token. A token that exits at the first sure layer is contradicted if the final layer's likeliest token
is another. A token that is confirmed at a layer can be taken back by a deeper layer. Where the final layer itself is
not sure, no layer can be confirmed: first layers cover only the other tokens.

Prompts are counted, never tokens: a prompt has the mean of its runs, and a run the mean of its decided tokens,
which are all but its first.

Shapes: C thresholds, R runs, P prompts, D decided tokens, X exitable layers and the final one, M measures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from eexit.errors import UsageError
from eexit.quality.estimates import NOTHING, Estimate, ValueKind, estimate_columns, estimate_ratios, means_of_units
from eexit.quality.intervals import of_median
from eexit.results.committed import top_predictions

SURE: Final = 0.9  # default threshold
ALL: Final = "all prompts"  # the first kind of the table
MEASURES: Final = {"sure": "first_sure", "confirmed": "first_confirmed"}  # the columns of each
SHARES: Final = ("sure", "confirmed", "exits", "contradicted", "early", "taken_back")  # of decided tokens


def confidence_by_depth(
    tokens: Iterable[pa.RecordBatch],
    prompt_of: Mapping[str, str],
    layers: Sequence[int],
    kind_of: Mapping[str, str],
    unit_of: Mapping[str, str],
    thresholds: Sequence[float] = (SURE,),
) -> pd.DataFrame:
    """Return a row per threshold, kind of prompt (first all prompts) and layer; no row if nothing was recorded.

    `tokens` have `run_id` and `OF_TOP_PREDICTIONS`; tokens of runs in `prompt_of` (run id → prompt id) count. `layers`
    are the exitable layers and the final one. `kind_of` and `unit_of` map prompt ids to kinds, if any, and to sampling
    units (`eexit.plan.splits`). Raise `ValueError` for a threshold outside (0, 1].

    Columns, each share and first layer with its 95 % interval over prompts and their number (`_low`, `_high`, `_n`):
        threshold, kind, layer: `layer` is 0-based.
        sure, confirmed: shares of decided tokens that are sure, or confirmed, at this layer (as the module defines).
        contradicted: share of contradicted tokens among tokens that are first sure at this exitable layer.
        exits_contradicted: that share over all exitable layers; like the following columns, the same for a whole kind.
        taken_back: share of tokens not confirmed at some deeper layer, among tokens confirmed at an exitable layer.
        first_sure, first_confirmed: first sure, or confirmed, layer of tokens whose final layer is sure (share `sure`
            of the last row). It is the median over prompts of the medians over tokens; NaN without such a token. A
            median of an even number is the lower of the two in the middle, so that it is a layer.
    """
    for threshold in thresholds:
        if not isinstance(threshold, Real) or not 0 < threshold <= 1:
            raise UsageError(f"sure must be a probability above 0, such as {SURE}, got {threshold!r}")
    counts = count_certainty(tokens, list(prompt_of), len(layers), thresholds)
    known_R = counts.n_R > 0
    prompt_R = np.array([*prompt_of.values()])[known_R]
    kind_R = np.array([kind_of.get(prompt_id, "") for prompt_id in prompt_R])
    unit_R = np.array([unit_of[prompt_id] for prompt_id in prompt_R])
    share_CRX = {name: getattr(counts, name)[:, known_R] / counts.n_R[known_R, None] for name in SHARES}
    median_CRM = _medians(counts.first_CRMX[:, known_R], np.array(layers))
    rows: list[dict[str, Any]] = []
    for at, threshold in enumerate(thresholds):
        for kind in [ALL, *sorted({*kind_of.values()})]:
            of_R = kind_R == kind if kind != ALL else np.full(len(prompt_R), True)
            if of_R.any():
                shares = {name: share[at, of_R] for name, share in share_CRX.items()}
                of_layers = _of_kind(shares, median_CRM[at, of_R], prompt_R[of_R], unit_R[of_R])
                named = {"threshold": threshold, "kind": kind}
                rows += [{**named, "layer": layer, **row} for layer, row in zip(layers, of_layers, strict=True)]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class CertaintyCounts:
    """Counts of the decided tokens of R runs, at C thresholds and X layers.

    - `n_R`: all decided tokens.
    - `sure`, `confirmed`, (C, R, X): tokens that are sure, or confirmed, at a layer (the module's top defines both).
    - `exits`: tokens that are first sure at an exitable layer. `contradicted`: tokens of `exits` for which the final
      layer predicts another token. (C, R, X) each.
    - `early`: tokens confirmed at any exitable layer. `taken_back`: tokens of `early` that a deeper layer does not
      confirm. (C, R, 1) each.
    - `first_CRMX`: tokens that are first sure, or first confirmed, at a layer.
    """

    n_R: np.ndarray
    sure: np.ndarray
    confirmed: np.ndarray
    exits: np.ndarray
    contradicted: np.ndarray
    early: np.ndarray
    taken_back: np.ndarray
    first_CRMX: np.ndarray

    @classmethod
    def none(cls, n_thresholds: int, n_runs: int, n_layers: int) -> "CertaintyCounts":
        by_layer = {name: np.zeros((n_thresholds, n_runs, n_layers)) for name in SHARES[:4]}
        of_tokens = {name: np.zeros((n_thresholds, n_runs, 1)) for name in SHARES[4:]}
        first_CRMX = np.zeros((n_thresholds, n_runs, len(MEASURES), n_layers))
        return cls(n_R=np.zeros(n_runs), first_CRMX=first_CRMX, **by_layer, **of_tokens)

    def add(self, at: int, run_D: np.ndarray, sure_DX: np.ndarray, is_final_DX: np.ndarray) -> None:
        """Add tokens at a threshold's index: where layers are sure, and where they predict the final layer's token."""
        confirmed_DX, rank_X = sure_DX & is_final_DX, np.arange(sure_DX.shape[1])
        exits_DX = (rank_X == sure_DX.argmax(1)[:, None]) & sure_DX & (rank_X < rank_X[-1])
        early_D = confirmed_DX[:, :-1].any(1)
        deeper_D = len(rank_X) - confirmed_DX.argmax(1)  # layers from the first that confirms the token
        for counted, is_so in (
            (self.sure, sure_DX),
            (self.confirmed, confirmed_DX),
            (self.exits, exits_DX),
            (self.contradicted, exits_DX & ~is_final_DX),
            (self.early, early_D[:, None]),
            (self.taken_back, (early_D & (confirmed_DX.sum(1) < deeper_D))[:, None]),
        ):
            np.add.at(counted[at], run_D, is_so)
        of_sure = sure_DX[:, -1]
        for measure, is_so_DX in enumerate((sure_DX, confirmed_DX)):
            np.add.at(self.first_CRMX[at, :, measure], (run_D[of_sure], is_so_DX[of_sure].argmax(1)), 1)


def count_certainty(
    tokens: Iterable[pa.RecordBatch], run_ids: Sequence[str], n_layers: int, thresholds: Sequence[float]
) -> CertaintyCounts:
    """Return the counts of these runs, of which `tokens` are as in `confidence_by_depth`.

    At threshold 0, a layer confirms a token if it predicts the final layer's: the layers agree.
    """
    counts = CertaintyCounts.none(len(thresholds), len(run_ids), n_layers)
    for run_D, p_DXK, top_token_DX in top_predictions(tokens, run_ids):
        np.add.at(counts.n_R, run_D, 1)
        for at, threshold in enumerate(thresholds):
            counts.add(at, run_D, p_DXK[..., 0] >= threshold, top_token_DX == top_token_DX[:, -1:])
    return counts


def _medians(count_CRMX: np.ndarray, layer_X: np.ndarray) -> np.ndarray:
    """Return the lower median of layers with these counts, (C, R, M); NaN where all are 0."""
    below_CRMX, n_CRM = count_CRMX.cumsum(-1), count_CRMX.sum(-1)
    rank_CRM = (below_CRMX > ((n_CRM - 1) // 2)[..., None]).argmax(-1)
    median_CRM: np.ndarray = np.where(n_CRM > 0, layer_X[rank_CRM], np.nan)
    return median_CRM


def _of_kind(
    shares: Mapping[str, np.ndarray], median_RM: np.ndarray, prompt_R: np.ndarray, unit_R: np.ndarray
) -> list[dict[str, float]]:
    """Return a row per layer with the estimates of `confidence_by_depth`, from runs' shares of tokens and medians."""
    of_units = {name: means_of_units(share_RX, prompt_R, unit_R) for name, share_RX in shares.items()}
    each = {
        name: estimate_columns(of_units[name], [ValueKind.SHARE] * of_units[name].shape[1]) for name in MEASURES
    } | {"contradicted": estimate_ratios(of_units["contradicted"], of_units["exits"], ValueKind.SHARE)}
    wrong_P1, exits_P1 = (of_units[name].sum(1, keepdims=True) for name in ("contradicted", "exits"))
    of_kind = {
        "exits_contradicted": estimate_ratios(wrong_P1, exits_P1, ValueKind.SHARE)[0],
        "taken_back": estimate_ratios(of_units["taken_back"], of_units["early"], ValueKind.SHARE)[0],
        **{
            first: _median_layer(median_R, prompt_R, unit_R)
            for first, median_R in zip(MEASURES.values(), median_RM.T, strict=True)
        },
    }
    same = {column: number for name, found in of_kind.items() for column, number in found.columns(name).items()}
    return [
        {column: number for name, found in each.items() for column, number in found[rank].columns(name).items()} | same
        for rank in range(len(each["sure"]))
    ]


def _median_layer(median_R: np.ndarray, prompt_R: np.ndarray, unit_R: np.ndarray) -> Estimate:
    """Return the lower median over units, each of its prompts, each of its runs. It is a layer, as are its ends."""
    frame = pd.DataFrame({"median": median_R, "prompt": prompt_R, "unit": unit_R}).dropna()
    if frame.empty:
        return NOTHING
    of_prompts = frame.groupby(["unit", "prompt"])["median"].agg(_lower_median)
    values_P = of_prompts.groupby("unit").agg(_lower_median).to_numpy()
    low, high = of_median(values_P) or (np.nan, np.nan)
    return Estimate(_lower_median(values_P), low, high, len(values_P))


def _lower_median(values: "np.ndarray | pd.Series") -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])
