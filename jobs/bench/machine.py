"""Describing the machine of a measurement, and what it takes to start a process on it."""

import platform
import re
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import PreTrainedModel

from cluster.console.sweep_flags import load_job
from eexit.cpu import kernels
from eexit.decode.steps.batch import Batch
from eexit.generator import ModelGenerator
from eexit.model.loading import estimate_memory
from eexit.plan.config import SweepConfig
from eexit.plan.runs import Run, configurations, count_runs, plan_runs
from eexit.studies.timing.contenders import describe_machine


def machine(model: PreTrainedModel, config: SweepConfig) -> dict[str, str]:
    """The hardware, the model, its dtype and kernels, and the versions of packages."""
    no_logits = torch.empty(0, 1, 0, dtype=model.dtype, device=model.device)
    return {
        "machine": describe_machine(model.device),
        "model": config.model,
        "dtype": str(model.dtype).removeprefix("torch."),
        "kernels": "torch's" if kernels.divergence(no_logits, 0) is None else "compiled",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
    }


def start(arguments: Sequence[str], default: Path, n_rows: int, n_tokens: int, began: float) -> dict[str, float]:
    """Of this process, which started at `began`: seconds to a first token, then megabytes for a whole batch.

    Seconds are those since the start. Megabytes are the running process's peak over what it held with everything
    imported (on a GPU the allocator's peak), less weights and keys and values.
    """
    imported, held = time.time(), _megabytes("VmRSS")
    job, _ = load_job(arguments, default)
    config = job.config.model_copy(update={"max_new_tokens": n_tokens})
    generator = ModelGenerator(config, job.device)
    loaded = time.time()
    runs = runs_for(config, n_rows)
    firsts: list[float] = []
    generator.generate(runs[:1], lambda tokens, runs=0: firsts.append(time.time()))
    _forget_peak()
    generator.generate(runs)
    on_gpu = generator.model.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else _megabytes("VmHWM") - held
    length = n_tokens + max(len(request.prompt_token_ids) for request in generator.requests(runs).values())
    weights, *_ = estimate_memory(config)
    cache = n_rows * Batch.row_bytes(
        generator.engine.decoder, generator.engine.decoding, length, list(generator.requests(runs).values())
    )
    return {
        "seconds to imported": imported - began,
        "to loaded": loaded - began,
        "to a first token": firsts[0] - began,
        f"MB with {n_rows} rows": peak,
        "less weights and cache": peak - (weights + cache) / 1e6,
    }


def runs_for(config: SweepConfig, n_rows: int) -> list[Run]:
    """The first `n_rows` runs of the sweep, with as many seeds as that takes; of a grid with more, the last ones."""
    seeds = tuple(range(-(-n_rows // count_runs(config))))
    first = max(0, len(configurations(config)) - n_rows)
    return list(plan_runs(config.model_copy(update={"seeds": seeds})))[first : first + n_rows]


def _forget_peak() -> None:
    """So that the peak is the running engine's, without what loading took for a moment."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def _megabytes(name: str) -> float:
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else float("nan")
