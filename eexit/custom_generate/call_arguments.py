"""Arguments that transformers' `generate` passes to a callable: parsing of supported ones, refusal of others by name.

Everything that depends on how `generate` prepares a call is in this file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    MaxLengthCriteria,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.streamers import BaseStreamer

from eexit.decode.requests import PartialOutput
from eexit.errors import UsageError

# Arguments that `generate` (5.24) takes and does not pass on to a callable.
_KEPT_BACK: Final = ("streamer", "assistant_model", "synced_gpus")
_MODES: Final = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
# Unsupported generation settings, with their neutral values.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "output_scores": (None, False), "output_logits": (None, False), "output_attentions": (None, False),
    "output_hidden_states": (None, False), "cache_implementation": (None, "dynamic"), "compile_config": (None,),
    "num_return_sequences": (None, 1), "prefill_chunk_size": (None,), "token_healing": (None, False),
    "is_assistant": (None, False),
}  # fmt: skip
_CACHES: Final = ("cache_implementation", "compile_config", "prefill_chunk_size")  # these change no text
# For each processor or criterion, the value of generation_config that sets it, and the attribute that has this value.
# Processors set by the model's generation_config are dropped; `generate` also converts min_new_tokens to min_length.
_FOLLOW_FROM: Final[Mapping[str, tuple[str, str]]] = {
    "RepetitionPenaltyLogitsProcessor": ("repetition_penalty", "penalty"),
    "NoRepeatNGramLogitsProcessor": ("no_repeat_ngram_size", "ngram_size"),
    "MinLengthLogitsProcessor": ("min_length", "min_length"),
    "MinNewTokensLengthLogitsProcessor": ("min_new_tokens", "min_new_tokens"),
    "SuppressTokensLogitsProcessor": ("suppress_tokens", "suppress_tokens"),
    "SuppressTokensAtBeginLogitsProcessor": ("begin_suppress_tokens", "begin_suppress_tokens"),
    "ForcedBOSTokenLogitsProcessor": ("forced_bos_token_id", "bos_token_id"),
    "ForcedEOSTokenLogitsProcessor": ("forced_eos_token_id", "eos_token_id"),
    "NoBadWordsLogitsProcessor": ("bad_words_ids", "bad_word_ids"),
    "TopKLogitsWarper": ("top_k", "top_k"),
    "MinPLogitsWarper": ("min_p", "min_p"),
    "TypicalLogitsWarper": ("typical_p", "mass"),
    "MaxTimeCriteria": ("max_time", "max_time"),
}
# Arguments of the model's forward that `generate` creates itself, without effect here.
_MADE: Final = ("attention_mask", "position_ids", "cache", "logits_to_keep", "use_cache")


@dataclass(frozen=True)
class GenerateCall:
    """Parsed arguments of a call of `generate`. Temperature 0 is greedy."""

    prompts: Sequence[tuple[int, ...]]  # without padding
    max_new_tokens: int
    eos_token_ids: frozenset[int]  # empty if neither the call nor the model has an EOS token
    pad_token_id: int | None
    temperature: float
    top_p: float
    criteria: Sequence[StopStringCriteria] = ()
    streamer: BaseStreamer | None = None
    return_dict: bool = False
    seeds: Sequence[int] | None = None  # one per sequence; None: the setting's seed for all
    unapplied: Mapping[str, Any] = field(default_factory=dict)  # values of the model's generation_config


class StopChecker:
    """Callback on slots while they decode: streams the tokens of a single slot, and checks the stop criteria."""

    def __init__(self, criteria: Sequence[StopStringCriteria], streamer: BaseStreamer | None, device: torch.device):
        self._criteria, self._streamer, self._device, self._n_shown = criteria, streamer, device, 0

    def __call__(self, row: PartialOutput) -> bool:
        if self._streamer is not None:
            self._show(self._streamer, row)
        token_1T = torch.tensor([[*row.request.prompt_token_ids, *row.token_ids]], device=self._device)
        return any(bool(torch.as_tensor(each(token_1T, None)).all()) for each in self._criteria)

    def _show(self, streamer: BaseStreamer, row: PartialOutput) -> None:
        put_exits = getattr(streamer, "put_exits", None)  # receives the exit layers of the next tokens
        for token_id, layer in zip(row.token_ids[self._n_shown :], row.exit_layers[self._n_shown :], strict=True):
            if put_exits is not None:
                put_exits([layer])
            streamer.put(torch.tensor([token_id]))
        self._n_shown = len(row.token_ids)

    def end(self) -> None:
        if self._streamer is not None:
            self._streamer.end()


def with_stop_strings(
    model: PreTrainedModel, requested: Mapping[str, Any], tokenizer: Any, strings: str | Sequence[str] | None
) -> dict[str, Any]:
    """Return a call's arguments, with stop strings as a criterion. Raise `UsageError` if they lack a tokenizer.

    Stop strings may also be set in the given generation_config, or in that of the model.
    """
    given: GenerationConfig | None = requested.get("generation_config")
    strings = strings or (given and given.stop_strings) or getattr(model.generation_config, "stop_strings", None)
    if not strings:
        return dict(requested)
    if tokenizer is None:
        raise UsageError("stop_strings need the model's tokenizer: give tokenizer=… as well")
    texts = [strings] if isinstance(strings, str) else list(strings)
    criteria = StoppingCriteriaList([*(requested.get("stopping_criteria") or ()), StopStringCriteria(tokenizer, texts)])
    return {**requested, "stopping_criteria": criteria, "stop_strings": None}


def dropped_arguments(requested: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that `generate` does not pass on."""
    return {name: requested[name] for name in _KEPT_BACK if requested.get(name) is not None}


