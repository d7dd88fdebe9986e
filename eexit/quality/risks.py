"""Definitions of losses by which settings are selected, and the loss of each prompt in [0, 1].

A risk compares a number of a run with that of the `normal` run of the same prompt and seed. Losses are averaged over a
prompt's seeds first, so that each prompt counts once. Prompts of the same text or group count once too
(`eexit.plan.splits.sampling_units`). If groups differ in size, their mean loss differs from the mean over prompts, and
a bound on one does not hold for the other.

A guarantee over all prompts can't leave out failures, since prompts may fail for the same reason that they are lost. So
a failed run is a loss of 1, whatever `normal` did. If the `normal` run failed, the setting is compared with the best
possible result, so that no loss is smaller than the true one. For the same reason, a setting's text without a usable
judgement has the worst score, and that of `normal` the best.

Shapes: I prompts by id, P groups, C configurations, D draws (seeds; for a judge's scores, seeds × judges).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from eexit.output.text import short_percent
from eexit.plan.configuration import NORMAL
from eexit.plan.runs import OK
from eexit.plan.splits import shuffled
from eexit.quality.estimates import means_of_groups
from eexit.quality.rubric import SCALE

if TYPE_CHECKING:
    import pyarrow as pa

SCORE: Final = "score"  # mean of a judge's scores, 1 to 5 each
WORST_SCORE, BEST_SCORE = float(SCALE[0]), float(SCALE[-1])


@dataclass(frozen=True)
class Risk:
    """Expected loss over prompts. `loss` maps numbers of a run and of its `normal` run, NaN if unknown, to losses."""

    column: str  # column of the number
    definition: str  # loss of a prompt, in words
    bound: str  # quantity that "is at most …" in the guarantee
    lacking: str  # message if a sweep lacks its input, with the way out
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray]
    best: float | None  # best possible number of a failed run of normal; None: no comparison with normal
    is_whole: bool = False  # True if the loss of a run is 0 or 1
    observed: bool = False  # True if a full-depth pass on given texts computes it

    @property
    def compares(self) -> bool:
        """True if a loss needs the prompt's `normal` run."""
        return self.best is not None


@dataclass(frozen=True)
class LossMatrix:
    """Losses of each group and configuration, (P, C), NaN if unknown; the order of groups carries no information."""

    units: tuple[str, ...]
    configurations: tuple[str, ...]
    loss_PC: np.ndarray
    n_prompts_PC: np.ndarray  # prompts of the group that have a loss

    def losses_of(self, configuration: str) -> np.ndarray:
        """Return the losses of one configuration over the groups that have one."""
        if configuration not in self.configurations:
            return np.array([])
        loss_P = self.loss_PC[:, self.configurations.index(configuration)]
        known: np.ndarray = loss_P[~np.isnan(loss_P)]
        return known

    def over_prompts(self, configuration: str) -> tuple[float, int] | None:
        """Return the mean loss over prompts and their number, or None if all groups have equally many prompts."""
        at = self.configurations.index(configuration)
        is_known_P = self.n_prompts_PC[:, at] > 0
        n_prompts_P, loss_P = self.n_prompts_PC[is_known_P, at], self.loss_PC[is_known_P, at]
        if len(np.unique(n_prompts_P)) < 2:
            return None
        return float(np.average(loss_P, weights=n_prompts_P)), int(n_prompts_P.sum())


def _lost_answers(number: np.ndarray, normal: np.ndarray) -> np.ndarray:
    lost: np.ndarray = np.where(np.isnan(number) | np.isnan(normal), np.nan, (normal == 1) & (number == 0))
    return lost


RISKS: Final[dict[str, Risk]] = {
    "disagreement": Risk(
        "disagreement",
        "the share of a text's decided tokens that differ from full depth's, given the same text",
        "the mean share of tokens unlike full depth's",
        "no run that decided a token: raise --max-new-tokens",
        lambda number, normal: number,
        best=None,
        observed=True,
    ),
    "answers": Risk(
        "correct",
        "1 where full depth answers correctly and the setting does not, else 0, over all prompts that have an answer",
        "the share of prompts whose answer full depth gets right and the setting gets wrong",
        "no answers to check: sweep prompts that have an answer, as a column of --prompts",
        _lost_answers,
        best=1.0,
        is_whole=True,
    ),
    "perplexity": Risk(
        "perplexity",
        "1 − the perplexity of full depth's text / that of the setting's text, both under the full-depth model, or 0 "
        "where that is below 0; 0.05 is a perplexity that is 5.3 % higher",
        "the mean relative loss in perplexity (1 − full depth's / the setting's)",
        "no perplexity of any run beside that of normal: sweep it again",
        lambda number, normal: np.maximum(0.0, 1 - normal / number),
        best=1.0,
        observed=True,
    ),
    "judge": Risk(
        SCORE,
        "by how much the judge's score, the mean of coherence, completeness, clarity and no repetition (1 to 5 each), "
        "is lower than that of full depth's text, over 4, or 0 where it is not lower",
        "the mean drop in the judge's score, as a share of its range of 4,",
        "no judgements of settings and of normal: eexit judge scores texts",
        lambda number, normal: np.maximum(0.0, normal - number) / 4,
        best=BEST_SCORE,
    ),
}

