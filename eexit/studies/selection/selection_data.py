"""Losses and costs of a finished sweep's settings, from which one is selected, and the order of testing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eexit.errors import UsageError
from eexit.output.text import short_percent
from eexit.plan.configuration import NORMAL, configuration_of, depends_on_seed
from eexit.plan.runs import OK
from eexit.quality.cost_per_correct import COLUMNS as OF_RIGHT
from eexit.quality.cost_per_correct import CostPerCorrect, per_right
from eexit.quality.learn_then_test import PARETO, alpha_share, pareto_sequence
from eexit.quality.risk_tests import BETTING, EXACT
from eexit.quality.risks import (
    BEST_SCORE,
    CHANGED,
    RISKS,
    SCORE,
    WORST_SCORE,
    WRONG,
    LossMatrix,
    Risk,
    answers_tell,
    losses,
)
from eexit.quality.rubric import ASPECTS
from eexit.results.configuration_means import RUN_OF_ALL_SEEDS, cut_shares, estimate_ratio, numbers_of
from eexit.results.finished_sweep import FinishedSweep, read_finished
from eexit.results.parquet_files import once_each
from eexit.results.study_tables import JUDGEMENTS
from eexit.studies.selection.selection_args import COSTS, AlphaShare, CostMeasure, SelectionArgs, candidates, refuse_few


@dataclass(frozen=True)
class SettingSequence:
    """Keys of settings in the order of testing, which ends at the first one that is not certified."""

    name: str
    settings: Sequence[str]
    n_pilot: int = 0  # prompts that gave the order


class SelectionData:
    """Losses and costs of the candidate settings by split; each is read only when it is needed.

    Raises `UsageError` for data from which nothing can be selected.
    """

    def __init__(self, sweep: FinishedSweep, question: SelectionArgs) -> None:
        self.sweep, self.question, self.risk = sweep, question, RISKS[question.risk]
        self.families, self.left_out = candidates(sweep.manifest, question, sweep.name)
        comparing = [f"risk {question.risk}"] * self.risk.compares
        comparing += [f"--cost {question.cost}"] * COSTS[question.cost].of_normal
        if comparing and NORMAL not in [each["mode"] for each in sweep.manifest.configurations]:
            raise UsageError(
                f"{self.sweep.name} has no runs of {NORMAL}, which {comparing[0]} compares with: sweep with --modes "
                f"{NORMAL} too"
            )
        if self.risk.observed and sweep.manifest.config["record_full_depth"] == "none":
            raise UsageError(
                f"{self.sweep.name} was swept with --record-full-depth none, and risk {question.risk} needs full "
                f"depth's predictions on its texts: sweep with --record-full-depth final, or choose another --risk"
            )
        self._judged = _judgements(sweep) if self.risk.column == SCORE else {}
        self._runs = self._runs_with_risk()
        self._told: dict[str, LossMatrix] = {}
        if not self._any_known():
            raise UsageError(f"{self.sweep.name} has {self.risk.lacking}, or choose another --risk")

    def units_of(self, part: str) -> Sequence[str]:
        """Return the sampling units of a split (`SelectionArgs.part_of`)."""
        return [unit for unit in self.all_units if self.question.part_of(unit) == part]

    @cached_property
    def all_units(self) -> Sequence[str]:
        found: list[str] = pc.unique(self._runs["unit"]).to_pylist()
        return found

    @cached_property
    def keys(self) -> Sequence[str]:
        return [key for family in self.families for key in family.settings]

    @cached_property
    def choosing(self) -> LossMatrix:
        return self.losses("choosing")

    @cached_property
    def reporting(self) -> LossMatrix:
        """Losses of the test prompts, which select nothing."""
        return self.losses("reporting")

    @cached_property
    def costs(self) -> Mapping[str, float]:
        """Cost of each setting over the calibration prompts."""
        return self.costs_of("choosing")

    @cached_property
    def test(self) -> str:
        """Name of the test: exact if all losses are 0 or 1, none being a mean over seeds, prompts or judges."""
        is_alone = len(pc.unique(self._runs["prompt_id"])) == len(self.all_units)
        is_of_one_run = self.n_seeds == 1 or self.n_same_for_every_seed == len(self.keys)
        return EXACT if self.risk.is_whole and is_alone and is_of_one_run else BETTING

    @cached_property
    def n_seeds(self) -> int:
        return int(pc.count_distinct(self.sweep.runs["seed"]).as_py())

    @cached_property
    def _fixed(self) -> Sequence[str]:
        """Configurations whose runs are the same for every seed."""
        temperature = self.sweep.manifest.config["temperature"]
        each = {entry["configuration"]: configuration_of(entry) for entry in self.sweep.manifest.configurations}
        return [key for key, configuration in each.items() if not depends_on_seed(configuration, temperature)]

    @cached_property
    def n_same_for_every_seed(self) -> int:
        """Number of settings whose runs are the same for every seed."""
        return sum(key in self._fixed for key in self.keys)

    @cached_property
    def n_groups(self) -> tuple[int, int]:
        """Number of prompts that name a group, and number of these groups."""
        ids = pc.unique(self._runs["prompt_id"]).to_pylist()
        grouped = {prompt["id"] for prompt in self.sweep.manifest.config["prompts"] if prompt.get("group")}
        named = [self.sweep.unit_of[prompt_id] for prompt_id in ids if prompt_id in grouped]
        return len(named), len(set(named))

    @cached_property
    def failed(self) -> Sequence[str]:
        """Configurations of the failed runs, each a loss of 1.

        Settings are compared with the best possible run where `normal` failed.
        """
        runs: Sequence[str] = self._different.filter(pc.field("status") != OK)["configuration"].to_pylist()
        return runs

    @cached_property
    def n_unusable(self) -> int:
        """Number of texts without a usable judgement, for risk judge."""
        run_ids = self._different["run_id"].to_pylist()
        return sum(by_run.get(run_id, 0.0) is None for by_run in self._judged.values() for run_id in run_ids)

    @property
    def judges(self) -> Sequence[str]:
        """Names of the judges, for risk judge."""
        return tuple(dict.fromkeys(judge for judge, _ in self._judged))

    def losses(self, part: str) -> LossMatrix:
        """Return the losses of a split's prompts, or of all."""
        runs = self._of_part(part)
        found = losses(self.risk, _with_scores(runs, self._judged) if self.risk.column == SCORE else runs)
        outside = found.loss_PC[(found.loss_PC < 0) | (found.loss_PC > 1)]
        if len(outside):
            raise UsageError(
                f"{self.sweep.name} has a loss of {outside[0]:g}, and losses for risk {self.question.risk} are between "
                f"0 and 1: check its column {self.risk.column}"
            )
        return found

    def accuracy(self, key: str) -> float | None:
        """Return a configuration's share of right answers over the calibration prompts with a risk."""
        wrong = self._mean_of(WRONG, key)
        return None if wrong is None else 1 - wrong

    def cut(self, key: str) -> float | None:
        """Return the share of a configuration's texts of calibration prompts that `max_new_tokens` ended."""
        share = cut_shares(self._of_part("choosing"), self.sweep.unit_of).get(key, math.nan)
        return None if math.isnan(share) else share

    def losses_of_right(self, key: str) -> np.ndarray:
        """Return a configuration's losses over the calibration prompts that `normal` gets right, (P,), as shares of
        right runs.

        Empty for other risks than lost answers. A failed run of `normal` counts as right, as in losses.
        """
        if self.risk is not RISKS["answers"]:
            return np.array([])
        loss_P = self.choosing.loss_PC[:, self.choosing.configurations.index(key)]
        wrong = self._told_of(WRONG)
        right_P = np.fmax(1 - wrong.loss_PC[:, wrong.configurations.index(NORMAL)], loss_P)
        is_asked_P = (right_P > 0) & ~np.isnan(loss_P)
        shares: np.ndarray = loss_P[is_asked_P] / right_P[is_asked_P]
        return shares

    def changed(self, key: str) -> float | None:
        """Return a configuration's share of texts unlike `normal`'s, over the calibration prompts."""
        return self._mean_of(CHANGED, key)

    def per_right(self, key: str) -> Mapping[str, CostPerCorrect]:
        """Return a configuration's costs of a right answer, over the calibration prompts; empty without thinking."""
        runs = self._of_part("choosing")
        unit_of = dict(zip(runs["prompt_id"].to_pylist(), runs["unit"].to_pylist(), strict=True))
        return per_right(runs.select(OF_RIGHT), unit_of).get(key, {})

    def _mean_of(self, what: Risk, key: str) -> float | None:
        of_prompts = self._told_of(what).losses_of(key)
        return float(of_prompts.mean()) if len(of_prompts) else None

    def _told_of(self, what: Risk) -> LossMatrix:
        if what.column not in self._told:
            self._told[what.column] = losses(what, self._of_part("choosing"))
        return self._told[what.column]

    def costs_of(self, part: str) -> Mapping[str, float]:
        """Return the cost of each setting over a split's sampling units, or over all; infinite if unknown."""
        cost = COSTS[self.question.cost]
        runs = self._of_part(part, self.sweep.runs_of_units)
        costs = {
            key: each
            for key in pc.unique(runs["configuration"]).to_pylist()
            if not math.isnan(each := _cost(cost, runs, key))
        }
        if cost.of_normal:
            costs = {key: each / costs[NORMAL] for key, each in costs.items()} if NORMAL in costs else {}
        if not any(key in costs for key in self.keys):
            columns = " and ".join(cost.columns if cost.of_normal else [cost.column])
            raise UsageError(f"{self.sweep.name} has no {columns} in any run of a setting: choose another --cost")
        return {key: costs.get(key, math.inf) for key in self.keys}

    @cached_property
    def _different(self) -> pa.Table:
        """Runs, without repeats for further seeds where all seeds give the same run."""
        is_fixed = pc.is_in(self.sweep.runs["configuration"], pa.array(self._fixed, pa.string()))
        fixed, others = self.sweep.runs.filter(is_fixed), self.sweep.runs.filter(pc.invert(is_fixed))
        return pa.concat_tables([once_each(fixed, RUN_OF_ALL_SEEDS), others])

    def _runs_with_risk(self) -> pa.Table:
        """Return the runs of prompts for which the risk is defined: for risk `answers`, prompts with an answer."""
        runs = self.sweep.runs_of_units
        if self.risk is not RISKS["answers"]:
            return runs
        with_answer = {
            prompt["id"]
            for prompt in self.sweep.manifest.config["prompts"]
            if prompt.get("answer") or prompt.get("answer_pattern")
        }
        marked = pc.unique(runs.filter(pc.is_valid(runs[self.risk.column]))["prompt_id"]).to_pylist()
        return runs.filter(pc.is_in(runs["prompt_id"], pa.array(sorted({*with_answer, *marked}), pa.string())))

    def _of_part(self, part: str, runs: pa.Table | None = None) -> pa.Table:
        runs = self._runs if runs is None else runs
        if part == "all":
            return runs
        wanted = [unit for unit in pc.unique(runs["unit"]).to_pylist() if self.question.part_of(unit) == part]
        return runs.filter(pc.is_in(runs["unit"], pa.array(wanted, pa.string())))

    def _any_known(self) -> bool:
        """Return True if any prompt has a loss in any setting."""
        if self.risk.column == SCORE:
            return bool(self._judged)
        of_settings = self._runs.filter(pc.is_in(self._runs["configuration"], pa.array(self.keys, pa.string())))
        known = pc.or_(pc.is_valid(of_settings[self.risk.column]), pc.not_equal(of_settings["status"], OK))
        return bool(pc.any(known).as_py())


