"""What a sweep would do, for `--dry-run`: everything that results depend on, and how much work it is."""

import json
import math
from collections.abc import Sequence

from cluster.estimate import Memory
from cluster.job import SweepJob
from cluster.progress import counted
from eexit.config import SweepConfig
from eexit.plan import Configuration, configurations, count_runs


def describe_plan(
    job: SweepJob,
    prompts_from: str,
    out: str,
    model: dict,
    exitable_layers: Sequence[int],
    memory: Memory | None,
    rows: int,
    prompt_tokens: int,
) -> str:
    """A line for each thing. `rows` is that of the largest shard; `model` has the fields of a `ModelDescription`."""
    grid, n_runs = configurations(job), count_runs(job)
    product = (
        f"{counted(len(job.prompts), 'prompt')} × {counted(len(grid), 'configuration')} × "
        f"{counted(len(job.seeds), 'seed')}"
    )
    lines = {
        "model": f"{job.model} ({model['architecture']}, {counted(model['n_layers'], 'layer')}, dtype {job.dtype})",
        "prompts": f"{len(job.prompts):,} from {prompts_from}",
        "system prompt": _system(job),
        "prefiller": _quoted(job.prefiller),
        "control tokens": "read in prompts" if job.control_tokens else "plain text in prompts",
        "configurations": ", ".join(map(_name, grid)),
        "exit layers": f"{' '.join(map(str, exitable_layers))} (the final one is {model['n_layers'] - 1})",
        "readout": job.readout,
        "next token": f"sampled, temperature {job.temperature:g}, top-p {job.top_p:g}" if job.temperature else "greedy",
        "recorded": f"the {counted(job.record_top_k, 'likeliest token')} of each layer"
        if job.record_top_k
        else "no top tokens",
        "seeds": " ".join(map(str, job.seeds)),
        "runs": f"{n_runs:,} = {product}",
        "shards": f"about {math.ceil(n_runs / rows):,} of up to {counted(rows, 'run')}",
        "tokens": f"up to {n_runs * job.max_new_tokens:,} new ones, {job.max_new_tokens:,} a run; "
        f"prompts have about {prompt_tokens:,}",
        "actor's memory": f"about {memory}" if memory else "unknown",
        "out": out,
    }
    return "\n".join(f"{name:14}  {text}" for name, text in lines.items())


def _name(configuration: Configuration) -> str:
    factor = configuration.kl_factor
    return configuration.mode if factor is None else f"{configuration.mode} {factor:g}"


def _system(config: SweepConfig) -> str:
    n_own = sum(prompt.system is not None for prompt in config.prompts)
    if n_own == len(config.prompts):
        return "each prompt's own"
    others = f"; {n_own:,} of the prompts have their own" if n_own else ""
    return _quoted(config.system) + others


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else "none"
