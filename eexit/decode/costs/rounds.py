"""The rounds of rows that draft: what was run, and what came of it.

Shapes: R rounds of a row, X exitable layers and then the final one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from eexit.decode.costs.counting import LOOKS, Counts, Prices, looks_of
from eexit.plan.configuration import Draft


@dataclass(frozen=True)
class SerialCosts:
    """What runs for one row one after the other, in multiply-adds as if each call were for one token.

    Where fetching weights takes the time, as in small batches, a call for a few tokens takes no longer than for one.
    Attention is left out.
    """

    exit_layer_X: np.ndarray
    layers_X: np.ndarray  # of all layers up to each of X
    reads_X: np.ndarray

    @classmethod
    def of(cls, prices: Prices, exitable_layers: Sequence[int]) -> "SerialCosts":
        exit_layer_X = np.array([*exitable_layers, len(prices.layer_L) - 1])
        read_X = prices.look_XK[:, LOOKS.index("head_reads")]
        return cls(exit_layer_X, prices.before + np.cumsum(prices.layer_L)[exit_layer_X], read_X)

    @property
    def normal(self) -> float:
        """Of a token at full depth."""
        return float(self.layers_X[-1] + self.reads_X[-1])

    def of_round(self, layer: int, drafted_R: np.ndarray) -> np.ndarray:
        """Of rounds that draft so many tokens after this layer, (R,).

        Their last token goes through the early layers too, but is not read there.
        """
        rank = int(np.searchsorted(self.exit_layer_X, layer))
        early, late = self.layers_X[rank], self.layers_X[-1] - self.layers_X[rank]
        cost_R: np.ndarray = (drafted_R + 1) * early + drafted_R * self.reads_X[rank] + late + self.reads_X[-1]
        return cost_R


@dataclass(frozen=True)
class Rounds:
    """The rounds of a row, each of which begins with the row's last token.

    It yields the drafts that were right and full depth's own token after them, unless the row ends before.
    """

    input_index_R: np.ndarray  # of the row's last token among its generated ones
    drafted_R: np.ndarray
    accepted_R: np.ndarray
    rejected_R: np.ndarray  # 1 if full depth said something else than a draft, else 0

    @classmethod
    def of(cls, rounds: Sequence[Sequence[int]]) -> "Rounds":
        """From these numbers of each round, in this order."""
        return cls(*np.array(rounds, np.int64).reshape(-1, len(fields(cls))).T)

    @property
    def length_R(self) -> np.ndarray:
        """Tokens that went through the layers."""
        return self.drafted_R + 1

    def given_R(self, n_decided: int) -> np.ndarray:
        """The tokens that each round gave a row that has so many decided tokens."""
        return np.diff(self.input_index_R, append=n_decided)

    def counts(self, layer: int, exit_layer_X: np.ndarray) -> Counts:
        """What was run, token after token, those that were taken back included; `layer` is the early one.

        All go through all layers and are read at the end, and all but the last of a round are read early.
        """
        first_T = np.repeat(np.cumsum(self.length_R) - self.length_R, self.length_R)
        index_T = np.arange(len(first_T)) - first_T  # in its round
        input_index_T = np.repeat(self.input_index_R, self.length_R) + index_T
        reads_TX = np.zeros((len(input_index_T), len(exit_layer_X)), np.int64)
        reads_TX[:, np.searchsorted(exit_layer_X, layer)] = index_T < np.repeat(self.drafted_R, self.length_R)
        reads_TX[:, -1] = 1
        return Counts(
            input_index_T,
            np.full_like(input_index_T, exit_layer_X[-1] + 1),
            np.zeros_like(input_index_T),
            looks_of(reads_TX),
        )

    def columns(self, draft: Draft, n_decided: int, costs: SerialCosts) -> dict[str, float | int | None]:
        """The columns of a run that say what came of its drafts."""
        drafted, accepted = int(self.drafted_R.sum()), int(self.accepted_R.sum())
        judged, n_rounds = accepted + int(self.rejected_R.sum()), len(self.input_index_R)
        serial = float(costs.of_round(draft.layer, self.drafted_R).sum())
        return {
            "drafted": drafted,
            "accepted": accepted,
            "acceptance": accepted / drafted if drafted else None,
            "acceptance_per_token": accepted / judged if judged else None,
            "passes": n_rounds,
            "layer_calls": int((self.drafted_R * (draft.layer + 1) + costs.exit_layer_X[-1] + 1).sum()),
            "tokens_per_pass": n_decided / n_rounds if n_rounds else None,
            "expected_speedup": costs.normal * n_decided / serial if n_rounds else None,
        }
