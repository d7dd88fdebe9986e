"""A run's columns on drafts. This module does not import torch."""

from collections.abc import Sequence

import numpy as np

from eexit.costs.operations import READS, DraftRounds, UnitCosts
from eexit.plan.configuration import Draft


def draft_columns(
    rounds: DraftRounds, draft: Draft, n_decided: int, unit_costs: UnitCosts, exitable_layers: Sequence[int]
) -> dict[str, float | int | None]:
    """Return a run's columns on drafts.

    `expected_speedup` assumes that a pass over a few tokens takes as long as a pass over one. This holds if fetching
    weights takes most of the time. Attention is left out.
    """
    drafted, accepted, n_rounds = int(rounds.drafted_R.sum()), int(rounds.accepted_R.sum()), len(rounds.input_index_R)
    compared, n_layers = accepted + int(rounds.rejected_R.sum()), len(unit_costs.layer_L)
    layers_L = unit_costs.embedding + np.cumsum(unit_costs.layer_L)  # all layers up to each
    read_X = unit_costs.read_XK[:, READS.index("head_reads")]
    full_pass = int(layers_L[-1] + read_X[-1])
    draft_pass = int(layers_L[draft.layer] + read_X[exitable_layers.index(draft.layer)])
    # The last token of a round goes through the early layers too, as a part of full depth.
    serial = drafted * draft_pass + n_rounds * full_pass
    return {
        "drafted": drafted,
        "accepted": accepted,
        "acceptance": accepted / drafted if drafted else None,
        "acceptance_per_token": accepted / compared if compared else None,
        "passes": n_rounds,
        "layer_calls": drafted * (draft.layer + 1) + n_rounds * n_layers,
        "tokens_per_pass": n_decided / n_rounds if n_rounds else None,
        "expected_speedup": full_pass * n_decided / serial if n_rounds else None,
    }
