"""Data for the page's scripts: names, runs with their metrics, and charts with their rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.costs.operations import COSTS
from eexit.method.rules import ORACLES, RULES, Rule
from eexit.output.text import is_known, pluralize
from eexit.plan.configuration import DRAFT, NORMAL, EarlyExit, all_modes, short_name
from eexit.plan.splits import kinds
from eexit.quality.estimates import MIN_SAMPLES
from eexit.quality.intervals import LEVEL
from eexit.results.study_tables import JUDGEMENTS
from eexit.results.tables import GENERATIONS, TOKENS
from reports.page.pack_tokens import PackedTokens, pack
from reports.page.run_info import facts
from reports.progress import Progress, ignore
from reports.read.judgements import BEST, SCORE, said_of_runs
from reports.read.prompt_choice import MOST, choose_prompts
from reports.read.rule_parameters import ORACLE_MARK
from reports.read.sweep import Sweep
from reports.sections.confident_errors import confident_section
from reports.sections.overview import overview
from reports.shared.figures import clean
from reports.shared.per_configuration import layer_labels, naming

MOST_FAILURES: Final = 500  # failed runs that the page lists with their errors


@dataclass(frozen=True)
class Metric:
    """A number that each run has, in a column of `generations`."""

    key: str
    label: str
    form: str  # its format: share, real, count, or right for what is right or wrong
    definition: str = ""  # where `GENERATIONS` has none
    geometric: bool = False  # True if its mean is geometric


METRICS: Final = (
    Metric("correct", "Answer", "right"),
    Metric("n_tokens", "Tokens", "count"),
    Metric("exit_rate", "Early exits", "share"),
    Metric("mean_depth", "Mean depth", "share"),
    Metric("disagreement", "Disagreement", "share"),
    Metric("tokens_until_difference", "Same as normal until", "count"),
    Metric("equal_share", "Equal positions", "share"),
    Metric("lcs_share", "Common subsequence", "share"),
    Metric("perplexity", "Perplexity", "real", geometric=True),
    Metric("distinct_2", "Distinct 2-grams", "share"),
    Metric("distinct_3", "Distinct 3-grams", "share"),
    Metric("longest_loop", "Longest loop", "count"),
    Metric("loop_share", "In one loop", "share"),
)


def payload(
    sweep: Sweep, title: str, wanted: int | Sequence[str] = MOST, progress: Progress = ignore
) -> tuple[dict[str, Any], PackedTokens]:
    """Return the page's data, ready for JSON, and the encoded tokens. `wanted` is as in `choose_prompts`."""
    held = choose_prompts(sweep, wanted)
    measured = [*METRICS, *(Metric(key, label, "real") for key, label in sweep.scores.items()), *_judged(sweep)]
    metrics = [m for m in measured if sweep.generations[m.key].notna().any()]
    found = overview(sweep, progress)
    progress(f"packing the tokens of {pluralize(len(held), 'prompt')}")
    chosen = sweep.generations["prompt_id"].isin(held).to_numpy()
    runs = sweep.generations[chosen]
    packed = pack(sweep, runs, list(held))
    answers = _answers(sweep, runs)
    by_prompt = _runs(sweep, runs, sweep.layer_counts[chosen], packed, metrics, answers)
    failed_with = [str(error or "no reason given").partition("\n")[0] for error in sweep.failed["error"]]
    data = {
        "title": title,
        "facts": facts(sweep),
        "counts": {
            "runs": sweep.n_committed,
            "different": len(sweep.generations),
            "failed": len(sweep.failed),
            "why": Counter(failed_with).most_common(),  # the most frequent first
            "planned": sweep.about.get("n_runs"),
            "prompts": len(sweep.prompts),
        },
        **found,
        **_names(sweep, packed),
        "metrics": [vars(metric) for metric in metrics],
        "prompts": _prompts(sweep, held, answers, by_prompt),
        "confident": confident_section(sweep, held),
        "failures": _failures(sweep),
        "kinds": packed.columns,
        "flags": packed.flags,
        "top": packed.top_k,
        "methods": {"A run": _columns(GENERATIONS), "A token": _columns(TOKENS)},
        "intervals": {"level": LEVEL, "least": MIN_SAMPLES},
    }
    return data, packed


def _names(sweep: Sweep, packed: PackedTokens) -> dict[str, Any]:
    """Return the names of the sweep's layers, modes, rules, configurations and judges."""
    exits = [each for each in sweep.configurations if isinstance(each, EarlyExit)]
    marks = {each.key: ORACLE_MARK for each in exits if each.rule in sweep.marked}
    # Menus show settings without their mode, and series without their parameter.
    named = [naming(configuration) for configuration in sweep.configurations]
    keys = [str(each[part]) for part in ("configuration", "setting", "series") for each in named if each[part]]
    return {
        "layers": list(layer_labels(sweep).values()),
        "normal": NORMAL,
        "draft": DRAFT,
        "modes": {c.mode: does for c in sweep.configurations if (does := all_modes().get(c.mode))},
        "rules": _rules(sweep),
        "configurations": [
            {"key": c.key, "mark": marks.get(c.key, ""), "score_kind": packed.score_kind.get(c.key), **c.columns}
            for c in sweep.configurations
        ],
        "short": {key: short_name(key) for key in keys},
        "judges": [judge.name for judge in sweep.judges],
    }


