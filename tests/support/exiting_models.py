"""Tiny models in which exits pay, or can't for one reason: how much each layer changes the hidden state is known."""

from pathlib import Path

import torch
from byte_model import CHAT_TEMPLATE, EOS, byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM


def save_exiting_model(
    folder: Path, n_layers: int = 20, early: int = 2, late: float = 1e-3, last: float = 1e-3, n_tokens: int = 257,
    width: int = 64, sharp: float = 8.0,
) -> None:  # fmt: skip
    """Save a model whose layers write to the residual stream at scale 1 if `early`, `last` if last, and else `late`.

    A larger `sharp` makes the likeliest tokens more probable. There are `n_tokens` tokens; those beyond the bytes are
    never the likeliest.
    """
    others = [EOS, *(f"<{number}>" for number in range(n_tokens - 257))]
    byte_tokenizer(others, eos_token=EOS, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=n_tokens, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=n_layers,
        num_attention_heads=4, max_position_embeddings=512, initializer_range=0.3, bos_token_id=None,
        eos_token_id=256, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            scale = 1.0 if number < early else last if number == n_layers - 1 else late
            for written in (layer.self_attn.o_proj, layer.mlp.down_proj):
                written.weight *= scale
        model.lm_head.weight *= sharp / (0.3 * width**0.5)
        model.lm_head.weight[256:] = 0.0  # no text ends, and tokens beyond the bytes are unlikely
    model.save_pretrained(folder)
