"""A model's facts are read once, and again after one of its files has changed."""

import json
import os
from pathlib import Path
from shutil import copyfile, copytree, rmtree
from typing import Any

import pytest
from byte_model import save_byte_model
from commands import asked_here
from safetensors.torch import load_file
from untrained import TINY, config_with, save_state_maps, stream_maps

from eexit.errors import UsageError
from eexit.plan import model_inspection
from eexit.plan.artefacts import WEIGHTS
from eexit.plan.model_inspection import InspectedModel, InspectionCache, _memory, inspect_model
from eexit.plan.runs import count_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.studies.cost_projection import shapes_of

PROMPT = "Hello."


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the functions that another process would have run; here, this process runs them."""
    asked: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(model_inspection, "call_in_subprocess", asked_here(asked.append))
    return asked


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_byte_model(tmp_path / "model")
    return tmp_path / "model"


def sweep(model: Path | str, **others: Any) -> SweepConfig:
    fixed = {"model": str(model), "prompts": [{"id": "0", "prompt": PROMPT}], "exit_every": 2}
    return SweepConfig.model_validate({**fixed, **others})


def seen(model: Path, **others: Any) -> tuple[Any, ...]:
    return inspect_model(sweep(model, **others), 8)


def test_what_was_found_is_found_again_without_looking(model: Path, looks: list[str]) -> None:
    first = seen(model)
    assert seen(model) == first
    memory: Any
    _, layers, memory = seen(model, exit_layers=[1, 3], max_new_tokens=7)  # a sweep's memory depends on the sweep
    found: Any = InspectionCache(sweep(model)).read()
    assert (layers, memory.weights) == ((1, 3), first[2].weights)
    assert memory.row == found.token * (len(PROMPT) // 4 + 1 + 7)  # the prompt in tokens of four characters, new tokens
    assert memory.cache == memory.row * min(8, count_runs(sweep(model)))
    assert seen(model, max_new_tokens=10 * found.context)[2].row == found.token * found.context
    with pytest.raises(UsageError, match="exit layer 6 is not below the final layer"):
        seen(model, exit_layers=[6])
    assert looks == ["_find"]
    shape, shapes = first[0]["shape"], shapes_of(str(model))
    n_weights = sum(part.numel() for part in load_file(model / "model.safetensors").values())
    assert (shape["width"], shape["vocabulary"], shape["parameters"]) == (shapes.width, shapes.vocabulary, n_weights)
    assert shape["head_in_layers"] == pytest.approx(shapes.head_in_layers)


def test_a_file_that_changed_is_seen_whatever_its_size_and_time(model: Path, looks: list[str]) -> None:
    (vocabulary := model / "vocab.bin").write_bytes(b"ab")
    seen(model)
    before = vocabulary.stat()
    vocabulary.rename(model.with_name("keeps the inode"))
    vocabulary.write_bytes(b"ba")
    os.utime(vocabulary, ns=(before.st_atime_ns, before.st_mtime_ns))
    seen(model)
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    seen(model)
    assert len(looks) == 3
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(UsageError, match="does not fit"):
        seen(model)


def test_it_depends_on_settings(model: Path, looks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is one, since `--dtype auto` depends on it, and machines may have one name and share a user's cache."""
    other = copytree(model, tmp_path / "other")
    for _ in range(2):
        seen(model)
        seen(model, dtype="float32")
        seen(other)
    assert len(looks) == 3
    monkeypatch.setattr(model_inspection, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("model name\t: one\nflags\t\t: fpu avx2\n\n" * 2)
    assert seen(model) == seen(model)
    assert len(looks) == 4


def test_what_is_damaged_gone_or_of_the_hub_is_done_without(model: Path, looks: list[str], tmp_path: Path) -> None:
    first = seen(model)
    kept = InspectionCache(sweep(model)).path
    kept.write_bytes(kept.read_bytes()[:-9])
    assert seen(model) == first
    other = copytree(model, tmp_path / "other")
    model.rename(tmp_path / "elsewhere")
    seen(other)
    assert not kept.exists()
    assert InspectionCache(sweep("some/model")).read() is None
    rmtree(kept.parent)
    copyfile(other / "config.json", kept.parent)  # in place of the folder
    assert seen(other) == seen(other)
    assert len(looks) == 5


def test_state_maps_need_memory_on_top(tmp_path: Path) -> None:
    place = save_state_maps(tmp_path / "maps", stream_maps(), TINY)
    config = config_with(kv_maps=str(place), modes=["mapped_residual"])
    mapped: Any = _memory(config, 1, InspectedModel(TINY, 1000, 10, None))
    assert mapped.weights == 1000 + (place / WEIGHTS).stat().st_size
