"""What exits cost at the unit costs of another model: counted by hand, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from eexit.errors import UsageError
from eexit.method.screen_size import ScreenSize
from eexit.studies.cost_projection import KNOWN, ModelShape, cost_at, full_cost_at, shapes_of

SMALL = ModelShape("small", layers=4, width=8, heads=4, kv_heads=2, head_width=2, inner=16, vocabulary=100)
REST = "head_width=2,inner=16,vocabulary=100"
NAMES = ("layers_run", "kv_writes", "head_reads", "screen_reads", "probe_reads", "gate_reads", "screen_misses")


def test_costs_are_those_of_matrices_one_by_one() -> None:
    in_layers = {"llama-2-7b": 0.65, "llama-3-8b": 2.4, "qwen2.5-7b": 2.3, "gemma-2-9b": 4.6}
    assert {name: shape.head_in_layers for name, shape in KNOWN.items()} == pytest.approx(in_layers, abs=0.05)
    query = output = 8 * 4 * 2
    key = value = 8 * 2 * 2
    layer, head = query + key + value + output + 3 * 8 * 16, 8 * 100
    counts = dict(zip(NAMES, np.array([[20.0], [6.0], [5.0], [3.0], [2.0], [1.0], [9.0]]), strict=True))
    # Of a model with eight layers: each of them stands for half a layer.
    found = cost_at(SMALL, counts, 8, ScreenSize(2, 11))
    screened = 2 * 8 + 2 * 100 + 11 * 8
    expected = 10 * layer + 3 * (key + value) + 5 * head + 3 * screened + (2 + 1) * 8
    assert found.tolist() == [expected]
    assert full_cost_at(SMALL, np.array([5.0])).tolist() == [5 * (4 * layer + head)]


def test_shapes_come_from_a_name_a_folder_or_a_text_and_others_are_refused(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 4, "hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
              "intermediate_size": 16, "vocab_size": 100}  # fmt: skip
    folder = tmp_path / "small"
    folder.mkdir()
    for written in (config, {"text_config": config | {"head_dim": 2}}):
        (folder / "config.json").write_text(json.dumps(written))
        assert shapes_of(str(folder)) == SMALL
    assert shapes_of(f"layers=4,width=8,heads=4,kv_heads=2,{REST}").layer == SMALL.layer
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8}))
    for text, message in (
        (str(folder), "a shape is missing or no whole number"),
        ("gpt-5", "is no model whose shapes are known"),
        ("layers=4,width=8", "--unit-costs-of takes layers, width, heads"),
        (f"layers=4,width=8,heads=4,kv_heads=3,{REST}", "makes no decoder"),
        (f"layers=0,width=8,heads=4,kv_heads=2,{REST}", "makes no decoder"),
        (f"layers=x,width=8,heads=4,kv_heads=2,{REST}", "missing or no whole number"),
    ):
        with pytest.raises(UsageError, match=message):
            shapes_of(text)
