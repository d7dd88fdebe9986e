"""What tokens cost in multiply-adds of matrix products: what full depth costs, what exits need, and what was run.

`eexit.decode.prices.find_prices` finds what a model's parts cost for one token. This module does not import torch.

Shapes: T decided tokens of a run, X exitable layers and then the final one, L layers, K kinds of looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from eexit.method.rules import ONLINE
from eexit.method.states import STATES, Leaves, State, alters
from eexit.plan.configuration import PERFECT, Configuration, Exit, Normal

COSTS: Final = ("cost_full", "cost_needed", "cost_run")  # the columns of a run that are costs, in multiply-adds
# What can look at a token's residual stream after a layer, by the column that counts it: the whole head, a screen, a
# probe, and a gate. Last and without a price, those reads through a screen that a token left by, although the
# screen had missed the token that is likeliest to the whole head.
MISSES: Final = "screen_misses"
LOOKS: Final = ("head_reads", "screen_reads", "probe_reads", "gate_reads", MISSES)


@dataclass(frozen=True)
class Counts:
    """What was run for each decided token of a run.

    Where tokens are drafted, those that were taken back are there too, each as often as it was run.
    """

    input_index_T: np.ndarray  # of its input among the generated tokens
    layers_T: np.ndarray  # how many layers were run for it: always the first so many
    keys_T: np.ndarray  # in how many layers after these keys and values alone were written
    looks_TXK: np.ndarray  # how often each of LOOKS looked at its residual stream after each layer of X

    def looks_TX(self, name: str) -> np.ndarray:
        """How often one of LOOKS looked at each token's residual stream after each layer of X, (T, X)."""
        looks_TX: np.ndarray = self.looks_TXK[..., LOOKS.index(name)]
        return looks_TX


@dataclass(frozen=True)
class Prices:
    """What the parts of a model cost for one token, in multiply-adds of matrix products."""

    before: int  # what runs before layer 0; without products, an embedding costs nothing
    layer_L: np.ndarray  # a layer without its attention over positions
    keys_L: np.ndarray  # keys and values alone: all that is run until they are in the cache
    position_L: np.ndarray  # one position that a token attends to in a layer, with all query heads
    look_XK: np.ndarray  # of each of LOOKS, from a residual stream after each layer of X
    window_L: Sequence[int | None]  # positions that a layer attends to, the own one included; None: all
    weight_bytes_L: np.ndarray  # of a layer's weights, as it holds them; multiply-adds say nothing of that
    head_weight_bytes: int
    mapped_LL: np.ndarray | None = None  # as keys_L, by exit layer and then layer, where state maps make them


def cost(
    prices: Prices, counts: Counts, n_prompt: int, hidden_LT: np.ndarray | None = None, maps: bool = False
) -> float:
    """The multiply-adds of a run's decided tokens.

    The input of a token stands at position `n_prompt` + its place. In each layer that was run, it attends to its own
    position and to those earlier ones that lie in the layer's window and are not hidden there. `hidden_LT` says in
    which layers each token's position is hidden; None hides nothing. With `maps`, keys and values alone came by the
    state maps of the last layers that were run.
    """
    n_tokens, layer_L1 = len(counts.layers_T), np.arange(len(prices.layer_L))[:, None]
    run_LT = layer_L1 < counts.layers_T
    keys_LT = ~run_LT & (layer_L1 < counts.layers_T + counts.keys_T)
    position_T = n_prompt + counts.input_index_T
    end = int(position_T.max(initial=0)) + 1
    window_L1 = np.array([end if window is None else window for window in prices.window_L])[:, None]
    first_LT = np.maximum(position_T + 1 - window_L1, 0)
    attended_LT = position_T + 1 - first_LT
    if hidden_LT is not None:
        attended_LT -= _n_hidden(hidden_LT, first_LT - n_prompt)
    key_price_LT = prices.keys_L[:, None]
    if maps:
        assert prices.mapped_LL is not None
        key_price_LT = prices.mapped_LL[counts.layers_T - 1].T
    per_layer_L = (
        prices.layer_L * run_LT.sum(1)
        + (key_price_LT * keys_LT).sum(1)
        + prices.position_L * (attended_LT * run_LT).sum(1)
    )
    looks = (prices.look_XK * counts.looks_TXK.sum(0)).sum()
    return float(prices.before * n_tokens + per_layer_L.sum() + looks)


