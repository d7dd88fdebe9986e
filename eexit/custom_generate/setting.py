"""A packaged setting, as a callable for transformers' `generate`.

    setting = eexit.load("settings/mine")
    output = model.generate(**inputs, custom_generate=setting)

It is a thin layer over the batched engine, on the same code path as sweeps. Shapes: B sequences, N generated tokens (of
the longest).
"""

import warnings
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import LongTensor, Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

from eexit.costs.operations import COSTS, UnitCosts, cost_columns
from eexit.custom_generate.call_arguments import (
    GenerateCall,
    StopChecker,
    dropped_arguments,
    names_an_eos_token,
    parse_call,
    with_stop_strings,
)
from eexit.custom_generate.description import describe_package
from eexit.custom_generate.model_check import check_model
from eexit.custom_generate.package import MOMENT, SettingPackage, packaged_config, read_package
from eexit.decode.engine import Engine
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Request, RequestFailure, RequestOutput
from eexit.errors import UsageError
from eexit.method.custom import use_files
from eexit.model.adapters import sharing
from eexit.model.chat import Tokenizer
from eexit.model.decoders import DecoderPair, build_decoders
from eexit.model.quantization import dtype_name
from eexit.model.structure import copied
from eexit.model.support import refuse_autocast, refuse_training
from eexit.output.locations import path_from
from eexit.output.text import in_python, unapplied_sentence
from eexit.plan.runs import LENGTH
from eexit.results.configuration_means import saved_share
from eexit.sweeps.generator import decoding_of

PADDING: Final = -1  # in place of an exit layer
_counting: Final = Lock()  # shared by all stats, since an object with a lock can't be copied or pickled


@dataclass
class ExitOutput(GenerateDecoderOnlyOutput):
    """Output of `generate` with `return_dict_in_generate`.

    `exit_layers` (B, N) are the exit layers of generated tokens, −1 after a sequence's end. `costs` has, for each
    sequence, the columns of `generations` with the cost of its decided tokens, such as `macs_executed`, in
    multiply-adds.
    """

    exit_layers: Tensor | None = None
    costs: Sequence[Mapping[str, float | int | None]] | None = None


@dataclass(frozen=True)
class _BoundModel:
    """A setting bound to a model: everything that stays the same between calls, so that several threads may use it."""

    decoders: DecoderPair
    decoding: DecodingConfig
    unit_costs: UnitCosts


# Outside of settings, so that they can be copied and pickled, and with weak keys, so that models can be freed.
_READY: Final[MutableMapping["Setting", MutableMapping[PreTrainedModel, _BoundModel]]] = WeakKeyDictionary()


class SettingStats:
    """Counters of generated sequences and their costs. Threads may share them."""

    def __init__(self, n_layers: int) -> None:
        self._n_layers = n_layers
        self._totals: Counter[str] = Counter()
        self._exits: Counter[int] = Counter()

    def add(self, trace: RequestOutput, costs: Mapping[str, float | int | None]) -> None:
        """Count a sequence and its cost (`eexit.costs.operations.cost_columns`)."""
        decided = trace.exit_layer_T[1:]
        with _counting:
            self._exits.update(decided.tolist())
            self._totals["sequences"] += 1
            self._totals["tokens"] += len(trace.token_id_T)
            self._totals["decided_tokens"] += len(decided)
            self._totals["layers_run"] += int(costs["layers_run"] or 0)
            self._totals["layers_of_full_depth"] += self._n_layers * len(decided)
            self._totals["drafted_tokens"] += int(trace.drafted_T.sum())
            self._totals.update({name: int(costs[name] or 0) for name in COSTS})

    def read(self) -> dict[str, Any]:
        """Return the total of each counter, `exits` by layer, and `saved`.

        Layers and multiply-adds cover decided tokens. `saved` is 1 − macs_executed / macs_full, the saved share of
        full-depth multiply-adds; None before any.
        """
        with _counting:
            totals, exits = Counter(self._totals), Counter(self._exits)
        counted = "sequences", "tokens", "decided_tokens", "drafted_tokens", "layers_run", "layers_of_full_depth"
        full = totals["macs_full"]
        return {
            **{name: totals[name] for name in (*counted, *COSTS)},
            "exits": dict(sorted(exits.items())),
            "saved": saved_share(totals["macs_executed"], full) if full else None,
        }


