"""Arguments of `eexit.sweep` and of other calls that can't be used are named in a line."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import eexit

ANY: Any = 5


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"ruls": {}}, "unknown key 'ruls' in eexit.sweep: did you mean rules?"),
        ({"rules": {"confidence": [7]}}, "rule confidence takes a threshold above 0 and up to 1, as in confidence=0.9, "
         "got 7 (rules in eexit.sweep)"),
        ({"max_new_tokens": 0}, "max_new_tokens must be ≥ 1, got 0 (max_new_tokens in eexit.sweep)"),
        ({"exit_layers": [9]}, "exit layer 9 is not below the final layer: {model} has layers 0…6, so exit_layers may "
         "go up to 5"),
        ({"control_modes": ["skip"]}, "control_modes skip has no effect: give controls_of RESULTS"),
        ({"control_modes": 5}, "control_modes takes a list of modes, got 5"),
        ({"probe": "nowhere"}, "probe nowhere is not a folder that is there: give one that eexit train made"),
        ({"model": 3}, "model must be a name, a path or a model of transformers, got '3'"),
        ({"tokenizer": "x"}, "tokenizer has no effect: a model that is named brings its own, so leave it out"),
        ({"revision": "v1"}, "revision v1 has no effect: model {model} is not fetched by a Hugging Face name, so leave "
         "revision out"),
        ({"dtype": torch.int8}, "unknown dtype 'int8': choose from auto, bfloat16, float16, float32 (dtype in "
         "eexit.sweep)"),
        ({"use": [None]}, "use must be a path, as text or a Path, got None"),
        ({"out": b"x"}, "out must be text, got b'x' (out in eexit.sweep)"),
        (lambda: eexit.open(ANY), "results must be a path, as text or a Path, got 5"),
        (lambda: eexit.load(ANY), "folder must be a path, as text or a Path, got 5"),
        (lambda: eexit.mode(ANY), "a mode is made of a function that has a name, as def gives it one, got 5"),
        (lambda: eexit.rule()(partial(len)), "a rule is made of a function that has a name, as def gives it one, got "
         "functools.partial(<built-in function len>)"),
        (lambda: eexit.load_default_model_and_tokenizer(dtype="float31"), "unknown dtype 'float31': did you mean "
         "float32 or float16? (dtype in load_default_model_and_tokenizer)"),
    ],
)  # fmt: skip
def test_a_value_error_names_the_argument(model: str, tmp_path: Path, given: Any, line: str) -> None:
    fields = {"model": model, "out": tmp_path / "out", "exit_every": 2, "quiet": True}
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        given() if callable(given) else eexit.sweep(["one"], **{**fields, **given})
    assert str(raised.value) == line.format(model=model)
    assert list(tmp_path.iterdir()) == []
