"""Origin of a report's numbers (model, sampling, versions, …), as labels and texts."""

from typing import Any, Final

import pyarrow as pa

from eexit.output.text import describe_precision, percent, pluralize, with_versions
from eexit.plan.artefacts import ADAPTER, GATE, KV_MAPS, PROBE, READOUT
from eexit.results.configuration_means import screen_misses
from reports.read.sweep import Sweep
from reports.sections.learned_exits import trained

SAME: Final = "where tokens are greedy and exits are not random, all seeds have the same run"

UNOBSERVED: Final = {
    "none": "disagreement and perplexity: full depth was not recorded (--record-full-depth none)",
    "final": "KLs of exitable layers: full depth was read at its final layer alone (--record-full-depth final)",
}


def facts(sweep: Sweep) -> list[tuple[str, str]]:
    """Return label and text of each recorded fact about the sweep."""
    about, config = sweep.about, sweep.config
    model = about.get("model", {})
    n_runs = len(sweep.generations)
    size = f"{pluralize(len(sweep.prompts), 'prompt')} × {pluralize(len(sweep.configurations), 'configuration')}"
    layers = ", ".join(map(str, sweep.exitable_layers))
    of = "" if sweep.final_layer is None else f" of {sweep.final_layer + 1} (0-based)"
    computed = describe_precision(model, about.get("dtype_asked", "")) if model.get("dtype") else None
    n_tokens = sweep.tokens.count_rows() if n_runs == sweep.n_committed else sweep.generations["n_tokens"].sum()
    found = [
        ("Model", " ".join(filter(None, [model.get("name"), model.get("revision"), computed]))),
        ("Size", size + (f" × {sweep.n_seeds} seeds" if sweep.n_seeds > 1 else "")),
        ("Different runs", f"{n_runs:,} of {sweep.n_committed:,}: {SAME}" if n_runs < sweep.n_committed else ""),
        ("Tokens", f"{int(n_tokens):,}"),
        ("Left out", f"{pluralize(len(sweep.left_out), 'damaged or foreign file')}" if sweep.left_out else ""),
        ("Exitable layers", layers + of if layers else ""),
        ("Readout", trained(about, READOUT)),
        ("Probe", trained(about, PROBE)),
        ("Gate", trained(about, GATE)),
        ("Adapter", trained(about, ADAPTER)),
        ("KV maps", trained(about, KV_MAPS)),
        ("Screen", (config.get("screen") or "") + _missed(sweep)),
        ("Not observed", UNOBSERVED.get(config.get("record_full_depth", ""), "")),
        ("Sampling", _sampling(config)),
        ("Started", about.get("started", "").replace("T", " ").replace("+00:00", " UTC")),
        ("Versions", with_versions(about.get("versions", {}))),
        ("Source", about.get("source", "")),
        ("Digest", (model.get("digest") or "").removeprefix("sha256:")[:12]),
    ]
    return [(label, text) for label, text in found if text]


def _missed(sweep: Sweep) -> str:
    columns = ["exit_rate", "n_tokens", "screen_reads", "screen_misses"]
    found = screen_misses(pa.Table.from_pandas(sweep.done[columns].astype(float), preserve_index=False))
    return f", without the likeliest token at {percent(found[1])} of {found[0]:,} exits" if found else ""


def _sampling(config: dict[str, Any]) -> str:
    if "temperature" not in config:
        return ""
    how = f"temperature {config['temperature']:g}, top-p {config['top_p']:g}" if config["temperature"] else "greedy"
    most = max((prompt.get("max_new_tokens") or 0 for prompt in config.get("prompts", [])), default=0)
    return f"{how}, at most {max(most, config['max_new_tokens'])} tokens"
