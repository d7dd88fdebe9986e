"""Digests of files, by which models, adapters and learned exits are told apart. This module does not import torch."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from eexit.errors import UsageError

PEFT_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
MODEL_CONFIG: Final = "config.json"


def sha256(paths: Iterable[Path]) -> str:
    """SHA-256 of the concatenation of these files."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                total.update(block)
    return total.hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, which takes a second per gigabyte, once per process as long as the file doesn't change."""
    found = path.stat()
    return _digest_of(path, found.st_size, found.st_mtime_ns, found.st_ino)


@cache
def _digest_of(path: Path, *state: int) -> str:
    return sha256([path])


def is_peft(folder: Path) -> bool:
    """Whether peft saved an adapter there, not transformers a model. Raises `UsageError` if neither did."""
    if (folder / MODEL_CONFIG).is_file() and not (folder / PEFT_FILES[0]).is_file():
        return False
    for name in PEFT_FILES:
        if not (folder / name).is_file():
            raise UsageError(
                f"--adapter {folder} has no {name}: give a folder that peft has saved an adapter in, or transformers a "
                "fine-tuned model"
            )
    return True
