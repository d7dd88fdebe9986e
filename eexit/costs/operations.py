"""Operation counts of runs, and their multiply-adds: of full depth, as exits require, and as run.

`eexit.costs.unit_costs` counts the costs of a model's parts for one token. This module does not import torch. A *read*
is a prediction from a hidden state, by the lm_head, a screen, a probe or a gate. A *decided* token is any generated
token but a run's first. With prompt exits, that one and the prompt's tokens are decided too.

Letters besides the table's: T decided tokens of a run, K kinds of reads (READS), R draft rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from eexit.method.modes import MODES, Mode
from eexit.method.rules import ONLINE
from eexit.plan.configuration import PERFECT, Configuration, Draft, NoExit
from eexit.results.token_columns import PromptExits

COSTS: Final = ("macs_full", "macs_required", "macs_executed")  # columns in multiply-adds
MISSES: Final = "screen_misses"
# Columns that count reads of hidden states, by predictor. The last has no price: it counts reads through a screen by
# which a token exited although the screen had missed the whole head's likeliest token.
READS: Final = ("head_reads", "screen_reads", "probe_reads", "gate_reads", MISSES)


@dataclass(frozen=True)
class OpCounts:
    """Operations of each decided token; a rejected draft is counted each time that it ran."""

    input_index_T: np.ndarray  # of the token's input among the generated tokens
    layers_T: np.ndarray  # layers that ran: always the first ones
    kv_layers_T: np.ndarray  # layers after these that wrote keys and values alone
    reads_TXK: np.ndarray  # reads after each layer

    def reads_TX(self, name: str) -> np.ndarray:
        """Return the reads of one kind in READS, (T, X)."""
        reads_TX: np.ndarray = self.reads_TXK[..., READS.index(name)]
        return reads_TX


@dataclass(frozen=True)
class UnitCosts:
    """Multiply-adds of a model's parts for one token, in matrix products."""

    embedding: int  # whatever runs before layer 0; without products, an embedding costs nothing
    layer_L: np.ndarray  # a layer without its attention over positions
    keys_L: np.ndarray  # keys and values alone
    position_L: np.ndarray  # one position that a token attends to in a layer, with all query heads
    read_XK: np.ndarray  # a read after each layer
    window_L: Sequence[int | None]  # positions that a layer attends to, the token's own included; None: all
    weight_bytes_L: np.ndarray  # of a layer's weights, as the layer holds them
    head_weight_bytes: int
    mapped_LL: np.ndarray | None = None  # keys and values by KV maps, by exit layer and then layer


def required_ops(exit_layer_T: np.ndarray, layer_X: np.ndarray, mode: Mode | None, n_unread: int = 0) -> OpCounts:
    """Return the operations that exits require if deciding is free; without a mode, those of full depth.

    A token requires the layers up to its exit, and one head read there; the first `n_unread` tokens require no read.
    Later tokens that exit deeper attend to the token's position up to their exits. There the token requires the keys
    and values of its mode, or the layers themselves if the mode keeps the full-depth KV cache.
    """
    depth_T = exit_layer_T + 1
    reached_T = np.maximum.accumulate(depth_T[::-1])[::-1]  # by the token or a later one
    layers_T = depth_T if mode and mode.modifies_kv else reached_T
    kv_layers_T = (reached_T - depth_T) * (mode is not None and mode.writes_kv)
    reads_TXK = np.zeros((len(exit_layer_T), len(layer_X), len(READS)), np.int64)
    reads_TXK[n_unread:, :, READS.index("head_reads")] = layer_X == exit_layer_T[n_unread:, None]
    return OpCounts(np.arange(len(exit_layer_T)), layers_T, kv_layers_T, reads_TXK)


