"""Models that have passed their check here before: loaded again, they need not pass it again.

Passing the check takes about as long as a dozen passes through all weights. It is kept in the user's cache folder, for
as long as nothing has changed that it depends on: the model's modules, their configuration and a sample of their
weights, the sources of both the model and this package, the libraries, the C compiler and the machine.
"""

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch
from platformdirs import user_cache_path
from torch import Tensor
from transformers import PreTrainedModel

from eexit.model.quantization import parts_of
from eexit.model.sources import digest_of
from eexit.output.whole_files import keep

PACKAGES: Final = ("torch", "transformers")
WHOLE: Final = 2**16  # numbers of a weight that are all looked at; of a larger one, as many from its start


class CheckedBefore:
    """Whether a model has passed its check. `folder` is where that is kept, by default in the user's cache."""

    def __init__(self, model: PreTrainedModel, folder: Path | None = None):
        name = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
        for part in _weights(model):
            name.update(part)
        state = hashlib.sha256(repr([_libraries(), str(model), *map(digest_of, _sources(model))]).encode())
        self.path = (folder or user_cache_path("eexit") / "checked") / name.hexdigest()
        self.state = state.hexdigest()

    def passed(self) -> bool:
        with suppress(OSError):
            return self.path.read_text() == self.state
        return False

    def keep(self) -> None:
        """Keep that it has passed."""
        keep(self.path, self.state)


def _libraries() -> list[str | None]:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    return [*map(version, PACKAGES), sys.version, platform.node(), torch.backends.cpu.get_cpu_capability(), compiler]


def _weights(model: PreTrainedModel) -> Iterator[bytes]:
    for name, whole in (*model.named_parameters(), *model.named_buffers()):
        for part in parts_of(whole):
            yield f"{name} {part.dtype} {part.device} {tuple(part.shape)}".encode()
            yield _bytes(part)


def _bytes(part: Tensor) -> bytes:
    if part.layout != torch.strided:  # packed for this CPU
        return b""
    return part.detach().flatten()[:WHOLE].cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _sources(model: PreTrainedModel) -> list[Path]:
    """The files of the code that a model's modules and this package run."""
    found = {getattr(sys.modules[type(module).__module__], "__file__", None) for module in model.modules()}
    own = [path for path in Path(__file__).parents[2].rglob("*") if path.suffix in (".py", ".c", ".h")]
    return sorted({*map(Path, filter(None, found)), *own})
