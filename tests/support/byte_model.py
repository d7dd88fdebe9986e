"""A model folder as users have it: a small random Llama with its tokenizer, whose tokens are bytes."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
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
    """Return the files of such a folder, the same every time."""
    tokenizer = byte_tokenizer([EOS] * ends, **{"eos_token": EOS, "chat_template": CHAT_TEMPLATE} if ends else {})
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256 + ends, hidden_size=32, intermediate_size=64, num_hidden_layers=n_layers,
        num_attention_heads=4, max_position_embeddings=positions, initializer_range=0.3, bos_token_id=None,
        eos_token_id=256 if ends else None,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        LlamaForCausalLM(config).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def save_family(folder: Path, architecture: str) -> Path:
    """Save a random model of this architecture whose tokens are bytes, with an end-of-sequence token."""
    save_byte_model(folder, ends=True)
    config = json.loads((folder / "config.json").read_text())
    sizes = {"vocab_size": config["vocab_size"], "max_position_embeddings": POSITIONS}
    tiny_model(architecture, **sizes, eos_token_id=config["eos_token_id"]).save_pretrained(folder)
    return folder


def sweep_of(model: Path | str, **fields: object) -> SweepConfig:
    """Return a sweep of this model with one prompt, in float32."""
    given = {"model": str(model), "dtype": "float32", "prompts": [{"id": "0", "prompt": "Why?"}], **fields}
    return SweepConfig.model_validate(given)
