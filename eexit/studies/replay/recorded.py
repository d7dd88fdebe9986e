"""Replay: what exits would be worth on texts that are there already, for settings that were never run.

A replay is teacher-forced: every token is decided given a text that was written under another setting. What a setting's
own tokens would have led to is not in it. Where an exit leaves the state alone, everything follows from the full-depth
pass, so that chances to exit need no draws: what is computed are expectations.

Shapes: N decided tokens of a text, E exitable layers, X = E + 1 with the final layer last, T texts, P prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.costs.counting import Prices, cost_columns
from eexit.method.divergence import Divergence
from eexit.method.draws import exit_draws
from eexit.method.rules import ONLINE, ORACLES, RULES, chances_in_set
from eexit.method.states import STATES, alters
from eexit.method.stick_breaking import choose_exits, exit_probabilities, expect
from eexit.plan.configuration import Exit, gives_its_exits
from eexit.quality.estimates import ValueKind, estimate_columns, means_of_groups
from eexit.training.texts import Text

ESTIMATED: Final = (
    "mean_depth",
    "expected_kl",
    "expected_disagreement",
)  # columns of `study_tables.REPLAYS` with intervals


@dataclass(frozen=True, eq=False)
class Transcript:
    """What a run wrote, and what the full-depth model says of its decided tokens; None if not all was recorded."""

    text: Text
    seed: int
    teacher: Divergence | None


@dataclass(frozen=True)
class Replayed:
    """A text under a setting: means over its decided tokens, and multiply-adds of all of them, NaN if not known.

    `drawn` says whether what is read depends on draws.
    """

    share_X: np.ndarray
    expected_kl: float
    expected_disagreement: float
    cost_full: float = np.nan
    cost_needed: float = np.nan
    drawn: bool = False


def follows_from_full_depth(setting: Exit, is_adapted: bool) -> bool:
    """Whether what is read at exits is in the full-depth pass: they alter nothing, and no adapter does either."""
    return not is_adapted and not alters(STATES[setting.state])


def together(settings: Sequence[Exit], is_adapted: bool) -> list[list[Exit]]:
    """The settings in groups that one pass over a text serves: of a rule, if all of them see the same evidence."""

    def group(setting: Exit) -> tuple[str, ...]:
        probes = setting.rule in ONLINE and ONLINE[setting.rule].probes
        is_own = not follows_from_full_depth(setting, is_adapted) or probes
        return (setting.key,) if is_own else (setting.state, setting.rule)

    return [list(same) for _, same in groupby(settings, group)]


def replay_recorded(settings: Sequence[Exit], transcript: Transcript, exitable_layers: Sequence[int]) -> list[Replayed]:
    """A text under settings of an oracle that follow from the full-depth pass, of which all was recorded."""
    teacher = transcript.teacher
    assert teacher is not None
    evidence_NE = ORACLES[settings[0].rule].evidence(teacher)
    return replay_at_full_depth(settings, transcript, teacher, evidence_NE, exitable_layers, None)


def replay_at_full_depth(
    settings: Sequence[Exit], transcript: Transcript, teacher: Divergence, evidence_NE: Tensor | None,
    exitable_layers: Sequence[int], prices: Prices | None,
) -> list[Replayed]:  # fmt: skip
    """A text under settings that follow from the full-depth pass and see this evidence, None if they look at nothing.

    Costs are those of exits drawn with the run's seed, since layers that are deferred depend on all exits of a text.
    """
    agrees_NE = teacher.likeliest_BX[:, :-1] == teacher.likeliest_BX[:, -1:]
    prompt = list(transcript.text.prompt_token_ids)
    u_N = torch.from_numpy(exit_draws(transcript.seed, prompt, len(transcript.text.token_ids))[1:])
    replayed = []
    for setting in settings:
        setting_E = torch.tensor(setting.per_layer(exitable_layers), dtype=torch.float32)
        chances = chances_in_set(RULES[setting.rule], evidence_NE, setting_E.expand(len(agrees_NE), -1))
        expected = expect(exit_probabilities(chances), teacher.kl_BE, agrees_NE)
        costs = costs_of(setting, choose_exits(chances, u_N).numpy(), len(prompt), exitable_layers, prices)
        replayed.append(Replayed(expected.share_X.numpy(), expected.kl, 1 - expected.agreement, *costs))
    return replayed


def costs_of(
    setting: Exit, exit_N: np.ndarray, n_prompt: int, exitable_layers: Sequence[int], prices: Prices | None
) -> tuple[float, float]:
    """`cost_full` and `cost_needed` of exits, indices into X; NaN without prices."""
    if prices is None:
        return np.nan, np.nan
    exit_layer_N = np.array([*exitable_layers, len(prices.layer_L) - 1])[exit_N]
    costs: dict[str, Any] = dict(cost_columns(prices, None, exit_layer_N, exitable_layers, setting.mode, n_prompt))
    return costs["cost_full"], costs["cost_needed"]


def summary(
    setting: Exit, replayed_T: Sequence[Replayed], unit_T: Sequence[str], exitable_layers: Sequence[int], n_layers: int
) -> dict[str, Any]:
    """What came of a setting, as columns of `REPLAYS`: means over prompts or groups of them, seeds averaged first;
    `unit_T` says which text is of which."""
    layers = [*exitable_layers, n_layers - 1]
    depth_X = (np.array(layers) + 1) / n_layers
    share_TX = np.stack([replayed.share_X for replayed in replayed_T])
    figures_T4 = [
        (replayed.expected_kl, replayed.expected_disagreement, replayed.cost_full, replayed.cost_needed)
        for replayed in replayed_T
    ]
    values_TC = np.column_stack([share_TX, share_TX @ depth_X, figures_T4])
    values_PC = means_of_groups(values_TC, unit_T)
    share_PX, estimated_P3, cost_P2 = np.split(values_PC, [len(layers), len(layers) + len(ESTIMATED)], axis=1)
    numbers = dict(zip(("cost_full", "cost_needed"), cost_P2.sum(0), strict=True))
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
    }