def _cost(cost: CostMeasure, runs: pa.Table, key: str) -> float:
    """Return a configuration's cost over sampling units: a ratio of sums, or a mean; NaN if unknown."""
    of_key = runs.filter(pc.field("configuration") == key)
    above_R, *below = numbers_of(of_key, cost.columns).values()
    ids = (of_key[name].to_pylist() for name in ("prompt_id", "unit"))
    return estimate_ratio(above_R, below[0] if below else np.ones_like(above_R), *ids).mean


class VacuousBoundError(UsageError):
    """Error for a bound that permits the loss of half of all right answers."""


def refuse_empty(measured: SelectionData) -> None:
    """Raise `VacuousBoundError` if `normal` gets too few answers right for a bound on lost answers."""
    question, right = measured.question, measured.accuracy(NORMAL)
    if measured.risk is not RISKS["answers"] or right is None or answers_tell(right, question.max_risk):
        return
    lower = f", or an --max-risk below {short_percent(right / 2)}" if right else ""
    raise VacuousBoundError(
        f"normal gets {short_percent(right)} of the answers of {measured.sweep.name} right, so that a setting that "
        f"loses half of these, or all, could be certified to lose at most {short_percent(question.max_risk)}: bound "
        f"another --risk, such as disagreement{lower}"
    )


