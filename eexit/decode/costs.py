"""What tokens cost in multiply-adds of matrix products: what full depth costs, what exits need, and what was run.

`eexit.decode.unit_costs.find_prices` finds what a model's parts cost for one token. This module does not import torch.

Shapes: T decided tokens of a run, E exitable layers, X these and then the final one, L layers, K kinds of looks, R
rounds of a row that drafts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np

from eexit.method.modes import MODES, Mode
from eexit.method.rules import ONLINE
from eexit.plan.configuration import PERFECT, Configuration, Draft, EarlyExit, NoExit

COSTS: Final = ("macs_full", "macs_required", "macs_executed")  # the columns of a run that are costs, in multiply-adds
# What can look at a token's residual stream after a layer, by the column that counts it: the whole head, a screen, a
# probe, and a gate. Last and without a price, those reads through a screen that a token left by, although the
# screen had missed the token that is likeliest to the whole head.
MISSES: Final = "screen_misses"
LOOKS: Final = ("head_reads", "screen_reads", "probe_reads", "gate_reads", MISSES)


@dataclass(frozen=True)
class OpCounts:
    """What was run for each decided token of a run.

    Where tokens are drafted, those that were taken back are there too, each as often as it was run.
    """

    input_index_T: np.ndarray  # of its input among the generated tokens
    layers_T: np.ndarray  # how many layers were run for it: always the first so many
    kv_layers_T: np.ndarray  # in how many layers after these keys and values alone were written
    reads_TXK: np.ndarray  # how often each of LOOKS looked at its residual stream after each layer of X

    def looks_TX(self, name: str) -> np.ndarray:
        """How often one of LOOKS looked at each token's residual stream after each layer of X, (T, X)."""
        looks_TX: np.ndarray = self.reads_TXK[..., LOOKS.index(name)]
        return looks_TX


@dataclass(frozen=True)
class UnitCosts:
    """What the parts of a model cost for one token, in multiply-adds of matrix products."""

    embedding: int  # what runs before layer 0; without products, an embedding costs nothing
    layer_L: np.ndarray  # a layer without its attention over positions
    keys_L: np.ndarray  # keys and values alone: all that is run until they are in the cache
    position_L: np.ndarray  # one position that a token attends to in a layer, with all query heads
    look_XK: np.ndarray  # of each of LOOKS, from a residual stream after each layer of X
    window_L: Sequence[int | None]  # positions that a layer attends to, the own one included; None: all
    weight_bytes_L: np.ndarray  # of a layer's weights, as it holds them; multiply-adds say nothing of that
    head_weight_bytes: int
    mapped_LL: np.ndarray | None = None  # as keys_L, by exit layer and then layer, where KV maps make them


def required_ops(exit_layer_T: np.ndarray, layer_X: np.ndarray, mode: Mode | None) -> OpCounts:
    """Return what exits as taken need if deciding costs nothing; without a state, what full depth needs.

    A token needs the layers up to its exit, and one read there. Later tokens that exit deeper attend to its position in
    the layers up to their exits: there it needs what the state leaves, or the layers themselves if the state is that of
    the full-depth pass.
    """
    depth_T = exit_layer_T + 1
    reached_T = np.maximum.accumulate(depth_T[::-1])[::-1]  # by the token or a later one
    layers_T = depth_T if mode and mode.modifies_kv else reached_T
    kv_layers_T = (reached_T - depth_T) * (mode is not None and mode.writes_kv)
    looks_TXK = np.zeros((len(exit_layer_T), len(layer_X), len(LOOKS)), np.int64)
    looks_TXK[..., LOOKS.index("head_reads")] = layer_X == exit_layer_T[:, None]
    return OpCounts(np.arange(len(exit_layer_T)), layers_T, kv_layers_T, looks_TXK)


