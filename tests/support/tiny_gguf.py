"""A GGUF file as other programs write it: a small random Llama whose tokens are bytes."""

from pathlib import Path

import gguf
import numpy as np
from tokenizers import pre_tokenizers

WIDTH, INNER, N_LAYERS, HEADS = 32, 64, 7, 4


def save_tiny_gguf(path: Path) -> None:
    numbers = np.random.default_rng(0)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    fields = {
        "context_length": 256, "embedding_length": WIDTH, "block_count": N_LAYERS, "feed_forward_length": INNER,
        "head_count": HEADS, "head_count_kv": HEADS, "rope_freq_base": 10000.0, "layer_norm_rms_eps": 1e-5,
        "vocab_size": len(tokens), "tokenizer_model": "gpt2", "token_list": tokens,
        "token_types": [gguf.TokenType.NORMAL] * len(tokens), "token_merges": ["a b"], "bos_token_id": 0,
        "eos_token_id": 1,
    }  # fmt: skip
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)
    shapes = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(N_LAYERS):
        block = f"blk.{layer}"
        shapes |= {f"{block}.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"{block}.{name}_norm": (WIDTH,) for name in ("attn", "ffn")}
        shapes |= {f"{block}.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")}
        shapes |= {f"{block}.ffn_down": (WIDTH, INNER)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (0.3 * numbers.standard_normal(shape)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