def sequences_of(measured: SelectionData) -> Sequence[SettingSequence]:
    """Return the sequences of settings to test; for `pareto`, the pilot's losses and costs alone give the order.

    Raises `UsageError` for too few prompts, and for a pilot that shares prompts with the selection.
    """
    question = measured.question
    n_sequences = 1 if question.order == PARETO else len(measured.families)
    first = AlphaShare(1, 1, alpha_share(question.confidence))  # a further one takes more
    refuse_few(len(measured.units_of("choosing")), n_sequences, question, measured.sweep.name, first)
    if question.order != PARETO:
        return [SettingSequence(family.name, family.settings) for family in measured.families]
    pilot, part = measured, "pilot"
    if not question.pilot and not measured.units_of("pilot"):
        raise UsageError(
            f"{measured.sweep.name} has no prompts for a pilot, which gives the order of testing: name a finished "
            "sweep of other prompts with --pilot RESULTS, or use --order passed-on, which needs none"
        )
    if question.pilot:
        sweep = read_finished(question.pilot, question.columns, "--pilot")
        pilot, part = SelectionData(sweep, question), "all"
        if shared := set(pilot.all_units) & set(measured.all_units):
            raise UsageError(
                f"--pilot {sweep.name} shares {len(shared)} prompts with {measured.sweep.name}, such as "
                f"{min(shared)[:40]!r}: whatever orders the settings must not choose among them"
            )
    found, costs = pilot.losses(part), pilot.costs_of(part)
    risks = np.array([np.mean(loss) if len(loss := found.losses_of(key)) else np.nan for key in measured.keys])
    order = pareto_sequence(risks, np.array([costs.get(key, math.inf) for key in measured.keys]))
    if not order:
        raise UsageError(
            f"the pilot of {pilot.sweep.name} has no loss of any setting: give more prompts, another "
            "--pilot, or --order passed-on, which needs none"
        )
    return [SettingSequence(PARETO, [measured.keys[at] for at in order], len(found.units))]


