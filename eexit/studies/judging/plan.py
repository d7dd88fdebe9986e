"""What is judged of a sweep: which texts and pairs, and which of them a judge has judged already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from eexit.errors import UsageError
from eexit.output.locations import shown
from eexit.output.text import counted
from eexit.plan.configuration import NORMAL
from eexit.plan.hashes import content_hash
from eexit.plan.runs import OK
from eexit.plan.splits import groups, representative
from eexit.quality.rubric import (
    ASPECTS,
    RUBRIC,
    TIE,
    Comparison,
    Question,
    TextScores,
    about_pair,
    about_text,
    comes_first,
)
from eexit.results.files import list_files, read_generations, superseded, without
from eexit.results.layout import Manifest
from eexit.results.store.finished_sweep import manifest_of, refuse_unknown
from eexit.results.store.folder import Store, open_store
from eexit.results.study_table import Row
from eexit.results.study_tables import JUDGEMENTS
from eexit.results.tables import CONFIGURATION
from eexit.studies.judging.table import is_compared, is_scored

IDENTITY = ("run_id", "prompt_id", *CONFIGURATION, "seed")


@dataclass(frozen=True, eq=False)
class Judged:
    """One run's text, and that of the prompt's `normal` run of the same seed (None: there is none, or this is it)."""

    identity: Mapping[str, Any]  # its columns of `IDENTITY`
    prompt: str
    text: str
    normal: str | None

    @property
    def run_id(self) -> str:
        return str(self.identity["run_id"])

    @property
    def text_hash(self) -> str:
        return content_hash(self.prompt, self.text)

    @property
    def pair_hash(self) -> str | None:
        return None if self.normal is None else content_hash(self.prompt, self.text, self.normal)


@dataclass
class Verdicts:
    """What a judge has said: the scores of texts, and the preferences of pairs with how many orders they come from."""

    scores: dict[str, Mapping[str, int]] = field(default_factory=dict)
    preferred: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        if is_scored(row):
            self.scores[row["text_hash"]] = {name: row[name] for name in ASPECTS}
        if row["pair_hash"] is not None and row["orders"] >= self.preferred.get(row["pair_hash"], ("", 0))[1]:
            self.preferred[row["pair_hash"]] = (row["preferred"], row["orders"])


@dataclass(frozen=True)
class JudgingPlan:
    """The runs to judge that have no judgement yet, what is known already, and how many runs there are of each kind."""

    store: Store
    judge: str
    orders: int  # in which a text is compared with that of normal; 0: it is not compared
    runs: Sequence[Judged]
    known: Verdicts
    before: Mapping[str, Row]  # run id → the row without an error that counts
    keys: Sequence[str]  # configurations, in the sweep's order
    groups: Mapping[str, str]  # prompt id → the group that it is one of, where it names one
    n_before: int  # runs that were judged before
    n_failed: int  # runs whose text could not be generated
    n_missing: int  # runs that have not landed
    n_alone: int  # runs to judge that have no normal run to be compared with

    @cached_property
    def asked(self) -> Mapping[Judged, Mapping[Question, bool]]:
        """What is to be asked of each run to judge, and whether its text comes first there."""
        return {run: self._questions(run) for run in self.runs}

    @cached_property
    def questions(self) -> list[Question]:
        """All of these, each once, in the order of the runs."""
        return list(dict.fromkeys(question for asked in self.asked.values() for question in asked))

    def columns(self, run: Judged) -> dict[str, Any]:
        """What is known of a run, as columns of `JUDGEMENTS`."""
        scores, pair = self.known.scores.get(run.text_hash, {}), run.pair_hash
        if pair not in self.known.preferred or not (self.orders or self.holds(run, {"pair_hash": pair})):
            return dict(scores)
        preferred, orders = self.known.preferred[pair]
        return {**scores, "preferred": preferred, "pair_hash": pair, "orders": orders}

    def holds(self, run: Judged, columns: Mapping[str, Any]) -> bool:
        """Whether the results have a row of the run's text with these columns."""
        row = self.before.get(run.run_id)
        return row is not None and {**row, **columns, "text_hash": run.text_hash} == row

    def _questions(self, run: Judged) -> dict[Question, bool]:
        asked = {} if run.text_hash in self.known.scores else {about_text(run.prompt, run.text): True}
        if run.normal is not None and self.known.preferred.get(run.pair_hash or "", ("", 0))[1] < self.orders:
            drawn = comes_first(run.prompt, run.text, run.normal)
            for is_first in (drawn, not drawn)[: self.orders]:
                pair = (run.text, run.normal) if is_first else (run.normal, run.text)
                asked[about_pair(run.prompt, *pair)] = is_first
        return asked


