"""The generator of a sweep: a loaded model that can execute any run of the sweep."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from eexit.costs.operations import cost_columns, prompt_cost, run_counts
from eexit.cpu.freed_memory import give_back_freed_memory
from eexit.decode.engine import Engine
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Outcome, Request, RequestFailure, RequestOutput
from eexit.errors import first_line, reason_of
from eexit.method.modes import refuse_mode
from eexit.method.screen import Screen
from eexit.model.adapters import sharing
from eexit.model.chat import Tokenizer, before_answer, format_and_tokenize_input
from eexit.model.decoders import DecoderPair, build_decoders
from eexit.model.loading import eos_token_ids, load_model_and_tokenizer
from eexit.model.support import refuse_hooked
from eexit.plan.configuration import NORMAL, Configuration, Draft, NoExit, same_for_every_seed, without_mode
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.field_types import NO_MARKS
from eexit.plan.runs import Run, configurations
from eexit.plan.sweep_config import SweepConfig
from eexit.quality.grading import SlowPatternError, grade
from eexit.quality.thinking import THINKING_MARKS, AnswerPattern, ThinkingSpans, ThinkingTags
from eexit.results.shard_tables import (
    ProgressCallback,
    ShardTables,
    error_results,
    generation_columns,
    part_columns,
    run_columns,
    text_pieces,
    token_text,
    tokens_table,
)
from eexit.results.tables import GENERATIONS, TOKENS
from eexit.sweeps.draft_columns import draft_columns
from eexit.sweeps.head_moment import moment_of, read_moment
from eexit.sweeps.load_artefacts import load_gate, load_kv_maps, load_probe, load_readout

Key = tuple[str, int, str]  # prompt id, seed and configuration key of a run


def thinks(config: SweepConfig, tokenizer: Tokenizer) -> ThinkingTags | AnswerPattern | None:
    """Return the marks by which a sweep's texts delimit the chain of thought; None without marks."""
    if config.thinking_until is not None:
        return AnswerPattern(config.thinking_until)
    marks = thinking_marks(tokenizer) if config.thinking is None else config.thinking
    return ThinkingTags(*marks) if marks and marks != (NO_MARKS,) else None


