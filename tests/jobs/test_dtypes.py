"""Every command that loads a model runs in every dtype, on a CPU and on a simulated card.

Each runs on what those before it made. A new command, way to train, mode or rule is added to `COMMANDS`.
"""

import re
import shlex
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from byte_model import save_byte_model, save_family
from card import models_there
from commands import here
from ray_here import RayHere
from references import save_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

import eexit
from eexit.sweeps import head_moment
from jobs import sweep

N_LAYERS = 6
PROMPTS = [f"prompt {number}" for number in range(8, 14)]  # of which some are held out, and one chooses
SWEEP = "sweep --model model --prompts few.txt --max-new-tokens 4 --exit-every 2 --dtype {dtype}"  # the last one counts
LEARNED = "--readout linear --probe probe-linear --gate gate-linear --gate-thresholds 0.2 --kv-maps state-linear"
COMMANDS = (
    f"{SWEEP} --prompts prompts.txt --modes normal --record-full-depth none --out texts",
    "train texts --what linear --out linear",
    "train texts --what gate --rules confidence=0.3 --out gate",
    "train texts --what gate --rules confidence=0.3 --readout linear --out gate-linear",
    "train texts --what probe --out probe",
    "train texts --what probe --readout linear --out probe-linear",
    "train texts --what probe --adapter adapter --out probe-adapter",
    "train texts --what kv-maps --out state",
    "train texts --what kv-maps --readout linear --out state-linear",
    # Of a model whose layers make keys and values by no matrices of their own, maps are to streams.
    f"{SWEEP} --model gpt2 --prompts prompts.txt --modes normal --record-full-depth none --out gpt2-texts",
    "train gpt2-texts --what kv-maps --out gpt2-state",
    f"{SWEEP} --model gpt2 --rules confidence=0.3 --modes mapped_residual --kv-maps gpt2-state --out gpt2-mapped",
    f"{SWEEP} --rules kl=1 agree confidence=0.3 margin=0.1 entropy=3 similarity=0.9 patience=2 fixed=2 "
    "--modes normal unfrozen frozen_residual frozen_cache skip --draft 2:2 --out grid",
    f"{SWEEP} --rules kl=1 confidence=0.3 --controls-of grid --temperature 0.8 --top-p 0.9 --out sampled",
    f"{SWEEP} --rules predicted_kl=1 confidence=0.3 --modes normal mapped_residual {LEARNED} --out learned",
    f"{SWEEP} --rules predicted_kl=1 confidence=0.3 --modes mapped_residual --kv-maps state --probe probe --gate gate "
    "--gate-thresholds 0.2 --screen 8:16 --out screened",
    f"{SWEEP} --rules predicted_kl=1 --adapter adapter --probe probe-adapter --out adapted",
    "replay grid --kl-factors 1 --rules confidence=0.3 patience=2 fixed=2 --modes unfrozen frozen_residual",
    "replay learned --rules confidence=0.3 predicted_kl=1 --modes unfrozen mapped_residual --exit-sets 4",
    "timings grid --configurations frozen_residual/confidence/0.3 draft/2:2 --steps --prompts 1 --batch 2 --tokens 3 "
    "--rounds 1 --calls 1",
    "package grid --configuration frozen_residual/confidence/0.3 --out taken/frozen",
    "package learned --configuration mapped_residual/predicted_kl/1 --out taken/mapped",
)


@pytest.mark.parametrize(
    ("dtype", "where"), [("float32", "cpu"), ("bfloat16", "cpu"), ("float16", "cpu"), ("bfloat16", "card")]
)
def test_every_command_runs(tmp_path: Path, monkeypatch: Any, ray_here: RayHere, dtype: str, where: str) -> None:
    ray_here.cpus = ray_here.free = 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(head_moment, "TOKENS", 4)
    monkeypatch.setattr(sweep, "write_report", lambda *_: None)  # which takes longer than all else, and loads no model
    save_byte_model(tmp_path / "model", n_layers=N_LAYERS)
    save_family(tmp_path / "gpt2", "gpt2")
    save_adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), tmp_path / "adapter")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "few.txt").write_text("\n".join(PROMPTS[:2]))
    monkeypatch.chdir(tmp_path)
    with models_there() if where == "card" else nullcontext():
        for command in COMMANDS:
            if where == "cpu" or "adapter" not in command:  # no gradients could be asked for on this card
                name, *words = shlex.split(command.format(dtype=dtype))
                done = here(import_module(f"jobs.{name}").main, *words)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        for setting in map(eexit.load, (tmp_path / "taken").iterdir()):  # as a user's script does
            model = AutoModelForCausalLM.from_pretrained("model", dtype=getattr(torch, dtype)).eval()
            inputs = AutoTokenizer.from_pretrained("model")("Why?", return_tensors="pt").to(model.device)
            output = model.generate(**inputs, max_new_tokens=3, custom_generate=setting)
            assert output.shape[1] == inputs["input_ids"].shape[1] + 3
            assert setting.stats
    for runs in tmp_path.glob("*/generations"):
        assert list(pd.read_parquet(runs).error.dropna()) == [], runs
    for card in tmp_path.glob("*/card.json"):
        assert not re.search(r"\b(NaN|Infinity)\b", card.read_text()), card