def _judged(sweep: Sweep) -> list[Metric]:
    """Return each judge's score, which is the mean over the rubric's aspects."""
    several = len(sweep.judges) > 1
    mean = f"Mean of coherence, completeness, clarity and no repetition, 1 to {BEST} each"
    return [
        Metric(
            judge.column(SCORE), f"Score by {judge.name}" if several else "Judge's score", "real",
            f"{mean}, as scored by {judge.name}.",
        )
        for judge in sweep.judges
    ]  # fmt: skip


def _rules(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """Return for each rule of the sweep: its definition, parameter and unit, and whether it is an oracle."""
    names = dict.fromkeys(c.rule for c in sweep.configurations if isinstance(c, EarlyExit) and c.rule in RULES)
    shown = ("definition", "parameter", "unit", "score_name")
    return {
        name: {each: getattr(RULES[name], each) for each in shown}
        | {"compares": _compares(RULES[name]), "oracle": name in ORACLES}
        for name in names
    }


def _compares(rule: Rule) -> str | None:
    """Return the sign by which an exit score is compared with the threshold, "≥" or "≤".

    Return None without a comparison, or if exits are random.
    """
    if rule.draws or rule.returns_chance or not rule.score_name or rule.higher_exits_later is None:
        return None
    return "≥" if rule.higher_exits_later else "≤"


def _runs(
    sweep: Sweep, runs: pd.DataFrame, counts: Any, packed: PackedTokens, metrics: list[Metric], answers: pd.DataFrame
) -> dict[str, list[dict[str, Any]]]:
    """Return prompt id → its runs, in the sweep's order. A run has a text only if its tokens weren't recorded."""
    numbers = sweep.numbers
    bare = runs["run_id"][[not n for n in packed.n]]
    texts = sweep.texts.to_table(
        columns=["run_id", "text"], filter=pc.field("run_id").isin(pa.array(bare.to_list(), pa.string()))
    )
    text_of = dict(zip(texts["run_id"].to_pylist(), texts["text"].to_pylist(), strict=True))
    judged, answer_of = said_of_runs(sweep.rows_of(JUDGEMENTS)), answers["found_answer"].to_dict()
    found: dict[str, list[dict[str, Any]]] = {}
    of_runs = zip(runs.to_dict("records"), packed.n, packed.undrawn, packed.parts, counts.tolist(), strict=True)
    for row, n, undrawn, parts, count in of_runs:
        run = {
            "c": numbers[row["configuration"]], "seed": row["seed"], "every": row["every_seed"],
            "status": row["status"], "error": row["error"], "finish": row["finish_reason"],
            "m": [row[metric.key] for metric in metrics], "n": n, "undrawn": undrawn, "counts": count,
            "text": text_of.get(row["run_id"]), "costs": [row.get(name) for name in COSTS],
            "notes": row.get("notes") or [],
        }  # fmt: skip
        if parts:
            run["parts"] = parts
        if is_known(row["correct"]):
            run["found"] = answer_of[row["run_id"]]
        if row["run_id"] in judged:
            run["judged"] = judged[row["run_id"]]
        found.setdefault(row["prompt_id"], []).append(clean(run))
    return found


def _answers(sweep: Sweep, runs: pd.DataFrame) -> pd.DataFrame:
    """Return `prompt_id`, expected `answer` and `found_answer` of the runs that are right or wrong, by run_id."""
    columns = ["run_id", "prompt_id", "answer", "found_answer"]
    marked = runs.loc[runs["correct"].notna(), "run_id"].to_list()
    if not marked:  # results of other formats have no such columns
        return pd.DataFrame(columns=columns).set_index("run_id")
    table = sweep.texts.to_table(columns=columns, filter=pc.field("run_id").isin(pa.array(marked, pa.string())))
    return pd.DataFrame(table.to_pylist(), columns=columns, dtype=object).set_index("run_id")


def _prompts(
    sweep: Sweep, held: dict[str, str], answers: pd.DataFrame, runs: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    known = answers.drop_duplicates("prompt_id")
    expected = dict(zip(known["prompt_id"], known["answer"], strict=True))
    kind_of = kinds(sweep.config.get("prompts", []))
    return [
        {
            "id": prompt_id, "text": sweep.prompts[prompt_id], "why": why, "answer": expected.get(prompt_id),
            "kind": kind_of.get(prompt_id), "runs": runs.get(prompt_id, []),
        }
        for prompt_id, why in held.items()
    ]  # fmt: skip


def _failures(sweep: Sweep) -> list[dict[str, Any]]:
    failed = sweep.failed.head(MOST_FAILURES)
    named = {"prompt": failed["prompt_id"], "c": failed["configuration"].map(sweep.numbers)}
    found = failed.assign(**named, every=failed["every_seed"])
    return [clean(row) for row in found[["prompt", "c", "seed", "error", "every"]].to_dict("records")]


def _columns(schema: Any) -> list[tuple[str, str, str]]:
    return [(f.name, f.metadata[b"unit"].decode(), f.metadata[b"definition"].decode()) for f in schema]