def _n_hidden(hidden_LT: np.ndarray, first_LT: np.ndarray) -> np.ndarray:
    """How many tokens are hidden between the token `first_LT`, included, and each token, excluded."""
    before_LT = np.pad(np.cumsum(hidden_LT, 1), ((0, 0), (1, 0)))  # how many are hidden before each token
    n_hidden_LT: np.ndarray = before_LT[:, :-1] - np.take_along_axis(before_LT, np.maximum(first_LT, 0), 1)
    return n_hidden_LT


def full_depth(n_tokens: int, n_layers: int, n_exits: int) -> Counts:
    """The counts of tokens that run all layers and are read once after the final one.

    `n_exits` is the number of exitable layers, without the final one.
    """
    final_T = np.full(n_tokens, n_layers - 1)
    return _decided_for_free(final_T + 1, np.zeros_like(final_T), np.full(n_tokens, n_exits), n_exits)


def needed(
    exit_layer_T: np.ndarray, exitable_layers: Sequence[int], n_layers: int, state: State | None
) -> tuple[Counts, np.ndarray | None]:
    """What exits as taken need if deciding costs nothing, and `cost`'s `hidden_LT`.

    A token needs the layers up to its exit, and one read there. Later tokens that exit deeper attend to its position in
    the layers up to their exits: there it needs what the state leaves, or the layers themselves if the state is that of
    the full-depth pass. None is the state of `normal`.
    """
    depth_T = exit_layer_T + 1
    reached_T = np.maximum(_deepest_later(depth_T), depth_T)
    exit_T = np.searchsorted([*exitable_layers, n_layers - 1], exit_layer_T)
    if state is None or not alters(state):
        return _decided_for_free(reached_T, np.zeros_like(depth_T), exit_T, len(exitable_layers)), None
    keys_T = (reached_T - depth_T) * state.writes_keys
    hidden_LT = (np.arange(n_layers)[:, None] >= depth_T) & (state.leaves is Leaves.NOTHING)
    return _decided_for_free(depth_T, keys_T, exit_T, len(exitable_layers)), hidden_LT


@dataclass(frozen=True)
class Ran:
    """What decides what was run for a run's decided tokens, each decoded alone: the layers that they exited after, what
    their rule saw, and which a screen let exit by mistake. Without evidence, the rule looked at nothing."""

    exit_layer_T: np.ndarray
    evidence_TE: np.ndarray | None = None  # NaN where the rule did not look
    missed_T: np.ndarray | None = None
    by_screen: bool = False

    def counts(self, configuration: Configuration, exitable_layers: Sequence[int], n_layers: int) -> Counts | None:
        """None for an oracle, which runs beside a full-depth pass that rows share, and for drafts, which are counted
        by their rounds."""
        match configuration:
            case Normal():
                return full_depth(len(self.exit_layer_T), n_layers, len(exitable_layers))
            case Exit() if not configuration.is_oracle:
                counts = _layers_and_keys(self.exit_layer_T, exitable_layers, n_layers, STATES[configuration.state])
                return replace(counts, looks_TXK=self._looks(configuration, exitable_layers, n_layers))
        return None

    def _looks(self, setting: Exit, exitable_layers: Sequence[int], n_layers: int) -> np.ndarray:
        """`Counts.looks_TXK`: looks up to the exits, and one whole read of each token that no look was."""
        rank_X = np.arange(len(exitable_layers) + 1)
        exit_T = np.searchsorted([*exitable_layers, n_layers - 1], self.exit_layer_T)
        is_at_exit_TX = rank_X == exit_T[:, None]
        if setting.rule not in ONLINE:
            return looks_of(is_at_exit_TX)
        assert self.evidence_TE is not None
        reached_TX = np.isin(rank_X, setting.ranks(exitable_layers)) & (rank_X <= exit_T[:, None])
        looked_TX = reached_TX & np.pad(~np.isnan(self.evidence_TE), ((0, 0), (0, 1)))
        if setting.gate == PERFECT:
            looked_TX &= is_at_exit_TX
        rule, looks_TXK = ONLINE[setting.rule], np.zeros((*reached_TX.shape, len(LOOKS)), np.int64)
        if setting.gate is not None:
            looks_TXK[..., LOOKS.index("gate_reads")] = reached_TX
        if rule.probes:
            looks_TXK[..., LOOKS.index("probe_reads")] = looked_TX
        if rule.reads:
            looks_TXK[..., LOOKS.index("screen_reads" if self.by_screen else "head_reads")] = looked_TX
        looks_TXK[..., LOOKS.index("head_reads")] |= is_at_exit_TX
        if self.missed_T is not None:
            looks_TXK[..., LOOKS.index(MISSES)] = is_at_exit_TX & self.missed_T[:, None]
        return looks_TXK


