"""Model folders as users have them: small random Llamas with their tokenizer, whose tokens are bytes."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eexit.plan.sweep_config import SweepConfig

N_LAYERS = 7
POSITIONS = 256
EOS = "<|end|>"
CHAT_TEMPLATE = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}assistant: "


def byte_tokenizer(tokens: list[str], **special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose first tokens are bytes, and these tokens the others."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *tokens]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def save_byte_model(folder: Path, ends: bool = False, n_layers: int = N_LAYERS, positions: int = POSITIONS) -> None:
    """Save the model. With `ends`, it has an end-of-sequence token and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files_of(ends, n_layers, positions).items():
        (folder / name).write_bytes(content)


@cache
def files_of(ends: bool, n_layers: int, positions: int) -> dict[str, bytes]:
    tokenizer = byte_tokenizer([EOS] * ends, **{"eos_token": EOS, "chat_template": CHAT_TEMPLATE} if ends else {})
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        random_llama(256 + ends, 32, n_layers, positions, eos_token_id=256 if ends else None).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def random_llama(n_tokens: int, width: int, n_layers: int, positions: int, **others: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=n_tokens, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=n_layers,
        num_attention_heads=4, max_position_embeddings=positions, initializer_range=0.3, bos_token_id=None, **others,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def save_family(folder: Path, architecture: str) -> Path:
    """Save a random model of this architecture whose tokens are bytes, with an end-of-sequence token."""
    save_byte_model(folder, ends=True)
    config = json.loads((folder / "config.json").read_text())
    sizes = {"vocab_size": config["vocab_size"], "max_position_embeddings": POSITIONS}
    tiny_model(architecture, **sizes, eos_token_id=config["eos_token_id"]).save_pretrained(folder)
    return folder


def rewriting(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], name: str = "model.safetensors"
) -> Callable[[Path], None]:
    """Return a change of the weights in a file of a folder."""
    return lambda folder: save_file(change(load_file(folder / name)), folder / name, metadata={"format": "pt"})


def losing(part: str, name: str = "model.safetensors") -> Callable[[Path], None]:
    """Return a change that removes the weights with `part` in their name."""
    return rewriting(lambda weights: {its: weight for its, weight in weights.items() if part not in its}, name)


def configuring(name: str = "config.json", **fields: object) -> Callable[[Path], object]:
    """Return a change of fields in a JSON file of a folder."""
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))


def sweep_of(model: Path | str, **fields: object) -> SweepConfig:
    """Return a sweep of this model with one prompt, in float32."""
    given = {"model": str(model), "dtype": "float32", "prompts": [{"id": "0", "prompt": "Why?"}], **fields}
    return SweepConfig.model_validate(given)


def save_exiting_model(folder: Path, n_layers: int, early: int = 2, sharp: float = 8.0) -> None:
    """Save a model in which exits pay: only the `early` layers change the residual stream much.

    A larger `sharp` makes the likeliest tokens more probable.
    """
    byte_tokenizer([EOS], eos_token=EOS, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    model = random_llama(257, 64, n_layers, 512, eos_token_id=256, tie_word_embeddings=False)
    with torch.no_grad():
        for layer in model.model.layers[early:]:
            for written in (layer.self_attn.o_proj, layer.mlp.down_proj):
                written.weight *= 1e-3
        model.lm_head.weight *= sharp / (0.3 * 64**0.5)
        model.lm_head.weight[256:] = 0.0  # no text ends
    model.save_pretrained(folder)


def save_tiny_gguf(path: Path) -> None:
    """Save a small random Llama as a GGUF file, as other programs write it."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    writer, names = gguf.GGUFWriter(path, "llama"), gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, N_LAYERS)
    fields = {
        "context_length": POSITIONS, "embedding_length": 32, "block_count": N_LAYERS, "feed_forward_length": 64,
        "head_count": 4, "head_count_kv": 4, "rope_freq_base": 10000.0, "layer_norm_rms_eps": 1e-5,
        "vocab_size": len(tokens), "tokenizer_model": "gpt2", "token_list": tokens,
        "token_types": [gguf.TokenType.NORMAL] * len(tokens), "token_merges": ["a b"], "bos_token_id": 0,
        "eos_token_id": 1,
    }  # fmt: skip
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)
    for name, weight in random_llama(len(tokens), 32, N_LAYERS, POSITIONS).state_dict().items():
        writer.add_tensor(f"{names.get_name(name.removesuffix('.weight'))}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
