"""Synthetic sweeps of two models on shared prompts: what each layer predicts, how sure it is, and an oracle's exits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from synthetic_sweeps import LAYERS, swept, write_manifest

from eexit.plan.configuration import Configuration, EarlyExit, NoExit

ORACLE: Final = EarlyExit("unfrozen", "agree")
ONLINE: Final = EarlyExit("frozen_residual", "confidence", 0.9)
GRID: Final = (NoExit(), ORACLE, ONLINE)
SHAPE: Final = {"width": 576, "vocabulary": 49_152, "parameters": 134_515_008, "head_in_layers": 8.0}


def save_model_sweep(
    folder: Path, name: str, n_prompts: int = 12, bold: float = 0.5, grid: tuple[Configuration, ...] = GRID,
    group: int = 0, **config: Any,
) -> Path:  # fmt: skip
    """Write a sweep whose layers agree with the final one more often if `bold` is higher, and more often when deeper.

    The first `group` prompts are one group. `config` changes the sweep's configuration.
    """
    n_layers = len(LAYERS) + 1

    def of_token(configuration: Configuration, token: Mapping[str, Any]) -> dict[str, Any]:
        draw = np.random.default_rng([int(token["prompt_id"]), token["position"], round(100 * bold)])
        agrees = draw.uniform(size=n_layers) < bold + (1 - bold) * np.arange(n_layers) / (n_layers - 1)
        agrees[-1] = True
        p = draw.uniform(0.8, 1, n_layers)
        return {"top_prob": [[float(each)] for each in p], "top_token_ids": [[7 if each else 8] for each in agrees]}

    def columns(configuration: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        draw = np.random.default_rng([prompt, round(100 * bold), 3])
        right = bool(draw.uniform() < 0.7) and (configuration != ONLINE or prompt % 4 > 0)
        costs: dict[str, Any] = {"macs_full": 100.0 + prompt, "macs_required": 100.0, "macs_executed": 100.0 + prompt}
        if configuration != NoExit():
            skipped = float(draw.uniform(0.1, 0.4))
            costs |= {"macs_required": 80.0, "macs_executed": 95.0 if configuration == ONLINE else None}
            costs |= {"mean_depth": 1 - skipped}
        return costs | {"answer": "42", "found_answer": "42" if right else "41", "correct": right}

    swept(folder, grid, n_prompts, columns=columns, of_token=of_token)
    about = json.loads((folder / "sweep.json").read_text())
    about["model"] |= {"name": name, "shape": SHAPE, "dtype": config.pop("dtype", "float32")}
    about["config"] |= {"model": name, "seeds": [0]} | config
    for prompt in about["config"]["prompts"][:group]:
        prompt["group"] = "one"
    write_manifest(folder, about)
    return folder
