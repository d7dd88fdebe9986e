"""The cost of one model's exits at another model's unit costs: the same operation counts, scaled by depth.

A read of the lm_head costs eight layers on SmolLM2-135M, and two thirds of a layer on Llama 2 7B. So the cost of
deciding depends on the model's shape. The other model's tokens might exit elsewhere: the figures are for the given
exits. Attention over positions, which both models have, is left out. This module does not import torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from eexit.errors import UsageError
from eexit.method.screen_size import ScreenSize
from eexit.output.text import did_you_mean


@dataclass(frozen=True)
class ModelShape:
    """Shapes of a decoder with gated MLPs, grouped-query attention and an unfactored lm_head."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int  # width of the MLP
    vocabulary: int

    @property
    def keys(self) -> int:
        """Multiply-adds of one token's keys and values in one layer."""
        return 2 * self.width * self.kv_heads * self.head_width

    @property
    def layer(self) -> int:
        """Multiply-adds of one token in one layer."""
        return 2 * self.width * self.heads * self.head_width + self.keys + 3 * self.width * self.inner

    @property
    def head(self) -> int:
        """Multiply-adds of one read of the lm_head."""
        return self.width * self.vocabulary

    @property
    def head_in_layers(self) -> float:
        return self.head / self.layer


# From the config.json of each model's repository: meta-llama/Llama-2-7b-hf, meta-llama/Meta-Llama-3-8B,
# Qwen/Qwen2.5-7B and google/gemma-2-9b.
KNOWN: Final = {
    shapes.name: shapes
    for shapes in (
        ModelShape("llama-2-7b", 32, 4096, 32, 32, 128, 11008, 32_000),
        ModelShape("llama-3-8b", 32, 4096, 32, 8, 128, 14336, 128_256),
        ModelShape("qwen2.5-7b", 28, 3584, 28, 4, 128, 18944, 152_064),
        ModelShape("gemma-2-9b", 42, 3584, 16, 8, 256, 14336, 256_000),
    )
}
_OF_CONFIG: Final = {
    "layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads",
    "inner": "intermediate_size", "vocabulary": "vocab_size",
}  # fmt: skip
EXAMPLE: Final = "layers=32,width=4096,heads=32,kv_heads=8,head_width=128,inner=14336,vocabulary=128256"


def shapes_of(text: str) -> ModelShape:
    """Return the shapes of a known model, of a folder with a config.json, or of a text such as `EXAMPLE`.

    Raise `UsageError` for anything else.
    """
    if text in KNOWN:
        return KNOWN[text]
    if "=" in text:
        return _written(text)
    path = Path(text).expanduser() / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        known = did_you_mean(text, KNOWN, ", ".join(KNOWN))
        raise UsageError(
            f"--unit-costs-of {text} is no model whose shapes are known ({known}), no folder with a config.json, and "
            f"no shapes, as in {EXAMPLE}"
        ) from error
    return _of_config(config, Path(text).name)


def _written(text: str) -> ModelShape:
    given = dict(part.partition("=")[::2] for part in text.split(","))
    names = [name for name in ModelShape.__dataclass_fields__ if name != "name"]
    if sorted(given) != sorted(names):
        raise UsageError(f"--unit-costs-of takes {', '.join(names)}, as in {EXAMPLE}, got {text}")
    return _checked("these shapes", {name: given[name] for name in names}, text)


def _of_config(config: Mapping[str, Any], name: str) -> ModelShape:
    config = config.get("text_config") or config
    numbers = {ours: config.get(theirs) for ours, theirs in _OF_CONFIG.items()}
    heads, width = numbers["heads"], numbers["width"]
    numbers["kv_heads"] = config.get("num_key_value_heads") or heads
    numbers["head_width"] = config.get("head_dim") or (width // heads if heads and width else None)
    return _checked(name, numbers, name)


def _checked(name: str, numbers: Mapping[str, Any], text: str) -> ModelShape:
    """Return the shapes. Raise `UsageError` for shapes that make no decoder."""
    try:
        whole = {key: int(number) for key, number in numbers.items()}
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--unit-costs-of {text}: a shape is missing or no whole number: give all, as in {EXAMPLE}"
        ) from error
    if min(whole.values()) < 1 or whole["heads"] % whole["kv_heads"]:
        raise UsageError(f"--unit-costs-of {text} makes no decoder: all are at least 1, and kv_heads divides heads")
    return ModelShape(name, **whole)


def cost_at(
    shapes: ModelShape, counts: Mapping[str, np.ndarray], n_layers: int, screen: ScreenSize | None
) -> np.ndarray:
    """Return the multiply-adds of runs at these unit costs.

    `counts` are columns of `generations`, `n_layers` is that of the model that ran, and `screen` is the rules', if any.
    """
    rank, n_tokens = (screen.rank, screen.n_tokens) if screen else (0, 0)
    screened = (rank + n_tokens) * shapes.width + rank * shapes.vocabulary
    layers, keys = (counts[name] * shapes.layers / n_layers for name in ("layers_run", "kv_writes"))
    cost: np.ndarray = (
        layers * shapes.layer
        + keys * shapes.keys
        + counts["head_reads"] * shapes.head
        + counts["screen_reads"] * screened
        + (counts["probe_reads"] + counts["gate_reads"]) * shapes.width
    )
    return cost


def full_cost_at(shapes: ModelShape, n_decided: np.ndarray, n_unread: np.ndarray | int = 0) -> np.ndarray:
    """Return the full-depth multiply-adds of texts by their numbers of decided tokens.

    Prefill is left out. With prompt exits, `n_unread` tokens of the prompt count too, without a head read.
    """
    cost: np.ndarray = (n_decided + n_unread) * shapes.layers * shapes.layer + n_decided * shapes.head
    return cost