# Further metrics of a setting's texts, without a bound. A failed run is wrong, and its text differs.
WRONG: Final = Risk("correct", "1 where the answer is wrong", "", "", lambda number, normal: 1 - number, best=None)
CHANGED: Final = Risk(
    "lcs_share", "1 where the text is not that of normal", "", "",
    lambda number, normal: np.where(np.isnan(number), np.nan, number < 1), best=None,
)  # fmt: skip


def answers_tell(accuracy: float, at_most: float) -> bool:
    """Return True if the bound is informative: losing half of `normal`'s correct answers would break it."""
    return accuracy / 2 > at_most


def losses(risk: Risk, runs: "pa.Table") -> LossMatrix:
    """Return the losses of all groups and configurations in `runs`, which have one row per run and draw.

    Columns: prompt_id, unit, configuration, draw, status, and the risk's own, which is null if unknown.
    """
    of_id, ids = _codes(runs["prompt_id"])
    of_configuration, configurations = _codes(runs["configuration"])
    of_draw, draws = _codes(runs["draw"])
    number_ICD = np.full((len(ids), len(configurations), len(draws)), np.nan)
    number_ICD[of_id, of_configuration, of_draw] = runs[risk.column].cast("float64").to_numpy()
    failed_ICD = np.zeros(number_ICD.shape, dtype=bool)
    failed_ICD[of_id, of_configuration, of_draw] = np.array(runs["status"].to_pylist()) != OK
    normal_I1D = np.full((len(ids), 1, len(draws)), np.nan)
    if risk.best is not None and NORMAL in configurations:
        at_normal = [configurations.index(NORMAL)]
        normal_I1D = np.where(failed_ICD[:, at_normal], risk.best, number_ICD[:, at_normal])
    loss_ICD = np.where(failed_ICD, 1.0, risk.loss(number_ICD, normal_I1D))
    loss_IC = np.ma.masked_where(np.isnan(loss_ICD), loss_ICD).mean(axis=2).filled(np.nan)
    of_unit, units = _codes(runs["unit"])
    unit_I = np.empty(len(ids), dtype=int)
    unit_I[of_id] = of_unit
    n_prompts_PC = np.zeros((len(units), len(configurations)), dtype=int)
    np.add.at(n_prompts_PC, unit_I, ~np.isnan(loss_IC))
    order, loss_PC = shuffled(units), means_of_groups(loss_IC, unit_I)
    return LossMatrix(tuple(units[at] for at in order), tuple(configurations), loss_PC[order], n_prompts_PC[order])


def bound_of(risk: str, at_most: float, of_groups: bool = False) -> str:
    """Return the bounded quantity and its bound in words; `of_groups`: the mean counts each group of prompts once."""
    averaged = ", averaged over groups of prompts that count once each," if of_groups else ""
    return f"{RISKS[risk].bound if risk in RISKS else risk}{averaged} is at most {short_percent(at_most)}"


def numbers(column: str, runs: "pa.Table") -> LossMatrix:
    """Return a column by group and configuration, in the order of `losses`, with 1 for failed runs as in a loss."""
    return losses(Risk(column, "", "", "", lambda number, normal: number, best=None), runs)


def with_units(runs: "pa.Table", unit_of: Mapping[str, str]) -> "pa.Table":
    """Return the runs with columns `unit`, the sampling unit, and `draw`, the seed over which losses are averaged."""
    units = [unit_of[prompt_id] for prompt_id in runs["prompt_id"].to_pylist()]
    return runs.append_column("unit", [units]).append_column("draw", runs["seed"])


def _codes(column: "pa.ChunkedArray") -> tuple[np.ndarray, list[str]]:
    """Return the column as indices from 0, and their values."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices), encoded.dictionary.to_pylist()
