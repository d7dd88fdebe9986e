"""What the page's scripts are given: names, runs with their numbers, charts with their rows."""

from dataclasses import dataclass
from typing import Any, Final

from eexit.schema import GENERATIONS, TOKENS
from reports import frames
from reports.overview import PAIRED, clean, findings, many, overview_charts, table
from reports.packing import token_counts
from reports.sweep import NORMAL, Sweep


@dataclass(frozen=True)
class Metric:
    """A number of each run: a column of `generations`."""

    key: str
    label: str
    form: str  # how it is written: share, real or count


METRICS: Final = (
    Metric("n_tokens", "Tokens", "count"),
    Metric("exit_rate", "Early exits", "share"),
    Metric("mean_depth", "Mean depth", "share"),
    Metric("tokens_until_difference", "Same as normal until", "count"),
    Metric("equal_share", "Equal positions", "share"),
    Metric("lcs_share", "Common subsequence", "share"),
    Metric("perplexity", "Perplexity", "real"),
    Metric("distinct_2", "Distinct 2-grams", "share"),
    Metric("distinct_3", "Distinct 3-grams", "share"),
    Metric("longest_loop", "Longest loop", "count"),
    Metric("accuracy_score", "Accuracy score", "real"),
)


def payload(sweep: Sweep, title: str) -> dict[str, Any]:
    """JSON-ready, small: the tokens travel beside it (`packing`)."""
    metrics = [m for m in METRICS if m.key in sweep.generations and sweep.generations[m.key].notna().any()]
    return {
        "title": title,
        "facts": facts(sweep),
        "counts": {"runs": len(sweep.generations), "failed": len(sweep.failed), "planned": sweep.about.get("n_runs")},
        "findings": findings(sweep),
        "layers": list(frames.layer_labels(sweep).values()),
        "normal": NORMAL,
        "configurations": [{"key": c.key, "mode": c.mode, "kl": c.kl_factor} for c in sweep.configurations],
        "metrics": [vars(metric) for metric in metrics],
        "prompts": _prompts(sweep, metrics),
        "detail": sweep.kl is not None and sweep.exit_prob is not None,
        "charts": overview_charts(sweep),
        "paired": table(frames.paired_differences(sweep), PAIRED),
        "methods": {"A run": _columns(GENERATIONS), "A token": _columns(TOKENS)},
    }


def facts(sweep: Sweep) -> list[tuple[str, str]]:
    """Where the numbers come from, as label and text."""
    about, config = sweep.about, sweep.about.get("config", {})
    model = about.get("model", {})
    n_seeds = sweep.generations["seed"].nunique()
    size = f"{many(len(sweep.prompts), 'prompt')} × {many(len(sweep.configurations), 'configuration')}"
    layers = ", ".join(map(str, sweep.exitable_layers))
    of = "" if sweep.final_layer is None else f" of {sweep.final_layer + 1} (0-based)"
    found = [
        ("Model", " ".join(str(model[key]) for key in ("name", "revision", "dtype") if model.get(key))),
        ("Size", size + (f" × {n_seeds} seeds" if n_seeds > 1 else "")),
        ("Tokens", f"{len(sweep.tokens):,}"),
        ("Exitable layers", layers + of if layers else ""),
        ("Readout", config.get("readout", "")),
        ("Sampling", _sampling(config)),
        ("Started", about.get("started", "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())),
        ("Digest", (model.get("digest") or "")[:19]),
    ]
    return [(label, text) for label, text in found if text]


def _prompts(sweep: Sweep, metrics: list[Metric]) -> list[dict[str, Any]]:
    numbers = {c.key: number for number, c in enumerate(sweep.configurations)}
    layers = frames.layer_labels(sweep)
    runs: dict[str, list[dict[str, Any]]] = {prompt_id: [] for prompt_id in sweep.prompts}
    generations = sweep.generations.assign(recorded=token_counts(sweep))
    for row in generations.to_dict("records"):
        counts = dict(row["exit_layer_counts"]) if isinstance(row["exit_layer_counts"], list) else {}
        run = {
            "c": numbers[row["configuration"]],
            "seed": row["seed"],
            "status": row["status"],
            "error": row["error"],
            "finish": row["finish_reason"],
            "m": [row[metric.key] for metric in metrics],
            "n": row["recorded"],
            "counts": [counts.get(layer, 0) for layer in layers],
            "text": None if row["recorded"] else row["text"],
            "notes": row.get("notes") or [],
        }
        runs[row["prompt_id"]].append(clean(run))
    return [{"id": prompt_id, "text": text, "runs": runs[prompt_id]} for prompt_id, text in sweep.prompts.items()]


def _columns(schema: Any) -> list[tuple[str, str, str]]:
    return [(f.name, f.metadata[b"unit"].decode(), f.metadata[b"definition"].decode()) for f in schema]


def _sampling(config: dict[str, Any]) -> str:
    if "temperature" not in config:
        return ""
    how = f"temperature {config['temperature']:g}, top-p {config['top_p']:g}" if config["temperature"] else "greedy"
    return f"{how}, at most {config['max_new_tokens']} tokens"