def names_an_eos_token(model: PreTrainedModel) -> bool:
    """Return True if the model has an EOS token, so that a call without one is deliberate."""
    return getattr(model.config.get_text_config(decoder=True), "eos_token_id", None) is not None


def parse_call(
    input_ids: Tensor, processors: Sequence[Any], criteria: Sequence[StoppingCriteria], requested: GenerationConfig,
    others: Mapping[str, Any], seed: int | None, model_config: GenerationConfig | None = None,
) -> GenerateCall:  # fmt: skip
    """Return the parsed call; `others` are all further arguments. Raise `UsageError` for an unsupported argument.

    Unsupported values that follow from the model's generation_config (`model_config`) alone are not applied.
    """
    unapplied: dict[str, Any] = {}
    processors = _without_model_config(processors, model_config, input_ids.shape[1], unapplied)
    criteria = _without_model_config(criteria, model_config, input_ids.shape[1], unapplied)
    _refuse_config(requested, model_config)
    _refuse_arguments(others)
    prompts = _prompts(input_ids, others.get("attention_mask"), others.get("position_ids"))
    temperature, top_p = _sampling(processors, bool(requested.do_sample))
    ends = [each.eos_token_id.tolist() for each in criteria if isinstance(each, EosTokenCriteria)]
    lengths = [each.max_length for each in criteria if isinstance(each, MaxLengthCriteria)]
    if not lengths or min(lengths) <= input_ids.shape[1]:
        raise UsageError("no token is to be generated: give max_new_tokens of 1 or more")
    streamer = others.get("streamer")
    if streamer is not None and len(prompts) > 1:
        raise UsageError(f"a streamer takes one sequence, got {len(prompts)}: give one prompt, or no streamer")
    pad = requested.pad_token_id if requested._pad_token_tensor is None else int(requested._pad_token_tensor)
    return GenerateCall(
        prompts, min(lengths) - input_ids.shape[1], frozenset(token_id for ids in ends for token_id in ids), pad,
        temperature, top_p, _stop_strings(criteria), streamer, bool(requested.return_dict_in_generate),
        _seeds(seed, len(prompts), temperature), unapplied,
    )  # fmt: skip


def _without_model_config(
    given: Sequence[Any], model_config: GenerationConfig | None, n_prompt: int, unapplied: dict[str, Any]
) -> list[Any]:
    """Return the processors or criteria that the caller requested, without those from the model's generation_config.

    Add the values of the removed ones to `unapplied`.
    """
    left: list[Any] = []
    for each in given:
        name, attribute = _FOLLOW_FROM.get(type(each).__name__, ("", ""))
        value = _own_value(model_config, name, n_prompt)
        if value is None or _plain(getattr(each, attribute, None)) != _plain(value):
            left.append(each)
        elif name != "min_length" or model_config is None or model_config.min_new_tokens is None:
            unapplied[name] = value
    return left


def _own_value(model_config: GenerationConfig | None, name: str, n_prompt: int) -> Any:
    """Return the value that the model's own generation_config gives a call; None if it sets none."""
    if model_config is None or not name:
        return None
    if name == "min_length" and model_config.min_new_tokens is not None:
        return model_config.min_new_tokens + n_prompt
    value = getattr(model_config, name, None)
    if name == "top_k" and value is None and model_config.do_sample:
        return model_config._get_default_generation_params()[name]
    return value


