"""A Llama for long texts."""

from transformers import LlamaConfig

LONG = LlamaConfig(
    vocab_size=97, hidden_size=64, intermediate_size=64, num_hidden_layers=7, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=1024,
)  # fmt: skip
