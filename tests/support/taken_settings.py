"""Settings that were taken home from small sweeps of models in folders, as a user has both."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from byte_model import save_byte_model
from driving import look_here
from tiny_models import tiny_model

from eexit.generator import ModelGenerator
from eexit.plan.config import SweepConfig
from eexit.plan.runs import plan_runs
from eexit.results.layout import MANIFEST, encode
from eexit.results.store.folder import open_store
from eexit.results.store.landing import land
from eexit.results.store.manifest import make_manifest

LAYERS = (1, 3, 4)
N_TOKENS = 10
# Of different lengths, one of them beyond sliding windows.
TEXTS = ("Why?", "Count to ten.", "a", "What is it that we", "No", "Yes yes yes", "Because of it", "12 + 7 =")
# Parameters of rule confidence with which these random models exit here and there.
CONFIDENCE = {"gemma3": 0.9, "bloom": 0.15, "gpt2": 0.3}


def save_family(folder: Path, architecture: str) -> Path:
    """A random model of this architecture whose tokens are bytes, with a token that ends a text."""
    save_byte_model(folder, ends=True)
    config = json.loads((folder / "config.json").read_text())
    sizes = {"vocab_size": config["vocab_size"], "max_position_embeddings": 256}
    tiny_model(architecture, **sizes, eos_token_id=config["eos_token_id"]).save_pretrained(folder)
    return folder


def confidence_of(architecture: str) -> float:
    return CONFIDENCE.get(architecture, 0.2)


def swept(out: Path, model: Path, texts: Sequence[str] = TEXTS, **fields: Any) -> Path:
    """A finished sweep of this model in float32."""
    prompts = [{"id": f"{index}", "prompt": text} for index, text in enumerate(texts)]
    asked = {"dtype": "float32", "exit_layers": LAYERS, "max_new_tokens": N_TOKENS, "record_top_k": 0, **fields}
    config = SweepConfig.model_validate({"model": str(model), "prompts": prompts, **asked})
    store, runs = open_store(out), list(plan_runs(config))
    described, layers, _ = look_here(config, 1)
    store.publish(MANIFEST, encode(make_manifest(config, described, layers)))
    land(store, runs, ModelGenerator(config, "cpu").generate(runs))
    return out


@cache
def texts_of(out: Path, key: str, seed: int = 0) -> list[tuple[list[int], list[int], list[int]]]:
    """Of each run: its prompt's tokens, what it generated, and the exit layers of that."""
    runs = pd.read_parquet(out / "generations").query("configuration == @key and seed == @seed")
    tokens = pd.read_parquet(out / "tokens").query("configuration == @key and seed == @seed")
    found = []
    for run in runs.sort_values("prompt_id").to_dict("records"):
        rows = tokens[tokens.run_id == run["run_id"]].sort_values("position")
        prompt = [int(token_id) for token_id in run["prompt_token_ids"]]
        found.append((prompt, rows.token_id.tolist(), rows.exit_layer.tolist()))
    return found
