"""What was found out about a model, kept in the user's cache until one of its files changes.

Looking at a model imports what takes seconds, and reads all its weights for their digest, which takes minutes for large
ones. A model of the hub is looked at each time, since its files may change there. This module does not import torch.
"""

import hashlib
import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from platformdirs import user_cache_path

from eexit.model.sources import files_of, within
from eexit.output.whole_files import write_whole
from eexit.plan.config import SweepConfig

FORMAT: Final = 1  # of what is kept, and of how it is found
# What is found depends on these fields of a sweep, on these packages, and on the devices that a process may use.
FIELDS: Final = ("model", "revision", "trust_remote_code", "dtype", "adapter")
PACKAGES: Final = ("torch", "transformers")
DEVICES: Final = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class ModelFound:
    """A model's description, and what it needs in memory, in bytes; None where its code can't run without weights."""

    description: dict[str, Any]
    weights: int | None = None
    token: int = 0  # keys and values of one token, the teacher's and the student's
    context: int | None = None  # tokens that a row may have; None without a limit


class KeptFacts:
    """What is kept about a sweep's model, as long as its files are those that were looked at."""

    def __init__(self, config: SweepConfig):
        fields = [str(getattr(config, name)) for name in FIELDS]
        files = files_of(config.model)
        adapter = [] if config.adapter is None else within(Path(config.adapter).expanduser())
        about = [FORMAT, *fields, *map(version, PACKAGES), platform.node(), os.environ.get(DEVICES)]
        self.state = [about, [_state(path) for path in [*files, *adapter]]]
        self.first = str(files[0].resolve()) if files else ""
        name = hashlib.sha256(json.dumps([fields, self.first]).encode()).hexdigest()
        self.path = user_cache_path("eexit") / "facts" / f"{name}.json"

    def read(self) -> ModelFound | None:
        """What was found before, if no file has changed since."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(self.path.read_bytes())
            return ModelFound(**kept["found"]) if kept["state"] == self.state else None
        return None

    def keep(self, found: ModelFound) -> None:
        """Keep this, and remove what was kept about models that are gone. A cache that can't be written is no error."""
        if not self.first:
            return
        with suppress(OSError, ValueError, TypeError, KeyError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps({"of": self.first, "state": self.state, "found": asdict(found)}))
            for path in self.path.parent.glob("*.json"):
                if not Path(json.loads(path.read_bytes())["of"]).exists():
                    path.unlink()


def _state(path: Path) -> list[int | str]:
    """What changes with a file: even one of the same size and time, unpacked in its place, is another inode."""
    found = path.stat()
    return [str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
