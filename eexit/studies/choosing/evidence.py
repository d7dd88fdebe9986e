"""What a setting is chosen from: the families of a finished sweep, and the losses and costs of their settings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from eexit.messages.errors import UsageError
from eexit.messages.locations import shown
from eexit.messages.wording import some
from eexit.plan.configuration import NORMAL, configuration_of, depends_on_seed
from eexit.plan.runs import OK
from eexit.plan.splits import for_reporting
from eexit.quality.risks import BEST_SCORE, RISKS, SCORE, WORST_SCORE, Losses, Risk, losses
from eexit.quality.rubric import ASPECTS
from eexit.quality.sequences import Family, families, has_order
from eexit.results.layout import Manifest
from eexit.results.means import each_once
from eexit.results.store.finished_sweep import FinishedSweep, refuse_unknown
from eexit.results.study_tables import JUDGEMENTS
from eexit.studies.judging.judgements import is_scored

_IDENTITY: Final = ["run_id", "prompt_id", "prompt", "configuration", "seed", "status"]


@dataclass(frozen=True)
class Cost:
    """A cost that settings are compared by: the sum of one column over runs, as a fraction of that of another."""

    definition: str
    column: str
    of: str | None = None  # None: the mean of the column

    @property
    def columns(self) -> list[str]:
        return [self.column, *([self.of] if self.of else [])]


COSTS: Final[dict[str, Cost]] = {
    "run": Cost("multiply-adds of what was run, as a share of those of full depth", "cost_run", "cost_full"),
    "needed": Cost(
        "multiply-adds that the exits would need if deciding were free, as a share of those of full depth: theoretical",
        "cost_needed",
        "cost_full",
    ),
    "depth": Cost("mean depth of the exits, as a fraction of all layers", "mean_depth"),
}


@dataclass(frozen=True)
class ChoiceQuestion:
    """What is asked: the flags of `jobs/choose.py`. Without modes, rules and keys, all settings are candidates."""

    risk: str
    at_most: float = 0.05
    confidence: float = 0.95
    cost: str = "run"
    modes: Sequence[str] = ()
    rules: Sequence[str] = ()
    keys: Sequence[str] = ()

    @property
    def columns(self) -> Sequence[str]:
        """Those of runs that say what it needs to know."""
        column = RISKS[self.risk].column
        return [*_IDENTITY, *([] if column == SCORE else [column]), *COSTS[self.cost].columns]

    def names(self, columns: Mapping[str, Any]) -> bool:
        """Whether the configuration with these columns is a candidate."""
        return (
            columns["configuration"] != NORMAL
            and (not self.modes or columns["mode"] in self.modes)
            and (not self.rules or columns["rule"] in self.rules)
            and (not self.keys or columns["configuration"] in self.keys)
        )


@dataclass(frozen=True)
class Evidence:
    """What a choice stands on. The losses for reporting have no part in it; they are what it is checked with."""

    sweep: FinishedSweep
    families: Sequence[Family]
    left_out: Sequence[str]  # a line for each group of configurations that is not tested
    choosing: Losses
    reporting: Losses
    costs: Mapping[str, float]  # of each setting, over the runs of the prompts for choosing
    n_seeds: int
    n_failed: int  # runs, each a loss of 1
    n_failed_normal: int  # of these, runs of normal: settings are compared with the best that it could have said
    n_unusable: int  # texts that a judge was asked about in vain, for risk judge
    judges: Sequence[str]  # whose scores they are, for risk judge
    n_same_for_every_seed: int  # settings


def read_evidence(sweep: FinishedSweep, results: str, question: ChoiceQuestion) -> Evidence:
    """What a choice stands on, from the columns of the sweep's runs that the question needs.

    Raises `UsageError` for what nothing can be chosen from.
    """
    for name, share in (("--at-most", question.at_most), ("--confidence", question.confidence)):
        if not 0 < share < 1:
            raise UsageError(f"{name} must be above 0 and below 1, as in 0.05 or 0.95, got {share:g}")
    manifest = sweep.manifest
    found, left_out = candidates(manifest, question, shown(results))
    risk = RISKS[question.risk]
    if risk.compares and NORMAL not in [each["mode"] for each in manifest.configurations]:
        raise UsageError(
            f"{shown(results)} has no runs of {NORMAL}, which risk {question.risk} compares with: sweep with --modes "
            f"{NORMAL} too"
        )
    judged = _judgements(sweep) if risk.column == SCORE else {}
    all_losses = losses(
        risk, _with_scores(sweep.runs, judged) if risk.column == SCORE else _with_draws(_asked(sweep, risk))
    )
    _refuse_unknown_losses(all_losses, found, risk.lacking, shown(results))
    temperature = manifest.config["temperature"]
    fixed = [
        entry["configuration"]
        for entry in manifest.configurations
        if not depends_on_seed(configuration_of(entry), temperature)
    ]
    different = _without_repeats(sweep.runs, fixed)
    failed = different.filter(pc.field("status") != OK)["configuration"].to_pylist()
    run_ids = different["run_id"].to_pylist()
    return Evidence(
        sweep,
        found,
        left_out,
        all_losses.among(lambda prompt: not for_reporting(prompt)),
        all_losses.among(for_reporting),
        _costs(sweep.runs, found, question.cost, shown(results)),
        pc.count_distinct(sweep.runs["seed"]).as_py(),
        len(failed),
        failed.count(NORMAL),
        sum(by_run.get(run_id, 0.0) is None for by_run in judged.values() for run_id in run_ids),
        tuple(dict.fromkeys(judge for judge, _ in judged)),
        sum(key in fixed for family in found for key in family.settings),
    )


def _without_repeats(runs: pa.Table, fixed: Sequence[str]) -> pa.Table:
    """The runs, of which those of the configurations `fixed`, which are the same for every seed, are there once."""
    is_fixed = pc.is_in(runs["configuration"], pa.array(fixed, pa.string()))
    return pa.concat_tables([each_once(runs.filter(is_fixed)), runs.filter(pc.invert(is_fixed))])


def candidates(manifest: Manifest, question: ChoiceQuestion, name: str) -> tuple[list[Family], list[str]]:
    """The families to test, and a line for each group of configurations that is left out.

    Raises `UsageError` for names that the sweep lacks, for what is asked for by name and can't be tested, and if
    nothing is left.
    """
    there = [each for each in manifest.configurations if each["mode"] != NORMAL]
    rules = [each["rule"] for each in there if each["rule"]]
    refuse_unknown(question.modes, list(dict.fromkeys(each["mode"] for each in there)), name, "mode with exits called")
    refuse_unknown(question.rules, list(dict.fromkeys(rules)), name, "rule")
    refuse_unknown(question.keys, [each["configuration"] for each in there], name)
    named = [each for each in there if question.names(each)]
    unordered = [each["configuration"] for each in named if not has_order(each)]
    found = families(named)
    costless = [family for family in found if question.cost == "run" and family.is_oracle]
    left_out = []
    if unordered:
        left_out.append(
            f"{', '.join(some(unordered, 5))}: no order from conservative to bold, which a sequence of tests needs"
        )
    if costless:
        left_out.append(
            f"{', '.join(family.name for family in costless)}: oracles save nothing at run time; --cost needed or "
            "--cost depth compares them"
        )
    tested = [family for family in found if family not in costless]
    if left_out and (not tested or _asked_for_by_name(question, unordered, costless)):
        raise UsageError(f"{name} can't be chosen from: {'; '.join(left_out)}")
    if not tested:
        raise UsageError(
            f"{name} has no setting to choose from: run a sweep with rules, such as --rules confidence=0.9"
        )
    return tested, left_out


def _asked_for_by_name(question: ChoiceQuestion, unordered: Sequence[str], costless: Sequence[Family]) -> bool:
    """Whether something that can't be tested was named itself, and not only its mode."""
    rules = {key.split("/")[1] for key in unordered if "/" in key} | {family.rule for family in costless}
    keys = {*unordered, *(key for family in costless for key in family.settings)}
    return bool(rules & set(question.rules) or keys & set(question.keys))


