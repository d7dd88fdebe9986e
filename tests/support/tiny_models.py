"""Tiny random models of many architectures."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

VOCABULARY = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 7,
    "num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None, "initializer_range": 0.3,  # spread-out logits: layers disagree, and exits happen everywhere
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2}
SLIDING = GROUPED | {"sliding_window": 8}
HALF_LOCAL: dict[str, Any] = {"attention_types": [[["global", "local"], 3], [["global"], 1]], "window_size": 8}
LATENT: dict[str, Any] = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
    "num_key_value_heads": 4, "first_k_dense_replace": 2,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0], "original_max_position_embeddings": 40,
}  # fmt: skip

ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: tf.LlamaConfig(**GROUPED),
    "qwen2": lambda: tf.Qwen2Config(**SLIDING, use_sliding_window=True, max_window_layers=3),
    "qwen3": lambda: tf.Qwen3Config(**GROUPED, head_dim=8),
    "mistral": lambda: tf.MistralConfig(**SLIDING),
    "gemma2": lambda: tf.Gemma2Config(**SLIDING, head_dim=8, query_pre_attn_scalar=8),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **SLIDING | {"sliding_window_pattern": 3}, head_dim=8, query_pre_attn_scalar=8
    ),
    "gemma4": lambda: tf.Gemma4TextConfig(
        **SLIDING | {"initializer_range": 0.2, "num_global_key_value_heads": 2, "global_head_dim": 16},
        head_dim=8,
        layer_types=[*["sliding_attention", "full_attention"] * 3, "full_attention"],
        hidden_size_per_layer_input=32,
        vocab_size_per_layer_input=VOCABULARY,
    ),
    "phi3": lambda: tf.Phi3Config(**GROUPED),
    "gpt2": lambda: tf.GPT2Config(**SIZES),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**SIZES),
    "opt": lambda: tf.OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=16, init_std=0.3),
    "xglm": lambda: tf.XGLMConfig(**SIZES, ffn_dim=64, init_std=0.3),
    "gpt_neo": lambda: tf.GPTNeoConfig(**SIZES, **HALF_LOCAL),
    "falcon": lambda: tf.FalconConfig(**SIZES),
    "falcon_alibi": lambda: tf.FalconConfig(**SIZES, alibi=True, multi_query=False),
    "bloom": lambda: tf.BloomConfig(**SIZES),
    "mpt": lambda: tf.MptConfig(**SIZES, max_seq_len=64),
    "mixtral": lambda: tf.MixtralConfig(**SLIDING, num_local_experts=4),
    "qwen2_moe": lambda: tf.Qwen2MoeConfig(
        **SLIDING, **EXPERTS, shared_expert_intermediate_size=32, use_sliding_window=True, max_window_layers=3
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(**GROUPED | {"head_dim": 8}, **EXPERTS),
    "cohere": lambda: tf.CohereConfig(**GROUPED, logit_scale=0.5),
    "cohere2": lambda: tf.Cohere2Config(**SLIDING | {"sliding_window_pattern": 2}, logit_scale=0.5),
    "olmo2": lambda: tf.Olmo2Config(**GROUPED),
    "granite": lambda: tf.GraniteConfig(
        **GROUPED, attention_multiplier=0.3, residual_multiplier=0.5, embedding_multiplier=3.0, logits_scaling=2.0
    ),
    "smollm3": lambda: tf.SmolLM3Config(**GROUPED, no_rope_layer_interval=2),
    "starcoder2": lambda: tf.Starcoder2Config(**SLIDING),
    "phimoe": lambda: tf.PhimoeConfig(
        **SLIDING, num_local_experts=4, rope_parameters=LONGROPE | {"short_mscale": 1.1, "long_mscale": 1.3}
    ),
    "phi3_longrope": lambda: tf.Phi3Config(**GROUPED, rope_parameters=LONGROPE, original_max_position_embeddings=40),
    "llama4": lambda: tf.Llama4TextConfig(
        **GROUPED, head_dim=8, intermediate_size_mlp=64, num_local_experts=2, layer_types=["full_attention"] * 7
    ),
    "stablelm": lambda: tf.StableLmConfig(**GROUPED),
    "nemotron": lambda: tf.NemotronConfig(**GROUPED, head_dim=8),
    "diffllama": lambda: tf.DiffLlamaConfig(**GROUPED, head_dim=8),
    "gptj": lambda: tf.GPTJConfig(**SIZES, rotary_dim=4),
    "deepseek_v3": lambda: tf.DeepseekV3Config(**SIZES, **LATENT),
    "gpt_oss": lambda: tf.GptOssConfig(**SLIDING, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
}


def tiny_model(architecture: str, dtype: torch.dtype = torch.float32, **changed: Any) -> PreTrainedModel:
    """Return a random model of a family, the same each time up to rounding; `changed` overrides its configuration."""
    config = ARCHITECTURES[architecture]()
    config.update(changed)
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model: PreTrainedModel = made.to(dtype)
    return model


def shallow_model(architecture: str, dtype: torch.dtype = torch.float32, **changed: Any) -> PreTrainedModel:
    """Return the same with three layers, or as many as include each kind, for tests of every layer."""
    kinds = getattr(ARCHITECTURES[architecture](), "layer_types", None) or [""] * 3
    n_layers = max(3, *(kinds.index(kind) + 1 for kind in kinds))
    return tiny_model(architecture, dtype, num_hidden_layers=n_layers, **changed)
