"""The plan that `--dry-run` prints: everything that determines the results, and the amount of work."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any, Final

from cluster.console.flags_from_config import CommandOptions
from cluster.sweep_job import SweepJob
from eexit.model.sources import DEFAULT_MODEL, files_of, hub_is_reachable
from eexit.output.locations import redact
from eexit.output.text import describe_precision, format_bytes, pluralize, with_weights
from eexit.plan.artefacts import ADAPTER, KV_MAPS, PROBE
from eexit.plan.configuration import NORMAL
from eexit.plan.model_inspection import CHARACTERS_PER_TOKEN, characters, inspect_model
from eexit.plan.runs import configurations, count_different_runs, count_runs
from eexit.plan.splits import kinds
from eexit.plan.sweep_config import SweepConfig
from eexit.results.parquet_files import DamagedError
from eexit.results.store.extend import extended_config, growth, stored_config, with_earlier_texts
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import MissingManifestError, read_manifest
from eexit.results.study_tables import TIMINGS

OBSERVED: Final = {  # for values of `--record-full-depth` other than all
    "final": "full depth at its final layer alone",
    "none": "nothing of full depth: texts and answers only",
}


def describe_plan(job: SweepJob, options: CommandOptions) -> str:
    """Return the plan as lines of text, from facts of the model, without writing anything. Raise `UsageError`."""
    config, by = _grown(job)
    grid, n_runs = configurations(config), count_runs(config)
    model, exitable_layers, memory = inspect_model(config, job.rows_per_shard)
    rows = min(job.rows_per_shard, n_runs)
    prompt_tokens = math.ceil(sum(characters(config)) / CHARACTERS_PER_TOKEN)
    n_new = sum(map(config.limit_of, config.prompts)) * len(grid) * len(config.seeds)
    n_different = count_different_runs(config)
    repeats = (
        f"; {n_different:,} are different, others being the same for every seed or mode" if n_different < n_runs else ""
    )
    product = (
        f"{pluralize(len(config.prompts), 'prompt')} × {pluralize(len(grid), 'configuration')} × "
        f"{pluralize(len(config.seeds), 'seed')}"
    )
    lines = {
        "model": f"{config.model} ({model['architecture']}, {pluralize(model['n_layers'], 'layer')}, "
        f"{describe_precision(model, config.dtype)})",
        "prompts": f"{len(config.prompts):,} from {options.prompts_from}{_kinds_and_answers(config)}",
        "system prompt": _of_prompts(config, "system"),
        "prefiller": _of_prompts(config, "prefiller"),
        "control tokens": "read in prompts" if config.control_tokens else "plain text in prompts",
        "configurations": ", ".join(configuration.key for configuration in grid),
        **({"controls": f"of {redact(options.controls_from)}"} if options.controls_from else {}),
        "exit layers": f"{' '.join(map(str, exitable_layers))} (the final one is {model['n_layers'] - 1})",
        "readout": config.readout,
        **{role: location for role in (PROBE, ADAPTER, KV_MAPS) if (location := getattr(config, role))},
        **({"screen": config.screen} if config.screen else {}),
        "next token": f"sampled, temperature {config.temperature:g}, top-p {config.top_p:g}"
        if config.temperature
        else "greedy",
        "recorded": f"the {pluralize(config.record_top_k, 'likeliest token')} of each layer"
        if config.record_top_k
        else "no top tokens",
        **({"observed": OBSERVED[config.record_full_depth]} if config.record_full_depth in OBSERVED else {}),
        "seeds": " ".join(map(str, config.seeds)),
        "runs": f"{n_runs:,} = {product}{repeats}",
        "shards": f"about {math.ceil(n_runs / rows):,} of up to {pluralize(rows, 'run')}",
        "tokens": f"up to {n_new:,} new ones, {config.most_new_tokens:,} a run; prompts have about {prompt_tokens:,}",
        "actor's memory": f"about {memory}" if memory else "unknown",
        **(
            {"weights": "a layer {}, the head {}".format(*map(format_bytes, memory.parts))}
            if memory and memory.parts
            else {}
        ),
        "to fetch": _to_fetch(config),
        **({"step": step} if (step := step_at_full_depth(job.out, model)) else {}),
        "out": redact(job.out) + (f", which grows by {by}" if by else ""),
    }
    return "\n".join(f"{name:14}  {text}" for name, text in lines.items())


def _grown(job: SweepJob) -> tuple[SweepConfig, str]:
    """Return the sweep in `--out` as extended by this job, and a text that describes the extension.

    For a URI, which is not read, return the job's own sweep and no text.
    """
    if "://" in job.out:
        return job.config, ""
    store, held = open_store(job.out), None
    with suppress(MissingManifestError):
        held = read_manifest(store)
    held = held and with_earlier_texts(store, held, job.config, job.config.exits)
    config = extended_config(store, held, job.config) if held else job.config
    return config, growth(stored_config(store, held), config) if held else ""


def _kinds_and_answers(config: SweepConfig) -> str:
    n_kinds = len({*kinds(map(asdict, config.prompts)).values()})
    n_answers = sum(prompt.answer is not None or prompt.answer_pattern is not None for prompt in config.prompts)
    told = [pluralize(n_kinds, "kind")] * (n_kinds > 0) + [f"{n_answers:,} with answers"] * (n_answers > 0)
    return f": {', '.join(told)}" if told else ""


def _to_fetch(config: SweepConfig) -> str:
    n_bytes = bytes_to_fetch(config.model, config.revision)
    if n_bytes is None:
        return "unknown: the hub lists no size of the weights"
    return f"{format_bytes(n_bytes)} of weights, by each node that lacks them" if n_bytes else "nothing"


def bytes_to_fetch(model: str, revision: str | None) -> int | None:
    """Return the bytes of weights that a run must download from the hub; None if unknown.

    The result is 0 for the default model, local files, cached models, and models that can't be reached.
    """
    if model == DEFAULT_MODEL or files_of(model):
        return 0
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not hub_is_reachable():
        return 0  # models outside the cache are refused
    try:
        files = HfApi().model_info(model, revision=revision, files_metadata=True).siblings or []
    except Exception:  # the hub client's errors depend on its HTTP library
        return None
    sizes = {each.rfilename: each.size or 0 for each in files}
    weights = [name for name in sizes if fnmatch(name, "model*.safetensors")]
    weights = weights or [name for name in sizes if fnmatch(name, "pytorch_model*.bin")]
    lacking = [name for name in weights if not isinstance(try_to_load_from_cache(model, name, revision=revision), str)]
    return sum(map(sizes.__getitem__, lacking))


def step_at_full_depth(out: str, model: Mapping[str, Any]) -> str:
    """Return the times of a full-depth decode step, from this model's latest timings in `out` or a sibling folder."""
    rows: list[dict[str, Any]] = []
    for folder in sorted(Path(out).expanduser().parent.glob(f"*/{TIMINGS.name}")) if "://" not in out else ():
        with suppress(DamagedError, OSError):
            rows += [{**row, "folder": folder.parent} for row in TIMINGS.rows(open_store(folder.parent))]
    rows = [row for row in rows if (row["configuration"], row["model"]) == (NORMAL, model["name"])]
    if not (rows := [row for row in rows if row["dtype"] == model["dtype"] + with_weights(model.get("quantization"))]):
        return ""
    latest = max(rows, key=lambda row: row["started"])
    seconds: dict[int, list[float]] = {}
    for row in rows:
        if (row["folder"], row["started"]) == (latest["folder"], latest["started"]):
            seconds.setdefault(row["batch"], []).append(row["seconds"] * row["batch"] / row["tokens"])
    times = ", ".join(f"{pluralize(rows, 'sequence')} {1e3 * median(seconds[rows]):.1f} ms" for rows in sorted(seconds))
    return f"{times}, at full depth ({latest['folder']}: {latest['machine']}, {latest['dtype']})"


def _of_prompts(config: SweepConfig, name: str) -> str:
    """Return a line on field `name`, the sweep's system prompt or prefiller, and on prompts with another one."""
    n_own = sum(getattr(prompt, name) is not None for prompt in config.prompts)
    if n_own == len(config.prompts):
        return "each prompt's own"
    with_own = f"; {n_own:,} of the prompts have their own" if n_own else ""
    text = getattr(config, name)
    return (json.dumps(text, ensure_ascii=False) if text else "none") + with_own
