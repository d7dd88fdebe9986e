"""The data that the page's scripts read: names, runs with their metrics, and charts with their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.messages.wording import counted
from eexit.messages.written import is_known, percent
from eexit.method.rules import ORACLES, RULES, Rule
from eexit.plan.artefacts import ADAPTER, GATE, PROBE, READOUT
from eexit.plan.configuration import ALL_MODES, DRAFT, NORMAL, Draft, Exit
from eexit.quality.estimates import MIN_SAMPLES
from eexit.quality.intervals import LEVEL
from eexit.results.means import screen_misses
from eexit.results.study_tables import JUDGEMENTS, TIMINGS
from eexit.results.tables import GENERATIONS, TOKENS
from reports.frames import runs as frames
from reports.frames.confident import confident_wrong
from reports.frames.quality import quality
from reports.frames.savings import savings
from reports.page.packing import Packed, pack
from reports.progress import Progress, ignore
from reports.read.judgements import BEST, SCORE, said_of_runs
from reports.read.parameters import ORACLE_MARK
from reports.read.prompt_choice import MOST, choose_prompts
from reports.read.sweep import Sweep
from reports.sections.beside import beside_section
from reports.sections.drafts import draft_section
from reports.sections.figures import clean
from reports.sections.findings.artefacts import trained, written_versions
from reports.sections.findings.quality import headline
from reports.sections.findings.savings import saved
from reports.sections.findings.sweep import is_sampled, sweep_findings, unobserved
from reports.sections.findings.verdict import verdict
from reports.sections.learned import learned_section
from reports.sections.overview import overview_charts, page_charts
from reports.sections.quality import quality_figure, quality_section
from reports.sections.settings import settings_section
from reports.sections.timing import timing_section

SAME: Final = "where tokens are greedy and exits are not left to chance, all seeds have the same run"
MOST_FAILURES: Final = 500  # the number of failed runs that the page lists with their errors


@dataclass(frozen=True)
class Metric:
    """A number that each run has, in a column of `generations`."""

    key: str
    label: str
    form: str  # its format: share, real, count, or right for what is right or wrong
    definition: str = ""  # where `GENERATIONS` has none
    geometric: bool = False  # whether its mean is geometric


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
) -> tuple[dict[str, Any], Packed]:
    """The page's data, ready for JSON, and the encoded tokens. `wanted` is as in `choose_prompts`."""
    held = choose_prompts(sweep, wanted)
    measured = [*METRICS, *(Metric(key, label, "real") for key, label in sweep.scores.items()), *_judged(sweep)]
    metrics = [m for m in measured if sweep.generations[m.key].notna().any()]
    found = _found(sweep, progress)
    progress(f"packing the tokens of {counted(len(held), 'prompt')}")
    chosen = sweep.generations["prompt_id"].isin(held).to_numpy()
    runs = sweep.generations[chosen]
    packed = pack(sweep, runs, list(held))
    answers = _answers(sweep, runs)
    by_prompt = _runs(sweep, runs, sweep.layer_counts[chosen], packed, metrics, answers)
    data = {
        "title": title,
        "facts": facts(sweep),
        "counts": {
            "runs": sweep.n_landed,
            "different": len(sweep.generations),
            "failed": len(sweep.failed),
            "planned": sweep.about.get("n_runs"),
            "prompts": len(sweep.prompts),
        },
        **found,
        **_names(sweep, packed),
        "metrics": [vars(metric) for metric in metrics],
        "prompts": _prompts(sweep, held, answers, by_prompt),
        "confident": _confident(sweep, held),
        "margin": sweep.margin,
        "failures": _failures(sweep),
        "kinds": list(packed.blobs),
        "top": packed.top_k,
        "timed": bool(len(sweep.rows_of(TIMINGS))),
        "methods": {"A run": _columns(GENERATIONS), "A token": _columns(TOKENS)},
        "intervals": {"level": LEVEL, "least": MIN_SAMPLES},
    }
    return data, packed


def _found(sweep: Sweep, progress: Progress) -> dict[str, Any]:
    """What the overview says and draws."""
    exits = sweep.without_drafts
    trade, paired = frames.trade_off(exits), frames.paired_differences(exits)
    saves = savings(exits, trade)
    of_quality = quality(exits, trade, paired, saves)
    told = quality_section(exits, of_quality, saves) if of_quality else None
    tells = _tells_of_exits(sweep)
    drawn = overview_charts(exits, trade, saves, progress) if tells else []
    main = quality_figure(exits, of_quality, saves) if of_quality and tells else None
    card = verdict(sweep.verdict, of_quality)
    first = [*(headline(of_quality) if of_quality and told else []), *(saved(saves) if saves and drawn else [])]
    progress("comparing configurations")
    return {
        "verdict": card and vars(card),
        "findings": [*first, *sweep_findings(trade, is_sampled(sweep)), *unobserved(sweep)],
        "trade": main.data if main else None,
        "settings": settings_section(of_quality) if of_quality else None,
        "time": timing_section(exits, saves) if tells else None,
        "beside": beside_section(exits, trade),
        "charts": drawn,
        "quality": told and told | {"table": None if main else told["table"]},
        "drafts": draft_section(sweep),
        "learned": learned_section(sweep),
        "specs": page_charts(sweep),
    }