def plan_judging(results: str, judge: str, keys: Sequence[str], n_prompts: int | None, orders: int) -> JudgingPlan:
    """What there is to judge in `results`, be they finished or not. `n_prompts` are drawn (`eexit.plan.splits`);
    None: all.

    Raises `UsageError` if there is nothing that could be judged.
    """
    store, name = open_store(results), shown(results)
    manifest = manifest_of(store, name)
    there = [each["key"] for each in manifest.configurations]
    refuse_unknown(keys, there, name)
    if orders and NORMAL not in there:
        raise UsageError(f"{name} has no configuration {NORMAL} that --pairwise could compare with: leave it out")
    chosen = [key for key in there if key in (keys or there)]
    prompts = {prompt["id"]: prompt["prompt"] for prompt in manifest.config["prompts"]}
    prompt_ids = list(prompts) if n_prompts is None else representative(prompts, n_prompts)
    rows = _rows(store, manifest, prompt_ids)
    normal = {(row["prompt_id"], row["seed"]): row for row in rows if row["configuration"] == NORMAL}
    prefillers = manifest.of_prompts("prefiller")
    rows = [row for row in rows if row["configuration"] in chosen]
    runs = [
        _judged(row, normal.get((row["prompt_id"], row["seed"])), prefillers[row["prompt_id"]])
        for row in rows
        if row["status"] == OK
    ]
    if not runs:
        raise UsageError(f"{name} has no run without an error: there is nothing to judge")
    known = Verdicts()
    before: dict[str, Row] = {}
    for row in JUDGEMENTS.rows(store):
        if (row["judge"], row["rubric"]) == (judge, RUBRIC) and row["status"] == OK:
            known.add(row)
            before[row["run_id"]] = row
    for run in runs:
        if orders and run.pair_hash and run.normal == run.text:
            known.preferred[run.pair_hash] = (TIE, 2)  # in whichever order they are
    to_judge = [run for run in runs if not _is_done(run, before.get(run.run_id), orders)]
    return JudgingPlan(
        store,
        judge,
        orders,
        to_judge,
        known,
        before,
        chosen,
        groups(manifest.config["prompts"]),
        n_before=len(runs) - len(to_judge),
        n_failed=len(rows) - len(runs),
        n_missing=len(prompt_ids) * len(manifest.config["seeds"]) * len(chosen) - len(rows),
        n_alone=sum(run.normal is None and run.identity["configuration"] != NORMAL for run in to_judge),
    )


def describe_judging(plan: JudgingPlan) -> str:
    """How much there is to judge, as lines of text."""
    compared = [run for run in plan.runs if any(question.answer is Comparison for question in plan.asked[run])]
    scored = [question for question in plan.questions if question.answer is TextScores]
    characters = sum(len(message["content"]) for question in plan.questions for message in question.messages)
    in_order = "in both orders" if plan.orders > 1 else "in an order that a hash draws"
    alone = f"; {plan.n_alone:,} have no {NORMAL} run to be compared with" if plan.n_alone else ""
    comparisons = f"{len(compared):,} texts with that of {NORMAL}, {in_order}{alone}"
    lines = {
        "judge": f"{plan.judge}, rubric {RUBRIC}: {', '.join(ASPECTS)}",
        "configurations": ", ".join(plan.keys),
        "left out": f"{counted(plan.n_failed, 'failed run')}; {counted(plan.n_missing, 'run')} did not land yet",
        "judged before": counted(plan.n_before, "run"),
        "texts": f"{len(plan.runs):,} to judge, {len({run.text_hash for run in plan.runs}):,} of them distinct; "
        f"scores of {len(scored):,} are not known",
        **({"comparisons": comparisons} if plan.orders else {}),
        "questions": f"{len(plan.questions):,}, with {characters:,} characters (nothing was asked)",
    }
    return "\n".join(f"{name:14}  {text}" for name, text in lines.items())


def _rows(store: Store, manifest: Manifest, prompt_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The runs of these prompts that have landed, each once, by prompt, seed and configuration."""
    prompts = {prompt_id: at for at, prompt_id in enumerate(prompt_ids)}
    order = {each["key"]: at for at, each in enumerate(manifest.configurations)}
    columns = [*IDENTITY, "prompt", "status", "text"]
    shards = [read_generations(store, stem, columns) for stem in list_files(store).stems]
    again = superseded(shards)
    rows = (row for shard in shards for row in without(shard.rows, again.get(shard.stem, ())).to_pylist())
    found = [row for row in rows if row["prompt_id"] in prompts]
    return sorted(found, key=lambda row: (prompts[row["prompt_id"]], row["seed"], order[row["configuration"]]))


def _judged(row: Mapping[str, Any], normal: Mapping[str, Any] | None, prefiller: str) -> Judged:
    identity = {name: row[name] for name in IDENTITY}
    normal_text = None
    if normal and normal["status"] == OK and row["configuration"] != NORMAL:
        normal_text = prefiller + normal["text"]
    return Judged(identity, row["prompt"], prefiller + row["text"], normal_text)


def _is_done(run: Judged, row: Row | None, orders: int) -> bool:
    """Whether the row of a run has all that is asked for, of the text that the run has now."""
    if row is None or row["text_hash"] != run.text_hash or not is_scored(row):
        return False
    return not orders or run.pair_hash is None or (row["pair_hash"] == run.pair_hash and is_compared(row, orders))
