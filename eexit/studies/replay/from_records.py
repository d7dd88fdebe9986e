"""Replay from recorded data: exits of other configurations on given texts.

A replay is teacher-forced: every token is decided given a text of another configuration. It does not include the effect
of the configuration's own tokens. Where a mode keeps the full-depth KV cache, everything follows from the full-depth
pass. Results are then expectations over exit probabilities, without draws.

Shapes: N decided tokens of a text, T texts, P groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from eexit.costs.operations import UnitCosts, cost_columns, run_counts
from eexit.method.divergence import Divergence
from eexit.method.modes import MODES
from eexit.method.rules import ORACLES, RULES, LayerView
from eexit.method.stick_breaking import choose_exits, exit_probabilities, expected_exits, uniform_draws
from eexit.plan.configuration import Draft, EarlyExit, gives_its_exits
from eexit.plan.runs import OK
from eexit.plan.splits import unit_digest
from eexit.quality.estimates import ValueKind, estimate_columns, means_of_units
from eexit.results.committed import nested_array, runs_with_tokens
from eexit.results.parquet_files import StoreLocation
from eexit.results.study_tables import OF_UNITS
from eexit.training.texts import TrainingText, text_from_run

ESTIMATED: Final = ("mean_depth", "expected_kl", "expected_disagreement")  # columns of `REPLAYS` with intervals


@dataclass(frozen=True, eq=False)
class Transcript:
    """Text of a run, and its decided tokens' divergence in the full-depth pass (None if not recorded)."""

    text: TrainingText
    seed: int
    full_depth: Divergence | None


class TextCosts(NamedTuple):
    """Multiply-adds of a text's decided tokens, named as the columns; NaN if unknown."""

    macs_full: float
    macs_to_exit: float
    macs_required: float
    macs_executed: float


UNPRICED: Final = TextCosts(*[np.nan] * len(TextCosts._fields))


@dataclass(frozen=True)
class CostModel:
    """Exitable layers and unit costs of a model. `by_screen` is True if rules read layers through a screen."""

    layers: Sequence[int]
    unit_costs: UnitCosts
    by_screen: bool


OF_RUNS: Final = ("run_id", "prompt_id", "seed", "configuration", "status", "prompt_token_ids", "n_tokens")
OF_TOKENS: Final = ("token_id", "kl", "jsd", "entropy", "top_token_ids", "top_prob")


def read_transcripts(location: StoreLocation, key: str, once: bool = False) -> list[Transcript]:
    """Return the transcripts of a configuration's runs that have decided tokens, in the order of prompt and seed.

    With `once`, return only the lowest seed of each prompt. Raise `DamagedError` for a damaged file, and `OSError`.
    """
    is_wanted = (pc.field("configuration") == key) & (pc.field("status") == OK) & (pc.field("n_tokens") > 1)
    found = {
        run["run_id"]: Transcript(text_from_run(run, tokens), run["seed"], _recorded_divergence(tokens.slice(1)))
        for run, tokens in runs_with_tokens(location, OF_RUNS, is_wanted, OF_TOKENS)
    }
    in_order = sorted(found.values(), key=lambda transcript: (transcript.text.prompt_id, transcript.seed))
    if not once:
        return in_order
    return [next(same) for _, same in groupby(in_order, lambda transcript: transcript.text.prompt_id)]


def _recorded_divergence(decided: pa.Table) -> Divergence | None:
    """Return the recorded divergence; None if top tokens were not recorded.

    NaN stands for the log-sum-exp, and for the JSD in results of earlier versions.
    """

    def column(name: str) -> Tensor:
        return torch.tensor(nested_array(decided[name].combine_chunks()))

    if decided["top_token_ids"].null_count:
        return None
    top_token_NXK, top_prob_NXK, kl_NE = map(column, ("top_token_ids", "top_prob", "kl"))
    has_jsd = "jsd" in decided.column_names and not decided["jsd"].null_count
    return Divergence(
        kl_BE=kl_NE,
        jsd_BE=column("jsd") if has_jsd else kl_NE * torch.nan,
        entropy_B=column("entropy"),
        final_lse_B=torch.full((len(decided),), torch.nan),
        top_token_BX=top_token_NXK[..., 0],
        likeliest_log_p_BX=top_prob_NXK[..., 0].log(),
        top_token_BXK=top_token_NXK,
        top_prob_BXK=top_prob_NXK,
    )


@dataclass(frozen=True)
class ReplayResult:
    """A text under a configuration: means over its decided tokens, and its total costs.

    `changed` is the probability that any token differs from full depth's. `drawn` is True if results depend on draws.
    """

    share_X: np.ndarray
    expected_kl: float
    expected_disagreement: float
    changed: float
    costs: TextCosts = UNPRICED
    drawn: bool = False


def follows_from_full_depth(setting: EarlyExit, is_adapted: bool) -> bool:
    """Return True if the full-depth pass has all that exits read: no altered KV cache, and no adapter."""
    return not is_adapted and not MODES[setting.mode].modifies_kv


def together(settings: Sequence[EarlyExit], is_adapted: bool) -> list[list[EarlyExit]]:
    """Group the configurations that one pass over a text serves: those with the same rule and mode.

    A configuration whose exits don't follow from the full-depth pass is a group of its own.
    """

    def group(setting: EarlyExit) -> tuple[str, ...]:
        return (setting.mode, setting.rule) if follows_from_full_depth(setting, is_adapted) else (setting.key,)

    groups: dict[tuple[str, ...], list[EarlyExit]] = {}
    for setting in settings:
        groups.setdefault(group(setting), []).append(setting)
    return list(groups.values())