def _names(sweep: Sweep, packed: Packed) -> dict[str, Any]:
    """What is in the sweep, by name."""
    marks = {c.key: ORACLE_MARK if isinstance(c, Exit) and c.rule in sweep.marked else "" for c in sweep.configurations}
    return {
        "layers": list(frames.layer_labels(sweep).values()),
        "normal": NORMAL,
        "draft": DRAFT,
        "modes": {c.mode: ALL_MODES[c.mode] for c in sweep.configurations if c.mode in ALL_MODES},
        "rules": _rules(sweep),
        "configurations": [
            {"key": c.key, "mark": marks[c.key], "saw": packed.saw.get(c.key), **c.columns}
            for c in sweep.configurations
        ],
        "judges": [judge.name for judge in sweep.judges],
    }


def _judged(sweep: Sweep) -> list[Metric]:
    """Each judge's score, which is the mean of what the judge was asked for."""
    several = len(sweep.judges) > 1
    return [
        Metric(
            judge.column(SCORE),
            f"Score by {judge.name}" if several else "Judge's score",
            "real",
            f"Mean of coherence, completeness, clarity and no repetition, 1 to {BEST} each, as {judge.name} says.",
        )
        for judge in sweep.judges
    ]


def _tells_of_exits(sweep: Sweep) -> bool:
    """Whether there is more to show than drafts and the `normal` runs that they are compared with."""
    kinds = {type(configuration) for configuration in sweep.configurations}
    return Draft not in kinds or Exit in kinds


def facts(sweep: Sweep) -> list[tuple[str, str]]:
    """The origin of the numbers (model, sampling, versions, …), as labels and texts."""
    about, config = sweep.about, sweep.config
    model = about.get("model", {})
    n_runs = len(sweep.generations)
    size = f"{counted(len(sweep.prompts), 'prompt')} × {counted(len(sweep.configurations), 'configuration')}"
    layers = ", ".join(map(str, sweep.exitable_layers))
    of = "" if sweep.final_layer is None else f" of {sweep.final_layer + 1} (0-based)"
    found = [
        (
            "Model",
            " ".join(str(model[key]) for key in ("name", "revision", "dtype") if model.get(key) not in (None, "auto")),
        ),
        ("Size", size + (f" × {sweep.n_seeds} seeds" if sweep.n_seeds > 1 else "")),
        ("Different runs", f"{n_runs:,} of {sweep.n_landed:,}: {SAME}" if n_runs < sweep.n_landed else ""),
        ("Tokens", f"{_n_tokens(sweep):,}"),
        ("Left out", f"{counted(len(sweep.left_out), 'damaged or foreign file')}" if sweep.left_out else ""),
        ("Exitable layers", layers + of if layers else ""),
        ("Readout", trained(about, READOUT)),
        ("Probe", trained(about, PROBE)),
        ("Gate", trained(about, GATE)),
        ("Adapter", trained(about, ADAPTER)),
        ("All reads", str(config.get("head") or "").removeprefix("whole")),
        ("Deciding reads", _deciding(config) + _missed(sweep)),
        ("Sampling", _sampling(config)),
        ("Started", about.get("started", "").replace("T", " ").replace("+00:00", " UTC")),
        ("Versions", written_versions(about.get("versions", {}))),
        ("Source", about.get("source", "")),
        ("Digest", (model.get("digest") or "").removeprefix("sha256:")[:12]),
    ]
    return [(label, text) for label, text in found if text]


def _n_tokens(sweep: Sweep) -> int:
    """The tokens of different runs."""
    if len(sweep.generations) == sweep.n_landed:
        return int(sweep.tokens.count_rows())
    return int(sweep.generations["n_tokens"].sum())