def run_counts(
    configuration: Configuration, layer_X: np.ndarray, exit_layer_T: np.ndarray, score_TE: np.ndarray | None = None,
    missed_T: np.ndarray | None = None, has_screen: bool = False,
) -> OpCounts | None:  # fmt: skip
    """Return what was run for a run's decided tokens, decoded alone: what exits need, keys and values of all skipped
    layers at once, and the rule's reads. None for oracles, which share a full-depth pass, and for drafts.

    Args:
        score_TE: exit scores, NaN where the rule read nothing; None: it reads nothing.
        missed_T: which tokens a screen let exit by mistake.
    """
    match configuration:
        case NoExit():
            return required_ops(exit_layer_T, layer_X, None)
        case EarlyExit() if not configuration.is_oracle:
            mode = MODES[configuration.mode]
            counts = required_ops(exit_layer_T, layer_X, mode)
            if configuration.rule in ONLINE:
                assert score_TE is not None
                _add_looks(counts.reads_TXK, configuration, layer_X, exit_layer_T, score_TE, missed_T, has_screen)
            return replace(counts, kv_layers_T=(layer_X[-1] - exit_layer_T) * mode.writes_kv)
    return None


def _add_looks(
    looks_TXK: np.ndarray, setting: EarlyExit, layer_X: np.ndarray, exit_layer_T: np.ndarray, score_TE: np.ndarray,
    missed_T: np.ndarray | None, has_screen: bool,
) -> None:  # fmt: skip
    """Add the reads of an online rule to those at exits; a read by the whole head at an exit is that read."""
    is_at_exit_TX = layer_X == exit_layer_T[:, None]
    in_set_X = np.isin(np.arange(len(layer_X)), setting.ranks(layer_X[:-1].tolist()))
    reached_TX = in_set_X & (layer_X <= exit_layer_T[:, None])
    looked_TX = reached_TX & np.pad(~np.isnan(score_TE), ((0, 0), (0, 1)))
    if setting.gate == PERFECT:
        looked_TX &= is_at_exit_TX
    if setting.gate is not None:
        looks_TXK[..., LOOKS.index("gate_reads")] = reached_TX
    if column := ONLINE[setting.rule].read_by(has_screen):
        looks_TXK[..., LOOKS.index(column)] |= looked_TX
    if missed_T is not None:
        looks_TXK[..., LOOKS.index(MISSES)] = is_at_exit_TX & missed_T[:, None]


def multiply_adds(prices: UnitCosts, counts: OpCounts, n_prompt: int, mode: Mode | None = None) -> float:
    """Return the multiply-adds of a run's decided tokens.

    The input of a token stands at position `n_prompt` + its place. In each layer that was run, it attends to its own
    position and to those earlier ones that lie in the layer's window and are not hidden there. If the state leaves
    nothing, each token's position is hidden in layers that were not run for it. If it maps, keys and values alone came
    by the KV maps of the last layers that were run.
    """
    n_tokens, layer_L1 = len(counts.layers_T), np.arange(len(prices.layer_L))[:, None]
    run_LT = layer_L1 < counts.layers_T
    keys_LT = ~run_LT & (layer_L1 < counts.layers_T + counts.kv_layers_T)
    position_T = n_prompt + counts.input_index_T
    end = int(position_T.max(initial=0)) + 1
    window_L1 = np.array([end if window is None else window for window in prices.window_L])[:, None]
    first_LT = np.maximum(position_T + 1 - window_L1, 0)
    attended_LT = position_T + 1 - first_LT
    if mode and mode.hides_positions:
        n_hidden_LT = np.pad(np.cumsum(~run_LT, 1), ((0, 0), (1, 0)))  # before each token
        n_hidden_before_window_LT = np.take_along_axis(n_hidden_LT, np.maximum(first_LT - n_prompt, 0), 1)
        attended_LT -= n_hidden_LT[:, :-1] - n_hidden_before_window_LT
    key_price_LT = mode.cost(prices.keys_L, prices.mapped_LL, counts.layers_T - 1) if mode else prices.keys_L[:, None]
    per_layer_L = (
        prices.layer_L * run_LT.sum(1)
        + (key_price_LT * keys_LT).sum(1)
        + prices.position_L * (attended_LT * run_LT).sum(1)
    )
    looks = (prices.look_XK * counts.reads_TXK.sum(0)).sum()
    return float(prices.embedding * n_tokens + per_layer_L.sum() + looks)


