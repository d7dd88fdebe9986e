"""Arguments of `eexit.sweep` that can't be used are named in a line."""

from pathlib import Path
from typing import Any

import pytest
import torch

import eexit


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"ruls": {}}, "unknown key 'ruls' in eexit.sweep: did you mean rules?"),
        ({"rules": {"confidence": [7]}}, "rule confidence takes a threshold above 0 and up to 1, as in confidence=0.9, "
         "got 7 (rules in eexit.sweep)"),
        ({"max_new_tokens": 0}, "max_new_tokens must be ≥ 1, got 0 (max_new_tokens in eexit.sweep)"),
        ({"exit_layers": [9]}, "exit layer 9 is not below the final layer: {model} has layers 0…6, so exit_layers may "
         "go up to 5"),
        ({"control_modes": ["skip"]}, "control_modes skip has no effect: give controls_of RESULTS"),
        ({"probe": "nowhere"}, "probe nowhere is not a folder that is there: give one that eexit train made"),
        ({"model": 3}, "model must be a name, a path or a model of transformers, got '3'"),
        ({"tokenizer": "x"}, "tokenizer has no effect: a model that is named brings its own, so leave it out"),
        ({"revision": "v1"}, "revision v1 has no effect: model {model} is not fetched by a Hugging Face name, so leave "
         "revision out"),
        ({"dtype": torch.int8}, "unknown dtype 'int8': choose from auto, bfloat16, float16, float32 (dtype in "
         "eexit.sweep)"),
        ({"use": 5}, "use must be a path, as text or a Path, got 5"),
        ({"use": [None]}, "use must be a path, as text or a Path, got None"),
        ({"out": b"x"}, "out must be text, got b'x' (out in eexit.sweep)"),
        ({"system": b"x"}, "system must be text, got b'x' (system in eexit.sweep)"),
        ({"control_modes": 5}, "control_modes takes a list of modes, got 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_a_value_error_that_names_the_argument(
    model: str, tmp_path: Path, arguments: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        eexit.sweep(["one"], **{"model": model, "out": tmp_path / "out", "exit_every": 2, "quiet": True, **arguments})
    assert str(raised.value) == line.format(model=model)
    assert list(tmp_path.iterdir()) == []