def _rules(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """Rule → its definition, parameter and unit, and whether it is an oracle, for the rules of the sweep."""
    names = dict.fromkeys(c.rule for c in sweep.configurations if isinstance(c, Exit) and c.rule in RULES)
    return {
        name: {
            "definition": RULES[name].definition,
            "parameter": RULES[name].parameter,
            "unit": RULES[name].unit,
            "sees": RULES[name].sees,
            "compares": _compares(RULES[name]),
            "oracle": name in ORACLES,
            "mark": ORACLE_MARK if name in sweep.marked else "",
        }
        for name in names
    }


def _compares(rule: Rule) -> str | None:
    """How what the rule sees is held against its parameter where it exits; None where it is not, or chance decides."""
    if rule.draws or not rule.sees or rule.higher_exits_later is None:
        return None
    return "≥" if rule.higher_exits_later else "≤"


def _runs(
    sweep: Sweep, runs: pd.DataFrame, counts: Any, packed: Packed, metrics: list[Metric], answers: pd.DataFrame
) -> dict[str, list[dict[str, Any]]]:
    """Prompt id → its runs, in the sweep's order. A run has a text only if its tokens weren't recorded."""
    numbers = sweep.numbers
    bare = runs["run_id"][[not n for n in packed.n]]
    texts = sweep.texts.to_table(
        columns=["run_id", "text"], filter=pc.field("run_id").isin(pa.array(bare.to_list(), pa.string()))
    )
    text_of = dict(zip(texts["run_id"].to_pylist(), texts["text"].to_pylist(), strict=True))
    judged, answer_of = said_of_runs(sweep.rows_of(JUDGEMENTS)), answers["found_answer"].to_dict()
    found: dict[str, list[dict[str, Any]]] = {}
    for row, n, undrawn, count in zip(runs.to_dict("records"), packed.n, packed.undrawn, counts.tolist(), strict=True):
        run = {
            "c": numbers[row["configuration"]],
            "seed": row["seed"],
            "every": row["every_seed"],
            "status": row["status"],
            "error": row["error"],
            "finish": row["finish_reason"],
            "m": [row[metric.key] for metric in metrics],
            "n": n,
            "undrawn": undrawn,
            "counts": count,
            "text": text_of.get(row["run_id"]),
            "notes": row.get("notes") or [],
        }
        if is_known(row["correct"]):
            run["found"] = answer_of[row["run_id"]]
        if row["run_id"] in judged:
            run["judged"] = judged[row["run_id"]]
        found.setdefault(row["prompt_id"], []).append(clean(run))
    return found


def _answers(sweep: Sweep, runs: pd.DataFrame) -> pd.DataFrame:
    """Of the runs that are right or wrong, by run_id: `prompt_id`, the expected `answer` and the `found_answer`."""
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
    return [
        {
            "id": prompt_id,
            "text": sweep.prompts[prompt_id],
            "why": why,
            "answer": expected.get(prompt_id),
            "runs": runs.get(prompt_id, []),
        }
        for prompt_id, why in held.items()
    ]


def _confident(sweep: Sweep, held: dict[str, str]) -> list[tuple[float, ...]]:
    """The most confident wrong exits: prompt, its run, position, probability at the exit and under full depth."""
    runs = sweep.generations.loc[sweep.generations["prompt_id"].isin(held), ["run_id", "prompt_id"]]
    numbers = {prompt_id: number for number, prompt_id in enumerate(held)}
    at = runs["prompt_id"].map(numbers), runs.groupby("prompt_id").cumcount()
    places = dict(zip(runs["run_id"], zip(*at, strict=True), strict=True))
    return [
        (*map(int, places[row["run_id"]]), row["position"], _rounded(row["at_exit"]), _rounded(row["at_full_depth"]))
        for row in confident_wrong(sweep, list(held)).to_dict("records")
    ]


def _rounded(probability: Any) -> float:
    return float(f"{probability:.3g}")


def _failures(sweep: Sweep) -> list[dict[str, Any]]:
    failed = sweep.failed.head(MOST_FAILURES)
    found = failed.assign(
        prompt=failed["prompt_id"], c=failed["configuration"].map(sweep.numbers), every=failed["every_seed"]
    )
    return [clean(row) for row in found[["prompt", "c", "seed", "error", "every"]].to_dict("records")]


def _columns(schema: Any) -> list[tuple[str, str, str]]:
    return [(f.name, f.metadata[b"unit"].decode(), f.metadata[b"definition"].decode()) for f in schema]


def _deciding(config: dict[str, Any]) -> str:
    """Which tokens the deciding reads see, where that is not the whole head."""
    decides = str(config.get("decide_on") or "")
    if decides != "shortlist":
        return decides if decides.startswith("screen") else ""
    return f"shortlist of {counted(config['shortlist'], 'token')}" if config.get("shortlist") else "shortlist"


def _missed(sweep: Sweep) -> str:
    columns = ["exit_rate", "n_tokens", "head_reads", "screen_reads", "screen_misses"]
    found = screen_misses(pa.Table.from_pandas(sweep.done[columns].astype(float), preserve_index=False))
    return f", without the likeliest token at {percent(found[1])} of {found[0]:,} exits" if found else ""


def _sampling(config: dict[str, Any]) -> str:
    if "temperature" not in config:
        return ""
    how = f"temperature {config['temperature']:g}, top-p {config['top_p']:g}" if config["temperature"] else "greedy"
    return f"{how}, at most {config['max_new_tokens']} tokens"
