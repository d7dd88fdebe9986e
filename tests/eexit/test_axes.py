"""The suffix convention: the capital letters of a name such as `kl_BE` are the axes of its tensor.

While rows are decoded, all axes with the same letter must have the same size, which is fixed for some letters. Checked
are all records of a step and all arguments of its functions.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from axes import EXITABLE, SOME
from transformers import PreTrainedModel
from untrained import KV_MAPS, PROBE

from eexit.decode import exit_visitor, full_depth, groups, predictors
from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.method.modes import MODES
from eexit.model.layers import Decoder
from eexit.plan.configuration import EarlyExit, NoExit

DECODING = DecodingConfig(
    EXITABLE, max_new_tokens=6, eos_token_ids=frozenset(), probe=PROBE, kv_maps=KV_MAPS, record_top_k=2
)
KNOWN = {"E": 3, "X": 4, "K": 2, "V": 97, "D": 32, "F": 32}


def check(name: str, value: Any, sizes: dict[str, int]) -> int:
    """Check an array, or all arrays of a record; return how many there were. `sizes` are those of letters so far."""
    if is_dataclass(value) and not isinstance(value, type):
        own = dict(KNOWN)  # a record has letters of its own: in one B may be all rows, in another some of them
        return sum(check(field.name, getattr(value, field.name), own) for field in fields(value))
    suffix = re.search(r"_([A-Z1]+)$", name)
    if not suffix or not isinstance(value, torch.Tensor | np.ndarray):
        return 0
    assert value.ndim == len(suffix[1]), f"{name} has the shape {tuple(value.shape)}"
    for letter, size in zip(suffix[1], value.shape, strict=True):
        expected = 1 if letter == "1" else sizes.setdefault(letter, size)
        assert size == expected, f"{name} has the shape {tuple(value.shape)}, but {letter} is {expected}"
    return 1


def checked(function: Callable[..., Any], seen: dict[str, int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        sizes = dict(KNOWN)
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        result = function(*args, **kwargs)
        n_seen = sum(check(name, value, sizes) for name, value in given.items()) + check("", result, sizes)
        seen[function.__name__] = seen.get(function.__name__, 0) + n_seen
        return result

    return call


PARTS = {
    full_depth: ["full_depth_pass"],
    predictors: ["pick_tokens"],
    groups.ExitPlan: ["decide"],
    exit_visitor.ExitVisitor: ["_decide", "_read_next_tokens", "finish"],
    predictors.LMHead: ["head_input", "read_layers", "read_next_tokens"],
}


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_names_state_the_axes(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    seen: dict[str, int] = {}
    for module, names in PARTS.items():
        for name in names:
            monkeypatch.setattr(module, name, checked(getattr(module, name), seen))
    exits = [EarlyExit(mode, rule, SOME[rule][0]) for mode in MODES for rule in SOME]
    requests = [Request((5, 80, 7), NoExit()), *(Request((5, 80, 7), configuration) for configuration in exits)]
    decoding = DecodingConfig(**{**vars(DECODING), "temperature": temperature})
    for _, trace in Engine(Decoder(llama), decoding).generate(requests):
        assert isinstance(trace, RequestOutput)
        n_columns = len(fields(RequestOutput)) - 3  # without how it finished, what was counted, and rounds
        assert check("", replace(trace, counts=None), {}) == n_columns
    functions = {name for names in PARTS.values() for name in names if temperature or name != "pick_tokens"}
    assert {name for name, n in seen.items() if n} >= functions


def test_the_check_tells_what_has_other_axes() -> None:
    check("kl_BE", torch.zeros(2, 3), {"E": 3})
    for name, shape in (("kl_BE", (2, 4)), ("kl_BE", (2, 3, 1)), ("token_U1", (2, 2))):
        with pytest.raises(AssertionError, match=f"{name} has the shape"):
            check(name, torch.zeros(shape), {"E": 3})
