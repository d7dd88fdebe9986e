"""Packages from small sweeps of models in folders, as users have both."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from byte_model import save_family
from driving import land_all
from scripted import sweep_of
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from eexit.custom_generate.setting import Setting
from eexit.studies.packaging.package_setting import PackageArgs, package_setting

LAYERS = (1, 3, 4)
N_TOKENS = 10
DRAFT = "draft/3:2"
# Of different lengths, one longer than sliding windows.
TEXTS = ("Why?", "Count to ten.", "a", "What is it that we", "No", "Yes yes yes", "Because of it", "12 + 7 =")
# Parameters of rule confidence with which these random models exit now and then.
CONFIDENCE = {"gemma3": 0.9, "bloom": 0.15}
Folders = dict[str, Path]


def confidence_of(architecture: str) -> float:
    return CONFIDENCE.get(architecture, 0.2)


def swept(out: Path, model: Path, texts: Sequence[str] = TEXTS, **fields: Any) -> Path:
    asked = {"exit_layers": LAYERS, "max_new_tokens": N_TOKENS, "record_top_k": 0, **fields}
    return land_all(out, sweep_of(model, *texts, **asked))


@cache
def texts_of(out: Path, key: str, seed: int = 0) -> tuple[list[list[int]], list[tuple[list[int], list[int]]]]:
    """Return the prompts of a sweep, in tokens, and their texts with exit layers."""
    runs = pd.read_parquet(out / "generations").query("configuration == @key and seed == @seed")
    tokens = pd.read_parquet(out / "tokens").query("configuration == @key and seed == @seed")
    prompts, texts = [], []
    for run in runs.sort_values("prompt_id").to_dict("records"):
        rows = tokens[tokens.run_id == run["run_id"]].sort_values("position")
        prompts.append([int(token_id) for token_id in run["prompt_token_ids"]])
        texts.append((rows.token_id.tolist(), rows.exit_layer.tolist()))
    return prompts, texts


def exit_key(architecture: str = "llama") -> str:
    return f"frozen_residual/confidence/{confidence_of(architecture):g}"


def make(folder: Path, architecture: str) -> Folders:
    """Make a model, its sweep, and two packages from it: one that exits and one that drafts."""
    model = save_family(folder / "model", architecture)
    rules = {"confidence": [confidence_of(architecture)]}
    out = swept(folder / "sweep", model, rules=rules, modes=["normal", "frozen_residual"], draft=["3:2"])
    for key, name in ((exit_key(architecture), "exits"), (DRAFT, "drafts")):
        package_setting(PackageArgs(str(out), str(folder / name), key))
    return {name: folder / name for name in ("model", "sweep", "exits", "drafts")}


def loaded(folder: Path, **given: Any) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, **{"dtype": torch.float32, **given}).eval()
    return model


def batch(prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the prompts as a batch, left-padded with a masked token."""
    width = max(map(len, prompts))
    rows = [[[7] * (width - len(ids)) + list(ids), [0] * (width - len(ids)) + [1] * len(ids)] for ids in prompts]
    return {"input_ids": torch.tensor([ids for ids, _ in rows]), "attention_mask": torch.tensor([m for _, m in rows])}


def generated(output: Any, width: int) -> list[tuple[list[int], list[int]]]:
    pairs = zip(output.sequences[:, width:], output.exit_layers, strict=True)
    return [(ids[layers >= 0].tolist(), layers[layers >= 0].tolist()) for ids, layers in pairs]


def run(model: PreTrainedModel, setting: Setting, prompts: Sequence[Sequence[int]], **asked: Any) -> Any:
    """Return what transformers' own `generate`, or the setting's, generates for these prompts in a batch.

    Without other arguments, it is each sequence's tokens and their exit layers, without padding.
    """
    inputs, given = batch(prompts), {"max_new_tokens": N_TOKENS, "return_dict_in_generate": True, **asked}
    generate: Any = partial(cast(Any, model).generate, custom_generate=setting)
    if "streamer" in asked:  # transformers doesn't pass it on
        generate = partial(setting.generate, model)
    output = generate(**inputs, **given)
    return generated(output, inputs["input_ids"].shape[1]) if given["return_dict_in_generate"] else output


def plain(model: PreTrainedModel, prompt: Sequence[int], **asked: Any) -> list[int]:
    """Return what transformers' own `generate` makes of a prompt."""
    given = {"max_new_tokens": N_TOKENS, "do_sample": False, **asked}
    generated: list[int] = cast(Any, model).generate(torch.tensor([prompt]), **given)[0, len(prompt) :].tolist()
    return generated


class Recorded(BaseStreamer):
    def __init__(self) -> None:
        self.put_tokens: list[list[int]] = []
        self.exits: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.put_tokens.append(value.flatten().tolist())

    def put_exits(self, layers: Sequence[int]) -> None:
        self.exits += layers

    def end(self) -> None:
        self.ended = True