def load(folder: str | Path, packed: bool = False, use: str | Path | Sequence[str | Path] = ()) -> "Setting":
    """Return the setting in a folder of `eexit package`, as a `custom_generate` for transformers' `generate`.

    With `packed`, the model's linear layers are copied once into a layout that is faster on CPUs and takes as much
    memory again; otherwise nothing is copied. `use` are files with the setting's custom rules and modes, unchanged,
    which are run; their text in the folder never is. Raise `UsageError` for a folder that is no setting, or was
    altered.
    """
    try:
        use_files(use)
        path = path_from(folder, "folder")
        return Setting(read_package(path), path, packed)
    except UsageError as error:
        raise UsageError(in_python(str(error), ["use"])) from error.__cause__


class Setting:
    """Callable that generates with exits, using a model's own layers.

    The model stays unchanged, and several threads may use it at once.
    """

    def __init__(self, package: SettingPackage, folder: Path, packed: bool = False):
        """Raise `UsageError` for a setting that this version does not support."""
        self.package, self.folder, self._packed = package, folder, packed
        self._config, self._follows = packaged_config(package, folder), package.setting
        self._stats = SettingStats(package.model.n_layers)

    def __repr__(self) -> str:
        return f"<setting {self.package.key} of {self.package.model.name}, from {self.folder}>"

    @property
    def stats(self) -> dict[str, Any]:
        """Counters since the setting was loaded, such as `tokens`, `exits` by layer and `saved`."""
        return self._stats.read()

    def describe(self) -> str:
        """Return sentences about the setting, its savings, and the scope of its guarantee."""
        return describe_package(self.package)

    def generate(
        self, model: PreTrainedModel, *inputs: Tensor, tokenizer: Tokenizer | None = None,
        stop_strings: str | Sequence[str] | None = None, **asked: Any,
    ) -> Any:  # fmt: skip
        """Call `model.generate(…, custom_generate=self)`, with support for stop strings and a streamer.

        By itself, transformers' `generate` passes a callable neither the streamer nor the tokenizer for stop strings.
        """
        asked = with_stop_strings(model, asked, tokenizer, stop_strings)
        return model.generate(*inputs, custom_generate=partial(self, **dropped_arguments(asked)), **asked)  # type: ignore[operator]  # of a mixin

    def __call__(
        self, model: PreTrainedModel, input_ids: Tensor, logits_processor: Sequence[Any] = (),
        stopping_criteria: Sequence[StoppingCriteria] = (), generation_config: GenerationConfig | None = None,
        seed: int | None = None, **others: Any,
    ) -> Tensor | ExitOutput:  # fmt: skip
        """Return the sequences of `input_ids` with their generated tokens, (B, T + N), as `generate` returns them.

        `seed` fixes the draws, as a sweep's seed does, so that equal prompts have equal draws. Without it, sampling
        uses torch's generator, and a rule with random exits uses the sweep's seed. Raise `UsageError` for unsupported
        arguments.
        """
        asked = generation_config or model.generation_config or GenerationConfig()
        call = parse_call(input_ids, logits_processor, stopping_criteria, asked, others, seed, model.generation_config)
        if call.unapplied:
            warnings.warn(unapplied_sentence(call.unapplied, "a setting"), stacklevel=2)
        if not call.eos_token_ids and not names_an_eos_token(model):
            call = replace(call, eos_token_ids=frozenset(self.package.eos_token_ids))
        ready = self._ready_for(model)
        traces = self._decode(ready, call, input_ids.device)
        costs = [self._count(ready, prompt, trace) for prompt, trace in zip(call.prompts, traces, strict=True)]
        return self._returned(input_ids, call, traces, costs)

    def _ready_for(self, model: PreTrainedModel) -> _BoundModel:
        """Return the setting bound to this model, checking it once. Raise `UsageError` if it is for another model."""
        refuse_training(model)
        refuse_autocast(model.device)
        models = _READY.setdefault(self, WeakKeyDictionary())
        if model not in models:
            check_model(model, self.package, str(self.folder))
            # Only the outermost module is copied, so that the model can be freed. Packing changes the others too.
            own = sharing(model) if self._packed else copied(model)
            decoders = build_decoders(own, self._config.adapter, self._packed)
            moment = self.folder / MOMENT.format(dtype=dtype_name(model.dtype))
            decoding = decoding_of(self._config, decoders, frozenset(self.package.eos_token_ids), moment)
            decoding = replace(decoding, record_full_depth="none", record_top_k=0)
            models[model] = _BoundModel(decoders, decoding, measure_unit_costs(decoders.full_depth, decoding))
        return models[model]

    def _decode(self, ready: _BoundModel, call: GenerateCall, device: torch.device) -> list[RequestOutput]:
        _refuse_unknown_tokens(call.prompts, ready.decoders.full_depth.vocabulary)
        watcher = StopChecker(call.criteria, call.streamer, device)
        decoding = replace(
            ready.decoding, max_new_tokens=call.max_new_tokens, eos_token_ids=call.eos_token_ids,
            temperature=call.temperature, top_p=call.top_p,
            stop_fn=watcher if call.criteria or call.streamer is not None else None,
        )  # fmt: skip
        seeds = call.seeds or [self.package.seed] * len(call.prompts)
        requests = [Request(prompt, self._follows, seed) for prompt, seed in zip(call.prompts, seeds, strict=True)]
        engine, traces = Engine(ready.decoders.full_depth, decoding, ready.decoders.early_exit), {}
        for row, outcome in engine.generate(requests):
            if isinstance(outcome, RequestFailure):
                raise UsageError(f"sequence {row} can't be generated: {outcome.error}")
            traces[row] = outcome
            _warn_of_an_early_end(row, outcome, call.max_new_tokens)
        watcher.end()
        return [traces[row] for row in range(len(requests))]

    def _count(self, ready: _BoundModel, prompt: Sequence[int], trace: RequestOutput) -> dict[str, float | int | None]:
        """Return the cost of a sequence's decided tokens, and add it to `stats`."""
        exits, layers = trace.exit_layer_T[1:], ready.decoding.exitable_layers
        costs = cost_columns(ready.unit_costs, trace.counts, exits, layers, self._follows.mode, len(prompt))
        self._stats.add(trace, costs)
        return costs

    def _returned(
        self, input_ids: Tensor, call: GenerateCall, traces: Sequence[RequestOutput], costs: Sequence[dict[str, Any]]
    ) -> Tensor | ExitOutput:
        pad = min(call.eos_token_ids, default=0) if call.pad_token_id is None else call.pad_token_id
        generated_BN = _padded([trace.token_id_T for trace in traces], pad).to(input_ids)
        sequences = torch.cat([input_ids, generated_BN], 1)
        if not call.return_dict:
            return sequences
        exits_BN = _padded([trace.exit_layer_T for trace in traces], PADDING).to(input_ids)
        return ExitOutput(sequences=cast(LongTensor, sequences), exit_layers=exits_BN, costs=costs)


def _padded(rows: Sequence[np.ndarray], padding: int) -> Tensor:
    """Return arrays of different lengths, padded on the right, (B, N)."""
    longest = max(map(len, rows))
    return torch.tensor([[*row.tolist(), *[padding] * (longest - len(row))] for row in rows])


def _refuse_unknown_tokens(prompts: Sequence[Sequence[int]], vocabulary: int) -> None:
    for row, prompt in enumerate(prompts):
        for token_id in prompt:
            if not 0 <= token_id < vocabulary:
                raise UsageError(
                    f"sequence {row} has token {token_id}, and the model's vocabulary has the ids 0 to "
                    f"{vocabulary - 1}: use the model's own tokenizer"
                )


def _warn_of_an_early_end(row: int, trace: RequestOutput, max_new_tokens: int) -> None:
    n_tokens = len(trace.token_id_T)
    if trace.finish_reason == LENGTH and n_tokens < max_new_tokens:
        warnings.warn(
            f"sequence {row} ends after {n_tokens} new tokens, where the model's context ends; plain generate may go "
            f"on beyond it: generate at most {n_tokens}, or give a shorter prompt",
            stacklevel=2,
        )
