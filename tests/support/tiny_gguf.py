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
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
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
