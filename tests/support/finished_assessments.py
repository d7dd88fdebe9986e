"""A finished assessment of a model of which exits pay, which tests copy and take things from."""

import json
from pathlib import Path
from typing import Any

import pytest
from assessing import asked_of, assess_here, make_small
from exiting_models import save_exiting_model

from cluster.assessment import learned
from cluster.assessment.asked import Asked
from cluster.assessment.record import RECORD, Record

RULES = {"confidence": (0.5, 0.9, 0.99), "entropy": (0.1,)}  # replays of which land one after the other


def quick(model: Path, **others: Any) -> Asked:
    return asked_of(model, **{"margin": 0.3, "batches": (1,), **others})


@pytest.fixture(scope="session")
def paying(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model, and the folder."""
    folder = tmp_path_factory.mktemp("paying")
    save_exiting_model(folder / "model", n_layers=8, sharp=60)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        patch.setattr(learned, "RULES", RULES)
        assess_here(quick(folder / "model"), folder / "out")
    return folder / "model", folder / "out"


def forget(out: Path, *steps: str) -> Record:
    """The record of an assessment, from which these steps are taken."""
    record = Record.open(out, json.loads((out / RECORD).read_text())["asked"])
    for step in steps:
        record.begins(step)
    record.write()
    return record
