"""Commands that load a model run in every dtype, each on what those before it made.

A new command, or a new way to train, is a line of `COMMANDS`.
"""

import json
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from byte_model import save_byte_model
from commands import here
from ray_here import RayHere

PROMPTS = [f"prompt {number}" for number in range(5, 15)]  # of which some are held out, and some choose
COMMANDS = (
    "sweep --prompts prompts.txt --modes normal --observe none --model model --dtype {dtype} --out texts",
    "train texts --what linear --out linear",
    "train texts --what gate --rules confidence=0.3 --out gate",
    "train texts --what gate --rules confidence=0.3 --readout linear --out gate-linear",
    "train texts --what probe --out probe",
    "train texts --what probe --readout linear --out probe-linear",
    "train texts --what state --out state",
    "train texts --what state --readout linear --out state-linear",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_here: RayHere) -> Path:
    ray_here.cpus = ray_here.free = 1
    save_byte_model(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_command_that_loads_a_model_runs_in_every_dtype(folder: Path, dtype: str) -> None:
    for command in COMMANDS:
        name, *words = shlex.split(command.format(dtype=dtype))
        smaller = ["--max-new-tokens", "6", "--exit-every", "2"] if name == "sweep" else []
        done = here(import_module(f"jobs.{name}").main, *words, *smaller)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    for card in folder.glob("*/card.json"):
        check_finite(json.loads(card.read_text()), card.parent.name)


def check_finite(held: object, where: str) -> None:
    if isinstance(held, dict):
        for name, part in held.items():
            check_finite(part, f"{where}.{name}")
    elif isinstance(held, list):
        for part in held:
            check_finite(part, where)
    elif isinstance(held, float):
        assert np.isfinite(held), where