def run_counts(
    configuration: Configuration, layer_X: np.ndarray, exit_layer_T: np.ndarray, score_TE: np.ndarray | None = None,
    missed_T: np.ndarray | None = None, has_screen: bool = False, prompt: PromptExits | None = None,
) -> OpCounts | None:  # fmt: skip
    """Return the operation counts of a run that is decoded alone; None for oracles and drafts.

    Besides the required operations, the counts include the rule's reads, and the keys and values of all skipped layers.
    Oracles have no counts, since they share a full-depth pass.

    `layer_X` are the exitable layers and the final one, `exit_layer_T` the exits of decided tokens, and `score_TE` exit
    scores, NaN where the rule computed none, or None for a rule that reads no layer. `missed_T` flags tokens that
    exited only because of the screen's approximation. `prompt` has exits in the prompt, which are counted too.
    """
    if isinstance(configuration, NoExit):
        return required_ops(exit_layer_T, layer_X, None)
    if isinstance(configuration, Draft) or configuration.is_oracle:
        return None
    mode, n_before = MODES[configuration.mode], 0 if prompt is None else len(prompt.exit_layer_T)
    if prompt is not None:
        exit_layer_T = np.concatenate([prompt.exit_layer_T, exit_layer_T])
        score_TE = None if score_TE is None else np.concatenate([prompt.exit_score_TE, score_TE])
        missed_T = None if missed_T is None else np.pad(missed_T, (n_before, 0))
    counts = required_ops(exit_layer_T, layer_X, mode, n_before)
    if prompt is not None:
        counts.layers_T[:n_before] = prompt.depth_T if mode.modifies_kv else layer_X[-1] + 1
    if configuration.rule in ONLINE:
        assert score_TE is not None
        reads_TXK, is_at_exit_TX = counts.reads_TXK, layer_X == exit_layer_T[:, None]
        in_set_X = np.isin(np.arange(len(layer_X)), configuration.ranks(layer_X[:-1].tolist()))
        reached_TX = in_set_X & (layer_X <= exit_layer_T[:, None])
        decides_TX = reached_TX & np.pad(~np.isnan(score_TE), ((0, 0), (0, 1)))
        if configuration.gate == PERFECT:
            decides_TX &= is_at_exit_TX
        if configuration.gate is not None:
            reads_TXK[..., READS.index("gate_reads")] = reached_TX
        for column in ONLINE[configuration.rule].read_by(has_screen):  # one head read at an exit decides, too
            reads_TXK[..., READS.index(column)] |= decides_TX
        if missed_T is not None:
            reads_TXK[..., READS.index(MISSES)] = is_at_exit_TX & missed_T[:, None]
    return replace(counts, kv_layers_T=(layer_X[-1] + 1 - counts.layers_T) * mode.writes_kv)


def multiply_adds(unit_costs: UnitCosts, counts: OpCounts, n_prompt: int, mode: Mode | None = None) -> float:
    """Return the multiply-adds of operations.

    A token's input stands at position `n_prompt` + its index. In each layer that runs, the token attends to its own
    position and to earlier ones in the layer's window. A mode may hide a position in layers that did not run for it.
    """
    n_tokens, layer_L1 = len(counts.layers_T), np.arange(len(unit_costs.layer_L))[:, None]
    run_LT = layer_L1 < counts.layers_T
    keys_LT = ~run_LT & (layer_L1 < counts.layers_T + counts.kv_layers_T)
    position_T = n_prompt + counts.input_index_T
    end = int(position_T.max(initial=0)) + 1
    window_L1 = np.array([end if window is None else window for window in unit_costs.window_L])[:, None]
    first_LT = np.maximum(position_T + 1 - window_L1, 0)
    attended_LT = position_T + 1 - first_LT
    if mode and mode.hides_positions:
        n_hidden_LT = np.pad(np.cumsum(~run_LT, 1), ((0, 0), (1, 0)))  # before each token
        n_hidden_before_window_LT = np.take_along_axis(n_hidden_LT, np.maximum(first_LT - n_prompt, 0), 1)
        attended_LT -= n_hidden_LT[:, :-1] - n_hidden_before_window_LT
    keys_L, mapped_LL = unit_costs.keys_L, unit_costs.mapped_LL
    keys_cost_LT = mode.cost(keys_L, mapped_LL, counts.layers_T - 1) if mode else keys_L[:, None]
    layers = (unit_costs.layer_L[:, None] * run_LT + keys_cost_LT * keys_LT).sum()
    attention = (unit_costs.position_L[:, None] * attended_LT * run_LT).sum()
    reads = (unit_costs.read_XK * counts.reads_TXK.sum(0)).sum()
    return float(unit_costs.embedding * n_tokens + layers + attention + reads)