def _judgements(sweep: FinishedSweep) -> dict[tuple[str, str], dict[str, float | None]]:
    """Return the score of each judged run by judge and rubric; None without a usable one."""
    judged: dict[tuple[str, str], dict[str, float | None]] = {}
    for row in JUDGEMENTS.rows(sweep.store):
        score = fmean(row[aspect] for aspect in ASPECTS) if row["status"] == OK else None
        judged.setdefault((row["judge"], row["rubric"]), {})[row["run_id"]] = score
    return judged


def _with_scores(runs: pa.Table, judged: Mapping[tuple[str, str], Mapping[str, float | None]]) -> pa.Table:
    """Return the runs once for each judge and rubric, with the score; `draw` gets both, so that neither is mixed.

    A text without a usable judgement gets the worst score or, under `normal`, the best.
    """
    names = list(zip(runs["run_id"].to_pylist(), runs["configuration"].to_pylist(), strict=True))
    tables = [runs.append_column(SCORE, pa.nulls(runs.num_rows, pa.float64()))] * (not judged)
    for judge, by_run in judged.items():
        assumed = {run_id: BEST_SCORE if key == NORMAL else WORST_SCORE for run_id, key in names if run_id in by_run}
        known = assumed | {run_id: score for run_id, score in by_run.items() if score is not None}
        draws = pc.binary_join_element_wise(runs["draw"], *judge, " ")
        of_judge = runs.set_column(runs.schema.get_field_index("draw"), "draw", draws)
        tables.append(of_judge.append_column(SCORE, pa.array([known.get(run_id) for run_id, _ in names], pa.float64())))
    return pa.concat_tables(tables)
