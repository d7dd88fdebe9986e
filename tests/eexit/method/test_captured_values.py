"""Captured values: equal ones have one description, others another, and a value without a digest is refused by name."""

import functools
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
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


MAKE: dict[str, Callable[[Any], Any]] = {
    "an integer": lambda n: n,
    "a large integer": lambda n: n + 10**5000,
    "a float": float,
    "text": str,
    "bytes": lambda n: bytes([n]),
    "a list": lambda n: [n],
    "a tuple": lambda n: (n, (n,)),
    "a dict": lambda n: {"a": n},
    "a set": lambda n: {n, "a", "b", "c"},
    "a range": range,
    "a slice": slice,
    "a list inside itself": within,
    "an enum": Side,
    "a dataclass": Options,
    "slots": Slotted,
    "a pattern": lambda n: re.compile(f"a{n}"),
    "a path": lambda n: Path(f"a{n}"),
    "a tensor": lambda n: torch.tensor([1.0, n]),
    "a bfloat16 tensor": lambda n: torch.tensor(float(n), dtype=torch.bfloat16),
    "a strided tensor": lambda n: torch.full((2, 2), n).T,
    "a conjugated tensor": lambda n: torch.tensor([complex(0, n)]).conj(),
    "an array": lambda n: np.array([n, 3]),
    "an array of objects": lambda n: np.array([n, "a", None], object),
    "a number of numpy": np.float32,
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
    "a function's attribute": lambda n: defined(f"def f(): return f.x\nf.x = {n}")["f"],
    "a text's function": lambda n: function_of(f"def f(): return {n}"),
    "a class": lambda n: defined(f"class A:\n x = {n}")["A"],
    "a method's text": lambda n: defined(f"class A:\n def x(self): return {n}")["A"],
}  # fmt: skip


@pytest.mark.parametrize("what", MAKE)
def test_equal_values_are_described_alike_and_others_are_not(what: str) -> None:
    one, again, other = (described(MAKE[what](n)) for n in (1, 1, 2))
    assert one == again != other


def test_type_and_shape_are_part_of_a_value() -> None:
    values: list[Any] = [
        1, 1.0, True, "1", [1], (1,), {1}, {1: None}, torch.tensor(1), torch.tensor([1]), torch.tensor([1.0]),
        torch.tensor([[1]]), np.array([1]), np.array([1.0]), np.array([[1]]), np.int64(1), None, [], [[1]],
    ]  # fmt: skip
    assert len({described(value) for value in values}) == len(values)


def test_numbers_are_shown_and_modules_are_named() -> None:
    text = "def f():\n    return torch.relu(x), y, z, len(w)"
    assert captured_values(function_of(text, torch=torch, x=3, y=0.5, z=None, unused=5)) == {
        "torch": "module torch", "x": "3", "y": "0.5", "z": "None",
    }  # fmt: skip


def test_names_are_found_in_functions_inside_and_attributes_are_none() -> None:
    text = "def f(layer):\n    def g(): return [a for _ in b]\n    return g() + layer.c + (lambda: d)()"
    found = captured_values(function_of(text, a=1, b=2, c=3, d=4))
    assert sorted(found) == ["a", "b", "d"]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("wrap", [torch.compile, torch.no_grad(), functools.cache])
def test_a_librarys_wrapper_counts_by_the_wrapped_function(wrap: Callable[[Any], Any]) -> None:
    one, again, other = (wrap(capturing(n)) for n in (1, 1, 2))
    assert described(one) == described(again) != described(other)
    assert captured_values(one) == captured_values(again) != captured_values(other)


def helper_module(threshold: int) -> ModuleType:
    module = ModuleType("of_a_user")
    module.__dict__.update(threshold=threshold, unused=threading.Lock())
    return module


def test_of_a_users_module_what_is_used_counts() -> None:
    text = "def f(): return helpers.threshold"
    found = [captured_values(function_of(text, helpers=helper_module(n))) for n in (3, 30)]
    assert found == [{"helpers.threshold": "3"}, {"helpers.threshold": "30"}]


def test_a_helper_counts_with_its_text_its_defaults_and_what_it_captures() -> None:
    helpers = "def helper(x, at=start): return x > at + threshold"
    same, other_text = helpers, helpers.replace(">", "<")
    found = {
        captured_values(function_of(f"{text}\ndef f(): return helper(1)", threshold=threshold, start=start))["helper"]
        for text, threshold, start in ((same, 1, 1), (same, 2, 1), (same, 1, 2), (other_text, 1, 1), (same, 1, 1))
    }
    assert len(found) == 4
    rule = function_of(f"{helpers}\ndef f(): return helper(1)", threshold=3, start=1)
    assert {name: value for name, value in captured_values(rule).items() if name != "helper"} == {
        "helper.at=": "1", "helper.threshold": "3",
    }  # fmt: skip


def test_functions_that_call_each_other() -> None:
    text = "def g(n): return f(n) + {}\ndef f(n): return n and g(n - 1)"
    one, again, other = (captured_values(function_of(text.format(n))) for n in (1, 1, 2))
    assert one == again != other
    assert sorted(one) == ["g", "g.f"]


def test_a_decorator_of_the_users_counts() -> None:
    def decorated(text: str, threshold: int) -> dict[str, str]:
        wrapper = f"def w(g):\n @functools.wraps(g)\n def h(layer): return {text}\n return h"
        return captured_values(
            function_of(f"{wrapper}\n@w\ndef f(layer): return 1", functools=functools, threshold=threshold)
        )

    one, again, *others = (
        decorated(f"g(layer) {sign} threshold", n) for sign, n in ((">", 1), (">", 1), (">", 2), ("<", 1))
    )
    assert one == again
    assert one not in others


UNUSABLE: dict[str, Any] = {
    "a lock": threading.Lock(),
    "a generator": (_ for _ in ()),
    "a lock in a list": [threading.Lock()],
    "a sparse tensor": torch.eye(2).to_sparse(),
    "a tensor without numbers": torch.empty(2, device="meta"),
    "a user's module as a whole": helper_module(1),
    "a function that captures a lock": capturing(threading.Lock()),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_value_without_a_digest_is_refused_by_its_name(what: str) -> None:
    with pytest.raises(NotDescribedError, match=r"^value \("):
        described(UNUSABLE[what])


def test_a_users_module_is_imported_at_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_a_user_too.py").write_text("threshold = 3")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotDescribedError, match="of_a_user_too is imported inside: import it at the top"):
        captured_values(function_of("def f():\n import of_a_user_too\n return of_a_user_too.threshold"))
    assert captured_values(function_of("def f():\n import torch, json\n return torch")) == {}


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
