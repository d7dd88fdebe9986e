"""Messages about a model before its weights are loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tiny_models import GROUPED
from transformers import AutoModelForCausalLM, PreTrainedConfig

from eexit.errors import UsageError
from eexit.model.layers import Decoder
from eexit.plan.model_description import estimate_memory
from eexit.plan.sweep_config import SweepConfig


def estimate(folder: Path, config: PreTrainedConfig) -> tuple[int, int, int | None, tuple[int, int]]:
    config.save_pretrained(folder)
    sweep = {"model": str(folder), "prompts": [{"id": "0", "prompt": "Hello."}], "dtype": "float32"}
    return estimate_memory(SweepConfig.model_validate(sweep))


GEMMA4: dict[str, Any] = {
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 2,
    "hidden_size_per_layer_input": 0,
}


def test_keys_and_values_of_different_widths_are_estimated_as_the_model_keeps_them(tmp_path: Path) -> None:
    """Compare one family; the others are compared where their checkpoints are loaded."""
    config = tf.Gemma4TextConfig(**GROUPED, **GEMMA4, layer_types=["sliding_attention"] * 5 + ["full_attention"] * 2)
    _, token, _, _ = estimate(tmp_path, config)
    decoder = Decoder(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    assert token == 2 * decoder.cache_bytes_per_token


def test_a_model_that_is_not_supported_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model .* is not supported: it has no attention heads"):
        estimate(tmp_path, tf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=4, state_size=4))