def prompt_cost(unit_costs: UnitCosts, n_prompt: int) -> float:
    """Return the multiply-adds of a prompt at full depth, with the head read that predicts the first token."""
    final = len(unit_costs.layer_L) - 1
    layer_X = np.append(np.full(len(unit_costs.read_XK) - 1, -1), final)
    return multiply_adds(unit_costs, required_ops(np.full(n_prompt, final), layer_X, None, n_prompt - 1), 0)


def cost_columns(
    unit_costs: UnitCosts, counts: OpCounts | None, exit_layer_T: np.ndarray, exitable_layers: Sequence[int], mode: str,
    n_prompt: int, prompt: PromptExits | None = None,
) -> dict[str, float | int | None]:  # fmt: skip
    """Return a run's cost columns: multiply-adds at full depth, up to the exits, as exits require, and as executed.

    `exit_layer_T` has the exits of the run's decided tokens. With prompt exits, the prompt's tokens count too. Without
    `counts`, columns on executed operations are None.
    """
    layer_X, exit_mode, n_before = np.array([*exitable_layers, len(unit_costs.layer_L) - 1]), MODES.get(mode), 0
    if prompt is not None:
        n_prompt, n_before = 0, len(prompt.exit_layer_T)
        exit_layer_T = np.concatenate([prompt.exit_layer_T, exit_layer_T])
    full = required_ops(np.full_like(exit_layer_T, layer_X[-1]), layer_X, None, n_before)
    required = required_ops(exit_layer_T, layer_X, exit_mode, n_before)
    to_exit = replace(required, layers_T=exit_layer_T + 1, kv_layers_T=np.zeros_like(exit_layer_T))
    return {
        "macs_full": multiply_adds(unit_costs, full, n_prompt),
        "macs_to_exit": multiply_adds(unit_costs, to_exit, n_prompt),
        "macs_required": multiply_adds(unit_costs, required, n_prompt, exit_mode),
        "macs_executed": None if counts is None else multiply_adds(unit_costs, counts, n_prompt, exit_mode),
        "layers_run": None if counts is None else int(counts.layers_T.sum()),
        **{name: None if counts is None else int(counts.reads_TX(name).sum()) for name in READS},
        "kv_writes": None if counts is None else int(counts.kv_layers_T.sum()),
    }


@dataclass(frozen=True)
class DraftRounds:
    """Draft rounds of a request; each runs the last token, and yields accepted drafts and one full-depth token."""

    input_index_R: np.ndarray  # of the last token among the generated ones
    drafted_R: np.ndarray
    accepted_R: np.ndarray
    rejected_R: np.ndarray  # 1 if full depth's next token differed from a draft, else 0

    @property
    def length_R(self) -> np.ndarray:
        """Number of tokens that each round ran through the layers."""
        return self.drafted_R + 1

    def emitted_R(self, n_decided: int) -> np.ndarray:
        """Return how many of the request's decided tokens each round yielded."""
        return np.diff(self.input_index_R, append=n_decided)

    def counts(self, layer: int, layer_X: np.ndarray) -> OpCounts:
        """Return the operation counts of all rounds, rejected drafts included, if `layer` drafts.

        All tokens run through all layers. The lm_head reads each at the final layer, and all but a round's last at
        `layer`. `layer_X` has the exitable layers and the final one.
        """
        first_T = np.repeat(np.cumsum(self.length_R) - self.length_R, self.length_R)
        index_T = np.arange(len(first_T)) - first_T  # in the round
        counts = required_ops(np.full_like(index_T, layer_X[-1]), layer_X, None)
        is_draft_T = index_T < np.repeat(self.drafted_R, self.length_R)
        counts.reads_TXK[:, np.searchsorted(layer_X, layer), READS.index("head_reads")] = is_draft_T
        return replace(counts, input_index_T=np.repeat(self.input_index_R, self.length_R) + index_T)