def _layers_and_keys(exit_layer_T: np.ndarray, exitable_layers: Sequence[int], n_layers: int, state: State) -> Counts:
    """The layers that are run for tokens with these exits, and those in which keys and values alone are written: in
    all that are deeper, at once, if exits alter the state; else the layers themselves, once a later token needs them.
    """
    counts, _ = needed(exit_layer_T, exitable_layers, n_layers, state)
    if not alters(state):
        return counts
    return replace(counts, keys_T=(n_layers - 1 - exit_layer_T) * state.writes_keys)


def cost_columns(
    prices: Prices, counts: Counts | None, exit_layer_T: np.ndarray, exitable_layers: Sequence[int], mode: str,
    n_prompt: int,
) -> dict[str, float | int | None]:  # fmt: skip
    """The columns of a run that say what its decided tokens, which exited at these layers, cost.

    Without counts, what was run is not the run's own: the pass beside an oracle serves all modes.
    """
    n_layers, state = len(prices.layer_L), STATES.get(mode)
    maps = state is not None and state.maps
    exit_T = np.searchsorted([*exitable_layers, n_layers - 1], exit_layer_T)
    alone = _decided_for_free(exit_layer_T + 1, np.zeros_like(exit_layer_T), exit_T, len(exitable_layers))
    least, hidden_LT = needed(exit_layer_T, exitable_layers, n_layers, state)
    full = full_depth(len(exit_layer_T), n_layers, len(exitable_layers))
    return {
        "cost_full": cost(prices, full, n_prompt),
        "cost_exits": cost(prices, alone, n_prompt),
        "cost_needed": cost(prices, least, n_prompt, hidden_LT, maps),
        "cost_run": None if counts is None else cost(prices, counts, n_prompt, hidden_LT, maps),
        "layers_run": None if counts is None else int(counts.layers_T.sum()),
        **{name: None if counts is None else int(counts.looks_TX(name).sum()) for name in LOOKS},
        "keys_written": None if counts is None else int(counts.keys_T.sum()),
    }


def _deepest_later(depth_T: np.ndarray) -> np.ndarray:
    """The greatest depth of any later token; 0 for the last token."""
    deepest_T = np.zeros_like(depth_T)
    deepest_T[:-1] = np.maximum.accumulate(depth_T[:0:-1])[::-1]
    return deepest_T


def _decided_for_free(layers_T: np.ndarray, keys_T: np.ndarray, exit_T: np.ndarray, n_exits: int) -> Counts:
    """The counts of tokens that are read once, after the layer with this index in X."""
    looks_TXK = looks_of(exit_T[:, None] == np.arange(n_exits + 1))
    return Counts(np.arange(len(layers_T)), layers_T, keys_T, looks_TXK)


def looks_of(reads_TX: np.ndarray) -> np.ndarray:
    """`Counts.looks_TXK` of tokens that only the whole head looks at, so often."""
    looks_TXK = np.zeros((*reads_TX.shape, len(LOOKS)), np.int64)
    looks_TXK[..., LOOKS.index("head_reads")] = reads_TX
    return looks_TXK