def cost_columns(
    prices: UnitCosts, counts: OpCounts | None, exit_layer_T: np.ndarray, exitable_layers: Sequence[int], mode: str,
    n_prompt: int,
) -> dict[str, float | int | None]:  # fmt: skip
    """Return the columns of a run that say what its decided tokens, which exited at these layers, cost.

    Without counts, what was run is not the run's own: the pass beside an oracle serves all modes.
    """
    layer_X, its = np.array([*exitable_layers, len(prices.layer_L) - 1]), MODES.get(mode)
    full = required_ops(np.full_like(exit_layer_T, layer_X[-1]), layer_X, None)
    least = required_ops(exit_layer_T, layer_X, its)
    alone = replace(least, layers_T=exit_layer_T + 1, kv_layers_T=np.zeros_like(exit_layer_T))
    return {
        "macs_full": multiply_adds(prices, full, n_prompt),
        "macs_to_exit": multiply_adds(prices, alone, n_prompt),
        "macs_required": multiply_adds(prices, least, n_prompt, its),
        "macs_executed": None if counts is None else multiply_adds(prices, counts, n_prompt, its),
        "layers_run": None if counts is None else int(counts.layers_T.sum()),
        **{name: None if counts is None else int(counts.looks_TX(name).sum()) for name in LOOKS},
        "kv_writes": None if counts is None else int(counts.kv_layers_T.sum()),
    }


@dataclass(frozen=True)
class DraftRounds:
    """The rounds of a row, each of which begins with the row's last token.

    It yields the drafts that were right and full depth's own token after them, unless the row ends before.
    """

    input_index_R: np.ndarray  # of the row's last token among its generated ones
    drafted_R: np.ndarray
    accepted_R: np.ndarray
    rejected_R: np.ndarray  # 1 if full depth said something else than a draft, else 0

    @classmethod
    def of(cls, rounds: Sequence[Sequence[int]]) -> "DraftRounds":
        """From these numbers of each round, in this order."""
        return cls(*np.array(rounds, np.int64).reshape(-1, len(fields(cls))).T)

    @property
    def length_R(self) -> np.ndarray:
        """Tokens that went through the layers."""
        return self.drafted_R + 1

    def emitted_R(self, n_decided: int) -> np.ndarray:
        """The tokens that each round gave a row that has so many decided tokens."""
        return np.diff(self.input_index_R, append=n_decided)

    def counts(self, layer: int, layer_X: np.ndarray) -> OpCounts:
        """Return what was run, token after token, those that were taken back included; `layer` is the early one.

        All go through all layers and are read at the end, and all but the last of a round are read early.
        """
        first_T = np.repeat(np.cumsum(self.length_R) - self.length_R, self.length_R)
        index_T = np.arange(len(first_T)) - first_T  # in its round
        counts = required_ops(np.full_like(index_T, layer_X[-1]), layer_X, None)
        is_draft_T = index_T < np.repeat(self.drafted_R, self.length_R)
        counts.reads_TXK[:, np.searchsorted(layer_X, layer), LOOKS.index("head_reads")] = is_draft_T
        return replace(counts, input_index_T=np.repeat(self.input_index_R, self.length_R) + index_T)

    def columns(
        self, draft: Draft, n_decided: int, prices: UnitCosts, exitable_layers: Sequence[int]
    ) -> dict[str, float | int | None]:
        """Return the columns of a run that say what came of its drafts.

        `expected_speedup` is over full depth, where calls run one after the other and each costs what it costs for one
        token, attention left out: where fetching weights takes the time, as in small batches, a call for a few tokens
        takes no longer.
        """
        drafted, accepted, n_rounds = int(self.drafted_R.sum()), int(self.accepted_R.sum()), len(self.input_index_R)
        judged, n_layers = accepted + int(self.rejected_R.sum()), len(prices.layer_L)
        layers_L = prices.embedding + np.cumsum(prices.layer_L)  # all layers up to each
        read_X = prices.look_XK[:, LOOKS.index("head_reads")]
        normal = int(layers_L[-1] + read_X[-1])
        of_draft = int(layers_L[draft.layer] + read_X[exitable_layers.index(draft.layer)])
        # The last token of a round goes through the early layers too, as a part of full depth.
        serial = drafted * of_draft + n_rounds * normal
        return {
            "drafted": drafted,
            "accepted": accepted,
            "acceptance": accepted / drafted if drafted else None,
            "acceptance_per_token": accepted / judged if judged else None,
            "passes": n_rounds,
            "layer_calls": drafted * (draft.layer + 1) + n_rounds * n_layers,
            "tokens_per_pass": n_decided / n_rounds if n_rounds else None,
            "expected_speedup": normal * n_decided / serial if n_rounds else None,
        }
