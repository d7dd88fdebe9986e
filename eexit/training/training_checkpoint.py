"""The saved state of a training: one file in the artefact's folder, replaced in one step, from which it resumes.

Reading the progress of a training does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open

from eexit.errors import UsageError, first_line
from eexit.output.atomic_files import atomic_path, plain_errors
from eexit.plan.artefacts import STATE

if TYPE_CHECKING:
    from torch import Tensor

_METADATA: Final = "training"


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a training."""

    blocks: int = 0  # in the sums
    tokens: int = 0  # of the answers in these blocks
    seconds: float = 0.0


@dataclass(frozen=True)
class TrainingCheckpoint:
    """Progress of a training, and its identity: the plan as JSON, which must match to resume."""

    identity: Mapping[str, Any]
    reached: TrainingProgress = field(default_factory=TrainingProgress)


def read_saved(folder: Path) -> TrainingCheckpoint | None:
    """Return the training whose state is in `folder`; None without a state. Raise `UsageError` for a damaged state."""
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            held = json.loads(file.metadata()[_METADATA])
        return TrainingCheckpoint(held["identity"], TrainingProgress(**held["reached"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no training's checkpoint ({first_line(error)}): remove it, or choose another --out"
        ) from error


def load_state(folder: Path) -> dict[str, Tensor]:
    """Load the tensors of the state in `folder`, on the CPU."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(folder / STATE)
    return tensors


def save_state(folder: Path, saved: TrainingCheckpoint, state: Mapping[str, Tensor]) -> None:
    """Replace the state in `folder`. If `OSError` is raised, the previous state is still there."""
    save_tensors(folder / STATE, state, {_METADATA: json.dumps(asdict(saved))})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a file of tensors, whole or not at all. Raise `OSError` if that fails."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary, plain_errors(path):
        save_file({name: part.detach().cpu().contiguous() for name, part in tensors.items()}, temporary, metadata)
