"""The state of a training that goes on."""

from pathlib import Path

import pytest

from eexit.errors import UsageError
from eexit.plan.artefacts import STATE
from eexit.training.training_checkpoint import read_saved


def test_a_damaged_state_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(UsageError, match=r"is no training's checkpoint \(.*\): remove it, or choose another --out"):
        read_saved(tmp_path)
