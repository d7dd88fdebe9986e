"""Timers of decoding: the engine in any configuration, and transformers' `generate`.

All decode the same prompts greedily and make the same number of tokens; EOS ends nothing. The clock starts once every
slot has UNTIMED_TOKENS tokens: the first comes from prefill, and the step of the second may still allocate memory. It
stops with the last token, after the device has finished.
"""

import math
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from eexit.costs.operations import COSTS, OpCounts, cost_columns
from eexit.decode.engine import Engine
from eexit.decode.requests import Outcome, Request, RequestFailure, RequestOutput
from eexit.errors import UsageError
from eexit.plan.configuration import Configuration, HFGenerate, NoExit
from eexit.plan.runs import Run
from eexit.plan.sweep_config import SweepConfig
from eexit.studies.timing.plain_generate import Prompt, generate_greedily, plain_model, settings_of
from eexit.sweeps.generator import ModelGenerator

UNTIMED_TOKENS = 2  # of each row

Alternative = Configuration | HFGenerate


@dataclass(frozen=True)
class Timing:
    """Timed tokens of all slots, their seconds, and their multiply-adds; None: unknown.

    `study_tables.TIMINGS` defines each.
    """

    tokens: int
    seconds: float
    macs_full: float | None = None
    macs_required: float | None = None
    macs_executed: float | None = None
    drafted: int | None = None
    accepted: int | None = None


class Stopwatch:
    """Timer of a decoder that reports tokens as `Engine.generate` does, from every slot's second token on."""

    def __init__(self, device: torch.device, n_rows: int):
        self._device, self._untimed = device, n_rows * (UNTIMED_TOKENS - 1)
        self._began: float | None = None
        self.tokens = 0  # since it began

    def progress(self, n_tokens: int) -> None:
        if self._began is not None:
            self.tokens += n_tokens
            return
        self._untimed -= n_tokens
        if self._untimed <= 0:
            self._began = now(self._device)

    def stop(self) -> float:
        """Return the seconds since the start; NaN if slots ended before it."""
        return now(self._device) - (math.nan if self._began is None else self._began)