def _plain(value: Any) -> Any:
    """Return numbers as in generation_config, where a single token id may be without a list."""
    value = value.tolist() if isinstance(value, Tensor) else value
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _refuse_config(requested: GenerationConfig, model_config: GenerationConfig | None) -> None:
    mode = requested.get_generation_mode()
    if mode not in _MODES:
        raise UsageError(f"{mode.value.replace('_', ' ')} can't be done with exits: use greedy search or sampling")
    for name, neutral in _NEUTRAL.items():
        value = getattr(requested, name, None)
        is_own = name in _CACHES and model_config is not None and getattr(model_config, name, None) == value
        if value not in neutral and not is_own:
            raise UsageError(f"{name}={value} can't be followed here: leave it out")


def _refuse_arguments(others: Mapping[str, Any]) -> None:
    if getattr(others.get("cache"), "_is_user_defined", False):
        raise UsageError("a cache was given, and exits need their own: leave cache out")
    for name, value in others.items():
        if name not in (*_MADE, "streamer") and value is not None and value is not False:
            raise UsageError(f"{name} can't be followed here: leave it out")


def _prompts(input_ids: Tensor, mask_BT: Tensor | None, position_BT: Tensor | None) -> list[tuple[int, ...]]:
    """Return each sequence's tokens without padding."""
    if not input_ids.numel():
        raise UsageError(f"input_ids are of shape {tuple(input_ids.shape)}: give at least one sequence with one token")
    real_BT = torch.ones_like(input_ids, dtype=torch.bool) if mask_BT is None else mask_BT.bool().to(input_ids.device)
    if (real_BT[:, :-1] & ~real_BT[:, 1:]).any():
        raise UsageError("attention_mask hides tokens behind others: pad on the left (tokenizer.padding_side = 'left')")
    if not real_BT[:, -1].all():
        row = int((~real_BT[:, -1]).nonzero()[0, 0])
        raise UsageError(f"sequence {row} has no token that attention_mask shows: leave it out")
    if position_BT is not None:
        expected_BT = (real_BT.cumsum(-1) - 1).to(position_BT.device)
        if ((position_BT != expected_BT) & real_BT.to(position_BT.device)).any():
            raise UsageError("position_ids are not those of tokens one behind the other: leave them out")
    return [tuple(ids_T[real_T].tolist()) for ids_T, real_T in zip(input_ids, real_BT, strict=True)]


def _sampling(processors: Sequence[Any], do_sample: bool) -> tuple[float, float]:
    """Return temperature and top-p. Raise `UsageError` for any other processor."""
    temperature, top_p = 1.0, 1.0
    for processor in processors:
        match processor:
            case TemperatureLogitsWarper() if top_p == 1:
                temperature *= processor.temperature
            case TopPLogitsWarper() if top_p == 1 and processor.min_tokens_to_keep == 1:
                top_p = processor.top_p
            case TopKLogitsWarper():
                raise UsageError(
                    f"top_k={processor.top_k} can't be followed here (50 is transformers' default): give top_k=0"
                )
            case _:
                raise UsageError(
                    f"{type(processor).__name__} changes logits, and exits are decided on the model's own: leave it "
                    f"out or, if the model's generation_config has it, give its neutral value, as in "
                    "repetition_penalty=1.0"
                )
    if not do_sample or top_p == 0:  # 0 keeps only the likeliest token
        return 0.0, 1.0
    return float(temperature), float(top_p)


def _stop_strings(criteria: Sequence[StoppingCriteria]) -> list[StopStringCriteria]:
    """Return the stop-string criteria, which act on one sequence at a time; the engine handles length and EOS."""
    found: list[StopStringCriteria] = []
    for each in criteria:
        match each:
            case StopStringCriteria():
                found.append(each)
            case MaxLengthCriteria() | EosTokenCriteria():
                pass
            case _:
                raise UsageError(f"{type(each).__name__} can't be followed here: give max_new_tokens or stop_strings")
    return found


def _seeds(seed: int | None, n_rows: int, temperature: float) -> list[int] | None:
    """Return a seed per sequence, by default from torch's generator; None for greedy decoding without a seed."""
    if seed is not None:
        return [seed] * n_rows
    if not temperature:
        return None
    drawn: list[int] = torch.randint(2**63 - 1, (n_rows,)).tolist()  # torch.manual_seed repeats them
    return drawn