def replay_recorded(settings: Sequence[EarlyExit], transcript: Transcript, layers: Sequence[int]) -> list[ReplayResult]:
    """Replay a text with oracles that follow from the recorded full-depth pass."""
    full_depth = transcript.full_depth
    assert full_depth is not None
    return [
        replay_at_full_depth(setting, transcript, scores_at_full_depth(setting, full_depth, layers), layers, None)
        for setting in settings
    ]


def scores_at_full_depth(setting: EarlyExit, full_depth: Divergence, layers: Sequence[int]) -> Tensor:
    """Return an oracle's exit scores on a text, (N, E)."""
    parameter_E = torch.tensor(setting.per_layer(layers), dtype=torch.float32)
    return ORACLES[setting.rule].exit_score(LayerView.at_final(full_depth, parameter_E.expand_as(full_depth.kl_BE)))


def replay_at_full_depth(
    setting: EarlyExit, transcript: Transcript, score_NE: Tensor | None, layers: Sequence[int],
    pricing: CostModel | None,
) -> ReplayResult:  # fmt: skip
    """Replay a text with a configuration that follows from the full-depth pass, given the exit scores, if any.

    Costs are those of exits drawn with the run's seed, since deferred layers depend on all exits of a text.
    """
    full_depth = transcript.full_depth
    assert full_depth is not None
    agrees_NE = full_depth.top_token_BX[:, :-1] == full_depth.top_token_BX[:, -1:]
    prompt = list(transcript.text.prompt_token_ids)
    u_N = torch.from_numpy(uniform_draws("exit", transcript.seed, prompt, len(transcript.text.token_ids))[1:])
    parameter_E = torch.tensor(setting.per_layer(layers), dtype=torch.float32)
    chances = RULES[setting.rule].chances_in_set(score_NE, parameter_E.expand(len(agrees_NE), -1))
    expected = expected_exits(exit_probabilities(chances), full_depth.kl_BE, agrees_NE)
    exit_N = choose_exits(chances, u_N).numpy()
    costs = costs_of(setting, exit_N, score_NE, len(prompt), pricing) if pricing else UNPRICED
    return ReplayResult(expected.share_X.numpy(), expected.kl, 1 - expected.agreement, 1 - expected.same, costs)


def costs_of(
    setting: EarlyExit, exit_N: np.ndarray, score_NE: Tensor | None, n_prompt: int, pricing: CostModel
) -> TextCosts:
    """Return the costs (by `pricing`) of a text whose tokens exit at `exit_N`, indices into X, by these scores.

    `macs_executed` minus `macs_required` is the cost of exit scores; an oracle has no `macs_executed`, since it saves
    nothing.
    """
    layers, unit_costs = pricing.layers, pricing.unit_costs
    layer_X = np.array([*layers, len(unit_costs.layer_L) - 1])
    exit_layer_N = layer_X[exit_N]
    seen_NE = None if score_NE is None else score_NE.numpy()
    ran = run_counts(setting, layer_X, exit_layer_N, seen_NE, has_screen=pricing.by_screen)
    costs: dict[str, Any] = dict(cost_columns(unit_costs, ran, exit_layer_N, layers, setting.mode, n_prompt))
    return TextCosts(*(np.nan if costs[name] is None else costs[name] for name in TextCosts._fields))


def summary(
    setting: EarlyExit | Draft, replayed_T: Sequence[ReplayResult], prompt_T: Sequence[str], unit_T: Sequence[str],
    exitable_layers: Sequence[int], n_layers: int,
) -> dict[str, Any]:  # fmt: skip
    """Return a configuration's means over prompts or groups, as columns of `REPLAYS`; seeds are averaged first.

    `prompt_T` has the prompt of each text, and `unit_T` its sampling unit: the prompt's group, or the prompt.
    """
    layers = [*exitable_layers, n_layers - 1]
    depth_X = (np.array(layers) + 1) / n_layers
    share_TX = np.stack([replayed.share_X for replayed in replayed_T])
    figures_TC = [
        (each.expected_kl, each.expected_disagreement, *each.costs, each.costs.macs_executed - each.costs.macs_required,
         each.changed)
        for each in replayed_T
    ]  # fmt: skip
    values_TC = np.column_stack([share_TX, share_TX @ depth_X, figures_TC])
    values_PC = means_of_units(values_TC, prompt_T, unit_T)
    ends = np.cumsum([len(layers), len(ESTIMATED), len(TextCosts._fields)])
    share_PX, estimated_P3, cost_PC, other_P2 = np.split(values_PC, ends, axis=1)
    numbers = dict(zip(TextCosts._fields, cost_PC.sum(0), strict=True))
    of_units = np.column_stack([cost_PC[:, :2], other_P2[:, 0], estimated_P3[:, 2], other_P2[:, 1]]).T
    kinds = [ValueKind.NUMBER if gives_its_exits(setting) else ValueKind.SHARE, ValueKind.NUMBER, ValueKind.SHARE]
    for name, estimate in zip(ESTIMATED, estimate_columns(estimated_P3, kinds), strict=True):
        numbers |= {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    known = {name: None if np.isnan(value) else float(value) for name, value in numbers.items()}
    share_X = share_PX.mean(0).tolist()
    return {
        "prompts": len(values_PC),
        "texts": len(replayed_T),
        "drawn": any(replayed.drawn for replayed in replayed_T),
        "exit_distribution": list(zip(layers, share_X, strict=True)),
        **known,
        "units": [unit_digest(unit) for unit in sorted(set(unit_T))],
        **{name: values_P.tolist() for name, values_P in zip(OF_UNITS, of_units, strict=True)},
    }