def _asked(sweep: FinishedSweep, risk: Risk) -> pa.Table:
    """The runs of the prompts that the risk is about: of those that bring an answer, for risk answers."""
    if risk is not RISKS["answers"]:
        return sweep.runs
    with_answer = {
        prompt["id"]
        for prompt in sweep.manifest.config["prompts"]
        if prompt.get("answer") or prompt.get("answer_pattern")
    }
    marked = pc.unique(sweep.runs.filter(pc.is_valid(sweep.runs[risk.column]))["prompt_id"]).to_pylist()
    return sweep.runs.filter(pc.is_in(sweep.runs["prompt_id"], pa.array(sorted({*with_answer, *marked}), pa.string())))


def _judgements(sweep: FinishedSweep) -> dict[tuple[str, str], dict[str, float | None]]:
    """The score of each run that a judge was asked about, by judge and rubric; None where it gave no usable one."""
    judged: dict[tuple[str, str], dict[str, float | None]] = {}
    for row in JUDGEMENTS.read(sweep.store).to_pylist():
        score = fmean(row[aspect] for aspect in ASPECTS) if is_scored(row) else None
        judged.setdefault((row["judge"], row["rubric"]), {})[row["run_id"]] = score
    return judged


def _with_scores(all_runs: pa.Table, judged: Mapping[tuple[str, str], Mapping[str, float | None]]) -> pa.Table:
    """The runs once for each judge and rubric, with the score. Scores of one seed, judge and rubric are compared.

    Without a usable judgement, a text has the worst score, and that of `normal` the best.
    """
    runs = _with_draws(all_runs)
    names = list(zip(runs["run_id"].to_pylist(), runs["configuration"].to_pylist(), strict=True))
    tables = [runs.append_column(SCORE, pa.nulls(runs.num_rows, pa.float64()))] * (not judged)
    for judge, by_run in judged.items():
        assumed = {run_id: BEST_SCORE if key == NORMAL else WORST_SCORE for run_id, key in names if run_id in by_run}
        known = assumed | {run_id: score for run_id, score in by_run.items() if score is not None}
        draws = pc.binary_join_element_wise(runs["draw"], *judge, " ")
        of_judge = runs.set_column(runs.schema.get_field_index("draw"), "draw", draws)
        tables.append(of_judge.append_column(SCORE, pa.array([known.get(run_id) for run_id, _ in names], pa.float64())))
    return pa.concat_tables(tables)


