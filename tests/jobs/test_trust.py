"""Results from elsewhere run no code: whoever gives a command says whether the Python that a model brings is run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from byte_model import save_family
from commands import refusal, success
from taken_settings import swept

from eexit.custom_generate.package import SETTING
from jobs import package, replay, sweep, timings, train
from jobs.files import chains

KEY = "unfrozen/confidence/0.2"
CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    def __init__(self, **fields):
        super().__init__(**fields)
        Path({mark!r}).touch()


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    model = save_family(folder / "model", "llama")
    (model / "own.py").write_text(CODE.format(mark=str(folder / "was run")))
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (model / "config.json").write_text(json.dumps(config))
    asked = {"rules": {"confidence": [0.2]}, "modes": ["normal", "unfrozen"], "trust_remote_code": True}
    return swept(folder / "sweep", model, [f"Why {number}?" for number in range(16)], **asked)


@pytest.fixture
def mark(results: Path) -> Path:
    """Return the file that the model's code makes when it is run, which is not there yet."""
    (path := results.parent / "was run").unlink(missing_ok=True)
    return path


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (replay.main, "--rules confidence=0.3"),
        (timings.main, ""),
        (train.main, "--what linear --out {}/exits"),
        (package.main, f"--configuration {KEY} --out {{}}/mine"),
        (chains.main, f"--configuration {KEY} --keep 50 --out {{}}/follow.jsonl"),
    ],
)
def test_a_stored_flag_runs_nothing(results: Path, mark: Path, tmp_path: Path, main: Any, words: str) -> None:
    told = refusal(main, results, *words.format(tmp_path).split())
    assert "give --trust-remote-code if you trust it" in told
    assert not mark.exists()


def test_a_sweep_runs_code_that_comes_with_its_model_only_when_told(results: Path, mark: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(results.parent / "model", tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "own"}))
    flags = ["--model", str(model), "--exit-every", "2", "--out", str(tmp_path / "out"), "--dry-run"]
    assert "can't be loaded" in refusal(sweep.main, *flags)
    assert not mark.exists()
    success(sweep.main, *flags, "--trust-remote-code")
    assert mark.exists()


def test_a_flag_that_is_given_runs_it_and_the_setting_says_so(results: Path, mark: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    success(package.main, results, "--configuration", KEY, "--out", folder, "--trust-remote-code", "--quiet")
    assert mark.exists()
    assert json.loads((folder / SETTING).read_text())["config"]["trust_remote_code"] is True
    assert "trust_remote_code=True" in (folder / "README.md").read_text()
