"""Captured values: equal ones have one description, others another, and a value without a digest is refused by name."""

import functools
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eexit.method.captured_values import NotDescribedError, captured_values


def capturing(value: Any) -> Callable[[], Any]:
    return lambda: value


def described(value: Any) -> str:
    return captured_values(capturing(value))["value"]


def defined(text: str, **names: Any) -> dict[str, Any]:
    """Return the globals after running a text without a file, as in a notebook."""
    names["__name__"] = "__main__"
    exec(compile(text, "<nowhere>", "exec"), names)
    return names


def function_of(text: str, **names: Any) -> FunctionType:
    found: FunctionType = defined(text, **names)["f"]
    return found


@dataclass
class Options:
    threshold: float


class Slotted:
    __slots__ = ("threshold",)

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold


class Side(Enum):
    LEFT, RIGHT = 1, 2


def linear(weight: float) -> nn.Module:
    layer = nn.Linear(2, 1).requires_grad_(False)
    for part in layer.parameters():
        part.fill_(weight)
    return layer


def within(value: Any) -> list[Any]:
    held: list[Any] = [value]
    held.append(held)
    return held


DECORATED = """
def w(g):
    @functools.wraps(g)
    def h(layer): return g(layer) > threshold
    return h
@w
def f(layer): return 1
"""
MAKE: dict[str, Callable[[Any], Any]] = {
    "a large integer": lambda n: n + 10**5000,
    "text": str,
    "a list": lambda n: [n],
    "a dict": lambda n: {"a": n},
    "a set": lambda n: {n, "a", "b", "c"},
    "a list inside itself": within,
    "an enum": Side,
    "a dataclass": Options,
    "slots": Slotted,
    "a pattern": lambda n: re.compile(f"a{n}"),
    "a tensor": lambda n: torch.tensor([1.0, n]),
    "a bfloat16 tensor": lambda n: torch.tensor(float(n), dtype=torch.bfloat16),
    "a strided tensor": lambda n: torch.full((2, 2), n).T,
    "a conjugated tensor": lambda n: torch.tensor([complex(0, n)]).conj(),
    "an array": lambda n: np.array([n, 3]),
    "an array of objects": lambda n: np.array([n, "a", None], object),
    "a module of torch": linear,
    "a dtype": lambda n: (torch.float32, torch.float16, torch.bfloat16)[n],
    "a partial": lambda n: functools.partial(max, n),
    "a method": lambda n: Options(n).__eq__,
    "a built-in method": lambda n: [n].append,
    "a function": capturing,
    "a function in a function": lambda n: capturing(capturing(n)),
    "a default argument": lambda n: lambda x=n: x,
    "a keyword's default": lambda n: lambda *, x=n: x,
    "a cached function": lambda n: functools.cache(capturing(n)),
    "a wrapper of a library": lambda n: torch.no_grad()(capturing(n)),
    "a wrapper that compiles": lambda n: torch.compile(capturing(n)),
    "a function's attribute": lambda n: defined(f"def f(): return f.x\nf.x = {n}")["f"],
    "a helper's text": lambda n: function_of(f"def g(): return {n}\ndef f(): return g()"),
    "a helper's default": lambda n: function_of("def g(x=y): return x\ndef f(): return g()", y=n),
    "a helper's value": lambda n: function_of("def g(): return y\ndef f(): return g()", y=n),
    "functions that call each other": lambda n: function_of(f"def g(): return f() + {n}\ndef f(): return g()"),
    "a decorator's text": lambda n: function_of(DECORATED.replace("threshold", str(n)), functools=functools),
    "a decorator's value": lambda n: function_of(DECORATED, functools=functools, threshold=n),
    "a class": lambda n: defined(f"class A:\n x = {n}")["A"],
    "a method's text": lambda n: defined(f"class A:\n def x(self): return {n}")["A"],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("what", MAKE)
def test_equal_values_are_described_alike_and_others_are_not(what: str) -> None:
    one, again, other = (MAKE[what](n) for n in (1, 1, 2))
    assert described(one) == described(again) != described(other)
    if callable(one):
        assert captured_values(one) == captured_values(again) != captured_values(other)


def test_type_and_shape_are_part_of_a_value() -> None:
    values: list[Any] = [
        1, 1.0, True, "1", [1], (1,), {1}, {1: None}, torch.tensor(1), torch.tensor([1]), torch.tensor([1.0]),
        torch.tensor([[1]]), np.array([1]), np.array([1.0]), np.array([[1]]), np.int64(1), None, [], [[1]],
    ]  # fmt: skip
    assert len({described(value) for value in values}) == len(values)


def test_what_is_written_in_main_is_no_library_whatever_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", find_spec("pytest"))  # as python -m pytest does
    one, other = (function_of(f"def f(): return {n}") for n in (1, 2))
    assert described(one) != described(other)


def test_numbers_are_shown_modules_are_named_and_what_is_not_used_is_left_out() -> None:
    text = "def f():\n    return torch.relu(x), y, z, len(w)"
    assert captured_values(function_of(text, torch=torch, x=3, y=0.5, z=None, unused=5)) == {
        "torch": "module torch", "x": "3", "y": "0.5", "z": "None",
    }  # fmt: skip
    inside = "def f(layer):\n    def g(): return [a for _ in b]\n    return g() + layer.c + (lambda: d)()"
    assert captured_values(function_of(inside, a=1, b=2, c=3, d=4)).keys() == {"a", "b", "d"}, "c is an attribute"
    of_module = "def f(): return helpers.threshold"
    assert captured_values(function_of(of_module, helpers=helper_module(3))) == {"helpers.threshold": "3"}
    assert captured_values(function_of("def f():\n import torch, json\n return torch")) == {}
    helper = "def helper(x, at=start): return x > at + threshold\ndef f(): return helper(1)"
    found = captured_values(function_of(helper, threshold=3, start=1))
    assert found.pop("helper").startswith("function ")
    assert found == {"helper.at=": "1", "helper.threshold": "3"}


def helper_module(threshold: int) -> ModuleType:
    module = ModuleType("of_a_user")
    module.__dict__.update(threshold=threshold, unused=threading.Lock())
    return module


def test_a_value_without_a_digest_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()
    unusable = lock, (_ for _ in ()), [lock], torch.eye(2).to_sparse(), torch.empty(2, device="meta"), helper_module(1)
    for value in (*unusable, capturing(lock)):
        with pytest.raises(NotDescribedError, match=r"^value \("):
            described(value)
    (tmp_path / "of_a_user_too.py").write_text("threshold = 3")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotDescribedError, match="of_a_user_too is imported inside: import it at the top"):
        captured_values(function_of("def f():\n import of_a_user_too\n return of_a_user_too.threshold"))


def test_another_process_describes_them_alike() -> None:
    """Sets have another order in each process, since each hashes text by a seed of its own."""
    code = (
        "import torch\nfrom eexit.method.captured_values import captured_values\n"
        "s, t = {'a', 'b', 'c', 'd', 'e'}, torch.arange(3.0)\n"
        "def g(): return [x for x in s if (lambda: t)()]\n"
        "def f(): return g(), torch.no_grad\n"
        "print(captured_values(f))"
    )
    run = functools.partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len({run(env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}) == 1