def _with_draws(runs: pa.Table) -> pa.Table:
    return runs.append_column("draw", runs["seed"].cast(pa.string()))


def _refuse_unknown_losses(all_losses: Losses, found: Sequence[Family], lacking: str, name: str) -> None:
    """Raises `UsageError` if no prompt has a loss at any setting."""
    if not all_losses.prompts or not any(len(all_losses.of(key)) for family in found for key in family.settings):
        raise UsageError(f"{name} has {lacking}, or choose another --risk")


def _costs(runs: pa.Table, found: Sequence[Family], name: str, results: str) -> dict[str, float]:
    cost = COSTS[name]
    choosing = [prompt for prompt in pc.unique(runs["prompt"]).to_pylist() if not for_reporting(prompt)]
    of_choosing = pc.is_in(runs["prompt"], pa.array(choosing, pa.string()))
    known = runs.filter(pc.and_(of_choosing, pc.is_valid(runs[cost.column])))
    sums = known.group_by("configuration").aggregate([(column, "sum") for column in cost.columns] + [([], "count_all")])
    costs = {
        row["configuration"]: row[f"{cost.column}_sum"] / row[f"{cost.of}_sum" if cost.of else "count_all"]
        for row in sums.to_pylist()
    }
    settings = [key for family in found for key in family.settings]
    if not any(key in costs for key in settings):
        raise UsageError(f"{results} has no {cost.column} in any run of a setting: choose another --cost")
    return {key: costs.get(key, math.inf) for key in settings}
