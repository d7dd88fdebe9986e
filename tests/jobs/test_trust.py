"""Results from elsewhere run no code: whoever gives a command says whether the Python that a model brings is run."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from byte_model import save_family
from commands import here, refusal
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
def mark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mark") / "was run"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, mark: Path) -> Path:
    folder = tmp_path_factory.mktemp("code")
    model = save_family(folder / "model", "llama")
    (model / "own.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (model / "config.json").write_text(json.dumps(config))
    asked = {"rules": {"confidence": [0.2]}, "modes": ["normal", "unfrozen"], "trust_remote_code": True}
    return swept(folder / "sweep", model, [f"Why {number}?" for number in range(16)], **asked)


COMMANDS: list[tuple[Callable[[Sequence[str]], int], str]] = [
    (replay.main, "--rules confidence=0.3"),
    (timings.main, ""),
    (train.main, "--what linear --out exits"),
    (package.main, f"--configuration {KEY} --out mine"),
    (chains.main, f"--configuration {KEY} --keep 50 --out follow.jsonl"),
]


@pytest.mark.parametrize(("main", "words"), COMMANDS)
def test_a_stored_flag_runs_nothing(
    results: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    main: Callable[[Sequence[str]], int], words: str,
) -> None:  # fmt: skip
    mark.unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)
    told = refusal(main, results, *words.split())
    assert "give --trust-remote-code if you trust it" in told
    assert not mark.exists()


def test_a_sweep_runs_code_that_comes_with_its_model_only_when_told(results: Path, mark: Path, tmp_path: Path) -> None:
    mark.unlink(missing_ok=True)
    model = Path(shutil.copytree(results.parent / "model", tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "own"}))
    flags = ["--model", str(model), "--exit-every", "2", "--out", str(tmp_path / "out"), "--dry-run"]
    assert "can't be loaded" in refusal(sweep.main, *flags)
    assert not mark.exists()
    here(sweep.main, *flags, "--trust-remote-code")
    assert mark.exists()


def test_a_flag_that_is_given_runs_it_and_the_setting_says_that_it_was_needed(
    results: Path, mark: Path, tmp_path: Path
) -> None:
    mark.unlink(missing_ok=True)
    folder = tmp_path / "mine"
    done = here(package.main, results, "--configuration", KEY, "--out", folder, "--trust-remote-code", "--quiet")
    assert done.returncode == 0, done.stderr
    assert mark.exists()
    assert json.loads((folder / SETTING).read_text())["config"]["trust_remote_code"] is True
    assert "trust_remote_code=True" in (folder / "README.md").read_text()
