"""Probes of a student: at each exitable layer, how far the student is from the teacher, seen from the student's stream.

They are fitted on the tokens that reach a layer when exits are drawn, with what earlier exits left. A deployed student
decides by them.

Shapes: N tokens, E exitable layers, W width of the residual stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from eexit.method.probes import LOG_KL_RANGE, LayerProbe
from eexit.training.probes.probe import linear_probe, log_kl
from eexit.training.probes.tables import calibration_rows, probe_row, rank_correlation
from eexit.training.ridge import SplitSums, Sums
from eexit.training.setup import KL_FACTORS
from eexit.training.student.passes import Draw, Pair
from eexit.training.texts import Text, parted
from eexit.training.trainer import Tables

LEAST_TOKENS: Final = 16  # that must reach a layer, of the texts to learn from and of those that choose, for a probe


@dataclass(frozen=True)
class Reaching:
    """The tokens that reach a layer: the student's streams after it, and KL(teacher's final ‖ student's there)."""

    stream_NW: Tensor
    kl_N: Tensor  # nats


@torch.no_grad()
def reaching(pair: Pair, texts: Sequence[Text], kl_factor: float, draw: Draw) -> dict[int, Reaching]:
    """For each exitable layer, the tokens of these texts that reach it with exits drawn at this KL factor."""
    taught = pair.teach(texts)
    exit_N = pair.draw_exits(taught, kl_factor, draw(texts))
    streams = pair.streams(taught, exit_N, pair.layers)
    kl_NE = pair.kls(streams, taught.final_NW).to(exit_N.device)
    return {
        layer: Reaching(streams[layer][exit_N >= layer], kl_NE[exit_N >= layer, rank])
        for rank, layer in enumerate(pair.layers)
    }


def fit_probes(pair: Pair, some_texts: Sequence[Sequence[Text]], kl_factor: float, draw: Draw) -> dict[int, LayerProbe]:
    """Linear probes by ridge regression; the strength of the penalty is chosen on the texts that choose.

    The probe of a layer that hardly any token reaches never exits there.
    """
    sums = SplitSums()
    for texts in some_texts:
        for chooses, part in parted(texts):
            for layer, found in reaching(pair, part, kl_factor, draw).items():
                sums.add(layer, chooses, Sums.of(found.stream_NW, log_kl(found.kl_N)[:, None]))
    return {layer: _fitted(*sums.of(layer)) for layer in pair.layers}


def _fitted(learn: Sums, choose: Sums) -> LayerProbe:
    if min(learn.n, choose.n) >= LEAST_TOKENS:
        return linear_probe(learn, choose)
    width = len(learn.inputs_JJ) - 1
    return LayerProbe(torch.zeros(width), torch.ones(width), torch.zeros(width), torch.tensor(LOG_KL_RANGE[1]))


def student_probe_tables(
    pair: Pair, probes: Mapping[int, LayerProbe], some_texts: Sequence[Sequence[Text]], kl_factor: float, draw: Draw
) -> Tables:
    """How well the probes rank tokens that reach their layer, and how far the chances that they give can be trusted."""
    found = [reaching(pair, texts, kl_factor, draw) for texts in some_texts]
    seen = {
        layer: torch.cat([probe.log_kl(by_layer[layer].stream_NW).cpu() for by_layer in found])
        for layer, probe in probes.items()
    }
    true = {layer: torch.cat([by_layer[layer].kl_N.cpu() for by_layer in found]) for layer in probes}
    ranks = {layer: rank_correlation(seen[layer], true[layer]) if len(true[layer]) > 1 else 0.0 for layer in probes}
    return {
        "probes": [probe_row(layer, "linear", {"linear": rank}) for layer, rank in ranks.items()],
        "calibration": [
            row
            for layer in probes
            for row in calibration_rows(layer, dict.fromkeys(KL_FACTORS, seen[layer].exp()), true[layer])
        ],
    }
