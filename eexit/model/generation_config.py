"""Values of a model's generation_config that change texts, so that sweeps and packages can warn of them."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from transformers import GenerationConfig

# Names of tokens, lengths, caches, and what is returned or how fast: none changes which tokens come.
_ASIDE: Final = (
    "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "max_length",
    "max_new_tokens", "use_cache", "cache_implementation", "cache_config", "compile_config", "disable_compile",
    "prefill_chunk_size", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions",
    "output_hidden_states", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "continuous_batching_config",
)  # fmt: skip


def values_of(config: GenerationConfig | None) -> dict[str, Any]:
    """Return the values that differ from transformers' defaults and change texts, by name, in types of JSON."""
    if config is None:
        return {}
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    defaults = config._get_default_generation_params()
    return {
        name: value
        for name, value in found.items()
        if name not in _ASIDE and name[0] != "_" and value not in (None, False, defaults.get(name))
    }


def values_in(location: str, config: Any, **fetching: Any) -> dict[str, Any]:
    """Return the values (`values_of`) of a model that is not loaded, by its generation_config or else its `config`."""
    if not Path(location).is_file():  # of GGUF, which has no such file
        with suppress(OSError):  # there is none, and transformers makes one of the configuration, too
            return values_of(GenerationConfig.from_pretrained(location, **fetching))
    return values_of(GenerationConfig.from_model_config(config))
