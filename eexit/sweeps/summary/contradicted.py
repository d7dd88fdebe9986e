"""Early exits that the final layer contradicts, for each online rule, on the text of `normal`.

If the input of a rule was recorded for the tokens of `normal`, its exits follow for all decided tokens of these texts.
For other rules, only exits that a run made while its text equalled that of `normal` are known.

Shapes: D decided tokens, X exitable layers and the final one, K top tokens, R runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from eexit.method.rules import DISTRIBUTION, ONLINE, LayerView
from eexit.output.text import bracketed, percent
from eexit.plan.configuration import Configuration, EarlyExit
from eexit.quality.estimates import Estimate, ValueKind
from eexit.results.committed import top_predictions
from eexit.results.configuration_means import Column, estimate_ratio, name_above

OF_CONTRADICTED: Final = ("contradicted_on_normal", "exits_on_normal")  # columns of runs, whose ratio is the share
MOSTLY: Final = 0.5  # share of early exits; above it, a rule mostly exits where the final layer predicts another token


@dataclass(frozen=True)
class Contradicted:
    """Share of early exits that the final layer contradicts, with its interval over prompts."""

    share: Estimate
    n_exits: int

    @classmethod
    def of_runs(
        cls, contradicted_R: np.ndarray, exits_R: np.ndarray, prompt_R: Column, unit_R: Column
    ) -> "Contradicted":
        """Return Σ contradicted / Σ exits over sampling units; NaN marks runs with unknown exits."""
        share = estimate_ratio(contradicted_R, exits_R, prompt_R, unit_R, ValueKind.SHARE)
        return cls(share, int(np.nansum(exits_R)))


def on_normal(
    tokens: Iterable[pa.RecordBatch],
    prompt_of_run: Mapping[str, str],
    unit_of: Mapping[str, str],
    layers: Sequence[int],
    configurations: Sequence[Configuration],
) -> dict[str, Contradicted]:
    """Return key → share of contradicted exits on the texts of `normal`, for rules whose input was recorded.

    `tokens` have `run_id` and `OF_TOP_PREDICTIONS`; tokens of runs in `prompt_of_run` count. A prompt that `unit_of`
    lacks is a sampling unit. `layers` end with the final one.
    """
    known = [each for each in configurations if isinstance(each, EarlyExit) and _reads_distribution(each)]
    counts = {each.key: np.zeros((len(prompt_of_run), 2)) for each in known}
    for run_D, p_DXK, top_token_DX in top_predictions(tokens, [*prompt_of_run]) if known else ():
        for each in known:
            exits_DX = _first_met(each, p_DXK, layers)
            if exits_DX is not None:
                is_wrong_DX = exits_DX & (top_token_DX[:, :-1] != top_token_DX[:, -1:])
                np.add.at(counts[each.key], run_D, np.stack([is_wrong_DX.any(1), exits_DX.any(1)], axis=1))
    prompt_R = [*prompt_of_run.values()]
    unit_R = [unit_of.get(prompt_id, prompt_id) for prompt_id in prompt_R]
    return {
        key: Contradicted.of_runs(count_R2[:, 0], count_R2[:, 1], prompt_R, unit_R)
        for key, count_R2 in counts.items()
        if count_R2.any()
    }


def _reads_distribution(configuration: EarlyExit) -> bool:
    """Return True if exits follow from a layer's distribution alone: a built-in rule with a threshold, and no gate."""
    rule = ONLINE.get(configuration.rule)
    its_own = rule is not None and rule.needs == (DISTRIBUTION,) and rule.source is None and not rule.returns_chance
    return its_own and not configuration.gate and isinstance(configuration.parameter, float)


def _first_met(configuration: EarlyExit, p_DXK: np.ndarray, layers: Sequence[int]) -> np.ndarray | None:
    """Return True where a token first meets the rule's condition, (D, X − 1); None if top tokens don't tell."""
    rule, threshold = ONLINE[configuration.rule], configuration.parameter
    assert isinstance(threshold, float)
    met_DX = np.zeros((len(p_DXK), len(layers) - 1), dtype=bool)
    for rank in configuration.ranks(layers[:-1]):
        top_p: Any = p_DXK[:, rank, :2]  # in place of a tensor
        try:
            seen_D: Any = rule.function(LayerView(layers[rank], top2_prob=top_p))
        except (AttributeError, IndexError):  # another attribute, or more tokens than were recorded
            return None
        met_DX[:, rank] = seen_D <= threshold if rule.at_most else seen_D >= threshold
    first_DX: np.ndarray = met_DX & (np.arange(met_DX.shape[1]) == met_DX.argmax(1)[:, None])
    return first_DX


def contradicted_rules(found: Mapping[Configuration, Contradicted]) -> str:
    """Return a warning that names the settings of online rules whose early exits are mostly contradicted, or "".

    The highest shares come first, at most `MOST_NAMED`, each with its interval and its number of exits.
    """
    online = {of.key: each for of, each in found.items() if isinstance(of, EarlyExit) and of.is_online}
    labels = {
        key: f"{percent(each.share.mean)}{bracketed(100 * each.share.low, 100 * each.share.high, '.1f')} of "
        f"{each.n_exits:,} exits"
        for key, each in online.items()
    }
    named = name_above({key: each.share.mean for key, each in online.items()}, MOSTLY, labels)
    return named and f"Careful: while the text is normal's, the final layer contradicts most early exits of {named}."
