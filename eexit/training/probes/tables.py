"""The card's tables of a probe: how well it ranks tokens, how far its chances can be trusted, and the trade-off.

Shapes: N tokens, E exitable layers, K KL factors, those of `KL_FACTORS`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from scipy.stats import rankdata
from torch import Tensor

from eexit.method.divergence import Divergence
from eexit.method.rules import RULES
from eexit.training.setup import KL_FACTORS
from eexit.training.streams import Row, joined, layer_rows, trade_off_rows
from eexit.training.trainer import Tables

BINS: Final = 10  # of the predicted chance to stop, equally wide


@dataclass(frozen=True)
class Predicted:
    """What is true of some tokens, and what each kind of probe predicts for them: log KLs at each of K KL factors."""

    true: Divergence
    log_kl_NEK: Mapping[str, Tensor]

    @classmethod
    def joined(cls, parts: Sequence["Predicted"]) -> "Predicted":
        kinds = parts[0].log_kl_NEK
        return cls(
            joined([part.true for part in parts]),
            {kind: torch.cat([part.log_kl_NEK[kind] for part in parts]) for kind in kinds},
        )

    def rank_correlations(self) -> dict[str, list[float]]:
        """Spearman's rank correlation with the true KL, by kind, of each layer."""
        return {
            kind: [
                rank_correlation(log_kl_N, kl_N)
                for log_kl_N, kl_N in zip(log_kl_NEK[..., 0].mT, self.true.kl_BE.mT, strict=True)
            ]
            for kind, log_kl_NEK in self.log_kl_NEK.items()
        }


def rank_correlation(one_N: Tensor, other_N: Tensor) -> float:
    """Spearman's: the correlation of ranks, where equal numbers share their mean rank. 0 if all of one are equal."""
    ranks = torch.tensor(rankdata(torch.stack([one_N, other_N]), axis=1))
    return torch.corrcoef(ranks)[0, 1].nan_to_num(0.0).item()


def probe_tables(readout: str, layers: Sequence[int], n_layers: int, found: Predicted, kinds: Sequence[str]) -> Tables:
    """All of them, given the kind of probe that each layer keeps."""
    kept = [found.log_kl_NEK[kind][:, rank] for rank, kind in enumerate(kinds)]
    seen_kl_NEK, ranks = torch.stack(kept, 1).exp(), found.rank_correlations()
    seen = dict(zip(KL_FACTORS, seen_kl_NEK.unbind(-1), strict=True))
    rules = {"kl": None, "predicted_kl": seen}
    return {
        "held_out": layer_rows(readout, layers, found.true),
        "trade_off": [
            row
            for rule, seen_at in rules.items()
            for row in trade_off_rows({"readout": readout, "rule": rule}, layers, n_layers, found.true, seen_at)
        ],
        "probes": [
            probe_row(layer, kinds[rank], {kind: of_layers[rank] for kind, of_layers in ranks.items()})
            for rank, layer in enumerate(layers)
        ],
        "calibration": [
            row
            for rank, layer in enumerate(layers)
            for row in calibration_rows(
                layer, {factor: kl_NE[:, rank] for factor, kl_NE in seen.items()}, found.true.kl_BE[:, rank]
            )
        ],
    }


def probe_row(layer: int, kept: str, correlations: Mapping[str, float]) -> Row:
    """A layer's rank correlations by kind of probe, of which one is kept."""
    return {
        "layer": layer,
        "kind": kept,
        "rank_correlation": correlations[kept],
        "rank_correlation_linear": correlations["linear"],
        "rank_correlation_mlp": correlations.get("mlp"),
    }


def calibration_rows(layer: int, seen: Mapping[float, Tensor], true_kl_N: Tensor) -> Iterator[Row]:
    """For each KL factor and bin with tokens: the mean chances to stop, by the KLs `seen` at it and by true ones."""
    for factor, seen_kl_N in seen.items():
        seen_N, true_N = (_stop_chance(kl_N, factor) for kl_N in (seen_kl_N, true_kl_N))
        bin_N = (seen_N * BINS).long().clamp(max=BINS - 1)
        for number in range(BINS):
            if (in_bin_N := bin_N == number).any():
                yield {
                    "layer": layer,
                    "kl_factor": factor,
                    "bin": number,
                    "n": int(in_bin_N.sum()),
                    "predicted": seen_N[in_bin_N].mean().item(),
                    "true": true_N[in_bin_N].mean().item(),
                }


def _stop_chance(kl_N: Tensor, factor: float) -> Tensor:
    return RULES["kl"].chances(kl_N, torch.full_like(kl_N, factor)).stop_BE
