"""The plan that `--dry-run` prints: everything that determines the results, and the amount of work."""

import json
from contextlib import suppress
from dataclasses import asdict
from fnmatch import fnmatch
from typing import Final

from cluster.console.flags_from_config import CommandOptions
from cluster.sweep_job import SweepJob
from eexit.model.sources import DEFAULT_MODEL, files_of, hub_is_reachable
from eexit.output.locations import redact
from eexit.output.text import describe_precision, format_bytes, pluralize
from eexit.plan.artefacts import ADAPTER, KV_MAPS, PROBE
from eexit.plan.model_inspection import inspect_model
from eexit.plan.runs import configurations
from eexit.plan.splits import kinds
from eexit.plan.sweep_config import SweepConfig
from eexit.results.store.extend import extended_config, growth, stored_config, with_earlier_texts
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import MissingManifestError, read_manifest
from eexit.sweeps.forecast import forecast_lines

OBSERVED: Final = {  # for values of `--record-full-depth` other than all
    "final": "full depth at its final layer alone",
    "none": "nothing of full depth: texts and answers only",
}


def describe_plan(job: SweepJob, options: CommandOptions) -> str:
    """Return the plan as lines of text, from the model's facts; write nothing. Raise `UsageError` for bad input."""
    config, by = _grown(job)
    model, exitable_layers, memory = inspect_model(config, job.rows_per_shard)
    work = forecast_lines(config, job.rows_per_shard, model, memory, job.out)
    lines = {
        "model": f"{config.model} ({model['architecture']}, {pluralize(model['n_layers'], 'layer')}, "
        f"{describe_precision(model, config.dtype)})",
        "prompts": f"{len(config.prompts):,} from {options.prompts_from}{_kinds_and_answers(config)}",
        "system prompt": _of_prompts(config, "system"),
        "prefiller": _of_prompts(config, "prefiller"),
        "control tokens": "read in prompts" if config.control_tokens else "plain text in prompts",
        "configurations": ", ".join(configuration.key for configuration in configurations(config)),
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
        **work,
        **({} if memory else {"memory": "unknown"}),
        "to fetch": _to_fetch(config),
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


def _of_prompts(config: SweepConfig, name: str) -> str:
    """Return a line on field `name`, the sweep's system prompt or prefiller, and on prompts with another one."""
    n_own = sum(getattr(prompt, name) is not None for prompt in config.prompts)
    if n_own == len(config.prompts):
        return "each prompt's own"
    with_own = f"; {n_own:,} of the prompts have their own" if n_own else ""
    text = getattr(config, name)
    return (json.dumps(text, ensure_ascii=False) if text else "none") + with_own