class DecodeTimer:
    """A sweep's model, in the engine and as transformers loads it, with the prompts to time.

    Each prompt is decoded for `n_tokens`, or for fewer if `lengths` has its id. Raises `UsageError` if the model can't
    be loaded or no prompt can be used.
    """

    def __init__(self, config: SweepConfig, device: str, n_tokens: int, lengths: Mapping[str, int] | None = None):
        generator = ModelGenerator(config, device)
        self.decoder, self.student = generator.engine.decoder, generator.engine.student
        usable = usable_prompts(generator, n_tokens)
        self.prompt_ids, self.prompts = list(usable), list(usable.values())
        self._length_of = {prompt: (lengths or {}).get(prompt_id, n_tokens) for prompt_id, prompt in usable.items()}
        self.plain = plain_model(generator, device)
        self.unit_costs = generator.unit_costs
        self.seed = config.seeds[0]
        self.n_tokens = n_tokens
        self.decoding = replace(
            generator.engine.decoding, eos_token_ids=frozenset(), temperature=0.0, top_p=1.0, record_top_k=0,
            record_full_depth="none",
        )  # fmt: skip

    def warm_up(self, alternative: Alternative, batch: int, n_tokens: int) -> float:
        """Decode one batch for a number of tokens, and return the seconds."""
        began = time.perf_counter()
        self._time(alternative, batches(self.prompts, batch)[0], n_tokens)
        return time.perf_counter() - began

    def time(self, alternative: Alternative, batch: int, prompts: Sequence[Prompt]) -> tuple[Timing, list[list[int]]]:
        """Decode prompts in batches; return the timing and the tokens of each. Raise `UsageError` for a failed request.

        Prompts of a batch have similar lengths, and the shortest text counts for all. A draft's tokens before the clock
        starts are not timed.
        """
        by_length = sorted(prompts, key=self._length, reverse=True)
        parts = [self._time(alternative, rows, min(map(self._length, rows))) for rows in batches(by_length, batch)]
        timed = [timing for timing, _ in parts if timing.tokens] or [timing for timing, _ in parts[:1]]
        return _summed(timed), [text for _, texts in parts for text in texts]

    def _length(self, prompt: Prompt) -> int:
        return self._length_of.get(prompt, self.n_tokens)

    def _time(self, alternative: Alternative, rows: Sequence[Prompt], n_tokens: int) -> tuple[Timing, list[list[int]]]:
        watch = Stopwatch(self.decoder.device, len(rows))
        if isinstance(alternative, HFGenerate):
            made = generate_greedily(self.plain, rows, n_tokens, watch.progress, settings_of(alternative))
            seconds = watch.stop()
            assert made.shape[1] == n_tokens, "all sequences ended early"
            return Timing(watch.tokens, seconds), made.tolist()
        decoding = replace(self.decoding, max_new_tokens=n_tokens, max_rows=len(rows))
        engine = Engine(self.decoder, decoding, self.student)
        outcomes = dict(engine.generate([Request(row, alternative, self.seed) for row in rows], watch.progress))
        seconds = watch.stop()
        costs = [self._costs(alternative, len(row), outcomes[index]) for index, row in enumerate(rows)]
        if engine.n_slots < len(rows):
            raise UsageError(f"there is memory for {engine.n_slots} sequences only: lower --batch {len(rows)}")
        traces = [outcome for _, outcome in sorted(outcomes.items()) if isinstance(outcome, RequestOutput)]
        texts = [trace.token_id_T.tolist() for trace in traces]
        return replace(_summed(costs), tokens=watch.tokens, seconds=seconds), texts

    def _costs(self, configuration: Configuration, n_prompt: int, outcome: Outcome) -> Timing:
        """Return the multiply-adds of a request's timed tokens: of all decided ones but those before the clock starts.

        Raises `UsageError` for a failed request.
        """
        if isinstance(outcome, RequestFailure):
            raise UsageError(f"{configuration.key} can't be timed: {outcome.error}")
        counts, exit_layer_T, rounds = outcome.counts, outcome.exit_layer_T[1:], outcome.rounds
        assert counts, "only oracles have none"
        n_run = n_untimed = UNTIMED_TOKENS - 1
        if rounds:
            n_run, n_untimed = int(rounds.length_R[0]), int(rounds.emitted_R(len(exit_layer_T))[0])
        untimed = OpCounts(*(getattr(counts, field.name)[:n_run] for field in fields(OpCounts)))
        of_all, of_untimed = (
            cost_columns(self.unit_costs, run, exits, self.decoding.exitable_layers, configuration.mode, n_prompt)
            for run, exits in ((counts, exit_layer_T), (untimed, exit_layer_T[:n_untimed]))
        )
        costs: dict[str, Any] = {name: float(of_all[name] or 0) - float(of_untimed[name] or 0) for name in COSTS}
        if rounds:
            costs |= {name: int(getattr(rounds, f"{name}_R")[1:].sum()) for name in ("drafted", "accepted")}
        return Timing(0, 0, **costs)


def _summed(parts: Sequence[Timing]) -> Timing:
    """Return the sum of several timings; a cost is None if it is unknown for any of them."""
    columns: dict[str, Any] = {}
    for name in (field.name for field in fields(Timing)):
        values = [getattr(part, name) for part in parts]
        columns[name] = None if None in values else sum(values)
    return Timing(**columns)


def usable_prompts(generator: ModelGenerator, n_tokens: int) -> dict[str, Prompt]:
    """Return prompt id → token ids, for prompts with room for `n_tokens` after them. Raise `UsageError` for none."""
    config, context_of = generator.config, generator.engine.decoder.context_of
    runs = [Run("", prompt, NoExit(), config.seeds[0]) for prompt in config.prompts]
    tokenized = {key[0]: request.prompt_token_ids for key, request in generator.requests(runs).items()}
    prompts = {prompt.id: tokenized[prompt.id] for prompt in config.prompts if tokenized.get(prompt.id)}
    room = {ids: context - len(ids) for ids in prompts.values() if (context := context_of(len(ids))) is not None}
    usable = {prompt_id: ids for prompt_id, ids in prompts.items() if room.get(ids, n_tokens) >= n_tokens}
    if not usable:
        most = f": there is room for {max(room.values())}" if room else ""
        raise UsageError(f"none of the {len(config.prompts)} prompts can be followed by {n_tokens} tokens{most}")
    return usable


def batches(prompts: Sequence[Prompt], size: int) -> list[list[Prompt]]:
    """Return all prompts in batches of one size; prompts repeat to fill the last batch."""
    n_batches = -(-len(prompts) // size)
    rows = list(islice(cycle(prompts), n_batches * size))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def now(device: torch.device) -> float:
    """Return the seconds of a clock, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def describe_machine(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor with its cores and instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    amx = ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{_processor()} ({cores} cores, {torch.backends.cpu.get_cpu_capability()}{amx})"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
