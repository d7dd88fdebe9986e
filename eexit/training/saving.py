"""The state of a training in the artefact's folder, so that it can go on: one file, replaced in one step.

Reading how far a training has come does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open

from eexit.errors import UsageError, first_line
from eexit.output.whole_files import becoming, plain_errors
from eexit.plan.artefacts import STATE

if TYPE_CHECKING:
    from torch import Tensor

_METADATA: Final = "training"


@dataclass(frozen=True)
class Reached:
    """How far a training has come, whatever it trains."""

    blocks: int = 0  # that are in the sums
    tokens: int = 0  # of their answers
    seconds: float = 0.0


@dataclass(frozen=True)
class Saved:
    """What a folder's training is, as in JSON, and how far it has come."""

    identity: Mapping[str, Any]
    reached: Reached = field(default_factory=Reached)


def read_saved(folder: Path) -> Saved | None:
    """The training that `folder` holds the state of; None if it holds none. Raises `UsageError` for a damaged one."""
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            held = json.loads(file.metadata()[_METADATA])
        return Saved(held["identity"], Reached(**held["reached"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no state of a training ({first_line(error)}): remove it, or choose another --out"
        ) from error


def load_state(folder: Path) -> dict[str, Tensor]:
    """The tensors of the state that `folder` holds, on the CPU."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(folder / STATE)
    return tensors


def save_state(folder: Path, saved: Saved, state: Mapping[str, Tensor]) -> None:
    """Replace the state in `folder`. Raises `OSError`; then the one before is still there."""
    save_tensors(folder / STATE, state, {_METADATA: json.dumps(asdict(saved))})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a file of tensors, whole or not at all. Raises `OSError`."""
    from safetensors.torch import save_file

    with becoming(path) as temporary, plain_errors(path):
        save_file({name: part.detach().cpu().contiguous() for name, part in tensors.items()}, temporary, metadata)