def thinking_marks(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """Return the opening and closing mark of a chain of thought, if the chat template or the vocabulary has both."""
    names, template = tokenizer.get_vocab(), tokenizer.get_chat_template() if tokenizer.chat_template else ""
    for opening, closing in THINKING_MARKS:
        if {opening, closing} <= names.keys() or (opening in template and closing in template):
            return opening, closing
    return None


def decoding_of(
    config: SweepConfig, decoders: DecoderPair, eos_token_ids: frozenset[int], moment: Path | None = None
) -> DecodingConfig:
    """Return the decoding options of a sweep, with the artefacts of its rules and modes. Packaged settings use it too.

    `moment` is the file of the second moment that fits a screen, if not in the user's cache. Raise `UsageError` if a
    mode, a rule or an artefact does not fit the model.
    """
    decoder, student = decoders.full_depth, decoders.early_exit
    for mode in {configuration.mode for configuration in configurations(config)}:
        refuse_mode(mode, student)
    layers = resolve_exitable_layers(config, decoder.n_layers)
    screen = None
    if config.screen_size:
        moment_HH = read_moment(moment).to(student.device) if moment else moment_of(student)
        screen = Screen(student, config.screen_size, moment_HH)
    return DecodingConfig(
        exitable_layers=layers,
        max_new_tokens=config.max_new_tokens,
        eos_token_ids=eos_token_ids,
        readout=load_readout(config, layers, decoder),
        probe=load_probe(config, layers, decoder),
        gate=load_gate(config, layers, decoder),
        kv_maps=load_kv_maps(config, layers, decoder),
        screen=screen,
        temperature=config.temperature,
        top_p=config.top_p,
        record_top_k=min(config.record_top_k, decoder.vocabulary),
        record_full_depth=config.record_full_depth,
    )


class ModelGenerator:
    """Generator that loads a sweep's model once. It may use `memory_share` of a GPU's memory.

    A `loaded` model, with its tokenizer, stays unchanged: its weights are shared, and hooks in its layers run. Raise
    `UsageError` if the model can't be loaded or is not supported, or if a mode, a rule or an adapter does not fit it.
    """

    def __init__(
        self,
        config: SweepConfig,
        device: str = "auto",
        memory_share: float = 1.0,
        loaded: tuple[PreTrainedModel, Tokenizer] | None = None,
    ):
        self.config = config
        if loaded is None:
            self.model, self.tokenizer = load_model_and_tokenizer(config, device)
        else:
            refuse_hooked(loaded[0])
            self.model, self.tokenizer = sharing(loaded[0]).eval(), loaded[1]
        both = build_decoders(self.model, config.adapter, packed=True)
        decoding = replace(
            decoding_of(config, both, eos_token_ids(self.model, self.tokenizer)), memory_share=memory_share
        )
        self.unit_costs = measure_unit_costs(both.full_depth, decoding)
        self.engine = Engine(both.full_depth, decoding, both.early_exit)
        self.text_of = cache(partial(token_text, self.tokenizer))
        self._before = cache(partial(before_answer, self.tokenizer))
        self._thinks = thinks(config, self.tokenizer)
        self._same_for_every_seed = same_for_every_seed(configurations(config), config.temperature)

    def generate(
        self, runs: Sequence[Run], progress: ProgressCallback = lambda tokens, runs=0, observed=0: None
    ) -> ShardTables:
        """Execute the runs together. A run that fails becomes an error row, and does not affect the others.

        If the sweep has mode `normal`, each prompt and seed is decoded in it too, for comparison. A `normal` run that
        is not among `runs` is not returned.
        """
        requests = self.requests(runs)
        ends = _RunProgress(progress, Counter(map(requests.get, map(_key, runs))))
        limits = {run.prompt.id: self.config.limit_of(run.prompt) for run in runs}
        outcomes: dict[Key, Outcome] = {}
        for limit in dict.fromkeys(limits.values()):
            self._reconfigure(max_new_tokens=limit)
            outcomes |= self._outcomes({key: each for key, each in requests.items() if limits[key[0]] == limit}, ends)
        give_back_freed_memory()
        parts = [self._results(run, requests, outcomes) for run in runs]
        return ShardTables(
            pa.concat_tables([GENERATIONS.empty_table(), *(part.generations for part in parts)]),
            pa.concat_tables([TOKENS.empty_table(), *(part.tokens for part in parts)]),
        )

    def requests(self, runs: Sequence[Run]) -> dict[Key, Request]:
        """Return the requests by prompt, seed and configuration; requests of one prompt are adjacent.

        Runs whose prompt can't be tokenised are omitted.
        """
        requests: dict[Key, Request] = {}
        for run in sorted(runs, key=lambda run: run.prompt.id):
            token_ids, error = self._tokenize(run)
            if error:
                continue
            normal = replace(run, configuration=NoExit())
            for each in (normal, run) if NORMAL in self.config.modes else (run,):
                requests.setdefault(_key(each), Request(token_ids, each.configuration, run.seed))
        return requests

    def _tokenize(self, run: Run) -> tuple[tuple[int, ...], str]:
        """Return the token ids of a run's prompt, or the error if it can't be tokenised.

        An empty prompt has no tokens, even if a chat template would add some.
        """
        if not run.prompt.prompt.strip():
            return (), ""
        try:
            inputs = format_and_tokenize_input(
                run.prompt.prompt,
                self.config.system_of(run.prompt),
                self.config.prefiller_of(run.prompt),
                self.tokenizer,
                control_tokens=self.config.control_tokens,
            )
        except Exception as error:  # a chat template or a tokenizer may raise anything: it becomes the run's error
            return (), f"the prompt can't be tokenised: {type(error).__name__}: {first_line(error)}"
        return tuple(inputs["input_ids"][0].tolist()), ""

    def _outcomes(self, requests: dict[Key, Request], ends: "_RunProgress") -> dict[Key, Outcome]:
        """Return the outcome of each request. Those with the same tokens share one, unless the first of them fails."""
        first: dict[Request, Key] = {}
        for key, request in requests.items():
            first.setdefault(self._that_stands_for(request), key)
        outcomes = self._decode_by_key({key: requests[key] for key in first.values()}, ends)
        left: dict[Key, Request] = {}
        for key in [key for key in requests if key not in outcomes]:
            outcome = outcomes[first[self._that_stands_for(requests[key])]]
            if isinstance(outcome, RequestFailure):
                left[key] = requests[key]
            else:
                outcomes[key] = self._in_its_mode(outcome, requests[key])
                ends.end(requests[key])
        return outcomes | self._decode_by_key(left, ends)

    def _that_stands_for(self, request: Request) -> Request:
        """Return the request that represents all with the same tokens and exits, whatever their seed or mode."""
        seed = 0 if request.configuration.key in self._same_for_every_seed else request.seed
        return replace(request, seed=seed, configuration=without_mode(request.configuration))

    def _in_its_mode(self, trace: RequestOutput, request: Request) -> RequestOutput:
        """Return a request's output, given `trace`, the output with equal tokens and exits in another mode or seed."""
        configuration = request.configuration
        if without_mode(configuration) == configuration:
            return trace
        layer_X = np.array([*self.engine.decoding.exitable_layers, self.engine.decoder.n_layers - 1])
        counts = run_counts(configuration, layer_X, trace.decided_exit_layer_T, prompt=trace.prompt)
        return replace(trace, counts=counts)

    def _decode_by_key(self, requests: dict[Key, Request], ends: "_RunProgress") -> dict[Key, Outcome]:
        return dict(zip(requests, self._decode(list(requests.values()), ends), strict=True))

    def _decode(self, requests: list[Request], ends: "_RunProgress") -> list[Outcome]:
        """Decode the requests together; if the model raises, find the unfinished ones at fault by bisection."""
        outcomes: dict[int, Outcome] = {}
        reason, out_of_memory = "", False
        try:
            for index, outcome in self.engine.generate(requests, ends.progress, ends.observed):
                outcomes[index] = outcome
                ends.end(requests[index])
        except Exception as error:  # a model may raise anything: it becomes the run's error
            reason = reason_of(error)
            of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
            out_of_memory = of_memory or "can't allocate memory" in str(error)
        # Outside the except block, the exception no longer keeps the KV cache in its frames alive.
        left = [index for index in range(len(requests)) if index not in outcomes]
        again = [requests[index] for index in left]
        if not again:
            found: list[Outcome] = []
        elif out_of_memory and self._fewer_rows():
            found = self._decode(again, ends)
        elif len(requests) == 1:
            found = [RequestFailure(reason)]
        else:
            half = len(again) // 2
            found = self._decode(again[:half], ends) + self._decode(again[half:], ends)
        outcomes |= zip(left, found, strict=True)
        return [outcomes[index] for index in range(len(requests))]

    def _fewer_rows(self) -> bool:
        """Halve the number of slots from now on; return False if it is 1 already."""
        if rows := self.engine.n_slots // 2:
            self._reconfigure(max_rows=rows)
        return rows > 0

    def _reconfigure(self, **changed: Any) -> None:
        """Change fields of the engine's `DecodingConfig`. Without a changed value, the engine stays the same object."""
        engine = self.engine
        if any(getattr(engine.decoding, name) != value for name, value in changed.items()):
            self.engine = Engine(engine.decoder, replace(engine.decoding, **changed), engine.student)

    def _results(self, run: Run, requests: dict[Key, Request], outcomes: dict[Key, Outcome]) -> ShardTables:
        key = _key(run)
        if key not in outcomes:
            return error_results([run], self.config, self._tokenize(run)[1])
        outcome = outcomes[key]
        if isinstance(outcome, RequestFailure):
            return error_results([run], self.config, outcome.error)
        other, pieces = outcomes.get((run.prompt.id, run.seed, NORMAL)), text_pieces(self.tokenizer, outcome)
        normal, text = other if isinstance(other, RequestOutput) else None, "".join(pieces)
        try:
            chains = self._chains(run, text)
            marked = grade(run.prompt, chains.answer(text) if chains else text)
        except SlowPatternError as error:
            return error_results([run], self.config, str(error))
        part_T, n_prompt = chains.parts(pieces) if chains else None, len(requests[key].prompt_token_ids)
        layers, n_layers = self.engine.decoding.exitable_layers, self.engine.decoder.n_layers
        row: dict[str, Any] = {
            **run_columns(run, self.config),
            "prompt_token_ids": requests[key].prompt_token_ids,
            "n_prompt_tokens": n_prompt,
            **generation_columns(outcome, normal, pieces, layers, n_layers),
            **(part_columns(outcome, part_T, layers, n_layers) if part_T else {}),
            "thinking_closed": chains.closed if chains else None,
            **marked.columns,
            **cost_columns(
                self.unit_costs, outcome.counts, outcome.decided_exit_layer_T, layers, run.configuration.mode, n_prompt,
                outcome.prompt,
            ),
            "macs_prompt": prompt_cost(self.unit_costs, n_prompt),
            **self._draft_columns(run.configuration, outcome),
        }  # fmt: skip
        tokens = tokens_table(run, outcome, pieces, self.text_of, part_T)
        return ShardTables(pa.Table.from_pylist([row], GENERATIONS), tokens)

    def _chains(self, run: Run, text: str) -> ThinkingSpans | None:
        """Return the text's chain of thought; None if nothing marks it. Raise `SlowPatternError`."""
        if self._thinks is None:
            return None
        before = self.config.prefiller_of(run.prompt)
        if isinstance(self._thinks, ThinkingTags):  # the chat template may have written a mark already
            before = self._before(self.config.system_of(run.prompt)) + before
        return self._thinks.chains(before, text)

    def _draft_columns(self, configuration: Configuration, outcome: RequestOutput) -> dict[str, Any]:
        if not isinstance(configuration, Draft) or not outcome.rounds:
            return {}
        n_decided, layers = len(outcome.token_id_T) - 1, self.engine.decoding.exitable_layers
        return draft_columns(outcome.rounds, configuration, n_decided, self.unit_costs, layers)


@dataclass(frozen=True)
class _RunProgress:
    """Progress of runs: reports each finished run to `progress` once, even if it is decoded again."""

    progress: ProgressCallback
    runs_left: Counter[Request | None]  # by request; None for runs whose prompt can't be tokenised

    def observed(self, n_tokens: int) -> None:
        self.progress(0, observed=n_tokens)

    def end(self, request: Request) -> None:
        if n_runs := self.runs_left.pop(request, 0):
            self.progress(0, n_runs)


def _key(run: Run) -> Key:
    return run.prompt.id, run.seed, run.configuration.key
