"""Descriptions of the values that a function captures: its globals, closure and default arguments, and its helpers'.

    captured_values(function)  # {"threshold": "3", "torch": "module torch", "helper": "function 5d1c…"}

A library's function or module is described by its name; a user's function by its text and the values that it captures.
Any other value is digested by the parts that pickle would store.
"""

import copyreg
import dis
import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

_LIBRARIES: Final = ("site-packages", "dist-packages")  # folders of installed packages
_LOADS: Final = frozenset({
    "LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_FROM_DICT_OR_DEREF",
})  # fmt: skip
_PLAIN: Final = (type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes)
_PICKLE_PROTOCOL: Final = 4


class NotDescribedError(TypeError):
    """Error for a captured value without a digest, with its name and the reason."""


def captured_values(function: Callable[..., Any]) -> dict[str, str]:
    """Return a description of each captured value by name: a number itself, or the type and SHA-256.

    Values that a helper captures have the helper's name and a dot before theirs. Raise `NotDescribedError` for a value
    without a digest, such as a lock or an open file.
    """
    digests, described = _Digests(), {}
    values = _captured(function)
    if isinstance(function, FunctionType) and hasattr(function, "__wrapped__") and not _is_library(_home(function)):
        values["wrapper"] = function.__code__  # the text that is stored is that of the wrapped function
    waiting, helpers = [*sorted(values.items())], [function]
    for name, value in waiting:
        try:
            described[name] = _describe(value, digests)
        except Exception as error:  # pickle's methods of any type may raise anything
            raise NotDescribedError(f"{name} ({type(value).__name__}): {error}") from error
        if isinstance(value, FunctionType) and not _is_library(_home(value)) and value not in helpers:
            helpers.append(value)
            waiting += [(f"{name}.{inner}", each) for inner, each in sorted(_captured(value).items())]
    return described


def code_digest(code: CodeType) -> str:
    """Return a SHA-256 of compiled code, without the names of files and numbers of lines."""
    return _Digests().digest(_compiled(code)).hex()


def _describe(value: object, digests: "_Digests") -> str:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
        return repr(value)
    if isinstance(value, ModuleType):
        return f"module {_library(value)}"
    return f"{type(value).__name__} {digests.digest(value).hex()}"


class _Digests:
    """SHA-256 digests of values, each computed once. A value inside itself counts as the number of levels to it."""

    def __init__(self) -> None:
        self._done: dict[int, bytes] = {}
        self._open: list[int] = []
        self._alive: list[object] = []  # so that no other value gets the same id

    def digest(self, value: object) -> bytes:
        """Return the digest of a value. Raise `TypeError` if it has none."""
        if type(value) in _PLAIN:
            text = hex(value) if type(value) is int else repr(value)
            return _sha256(type(value).__name__.encode(), text.encode())
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open:
            return _sha256(b"inside itself", str(len(self._open) - self._open.index(id(value))).encode())
        self._open.append(id(value))
        self._alive.append(value)
        kind, parts = _parts(value)
        digests = [part if isinstance(part, _Content) else self.digest(part) for part in parts]
        if kind == "set":
            digests.sort()
        self._open.pop()
        digest = self._done[id(value)] = _sha256(kind.encode(), *digests)
        return digest


class _Content(bytes):
    """Memory of a tensor or array, which is digested as it is."""


def _sha256(*parts: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.digest()


def _parts(value: Any) -> tuple[str, Sequence[Any]]:
    """Return a label of a value's type, and the values that make up its digest. Raise `TypeError` if there are none."""
    torch, numpy, kind = sys.modules.get("torch"), sys.modules.get("numpy"), type(value)
    if kind in (list, tuple):
        return kind.__name__, value
    if kind is dict:
        return "dict", [part for item in value.items() for part in item]
    if kind in (set, frozenset):
        return "set", [*value]
    if torch and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return "tensor", [str(value.dtype), tuple(value.shape), _Content(flat.view(torch.uint8).numpy().tobytes())]
    if numpy and isinstance(value, numpy.ndarray):
        content = value.tolist() if value.dtype.hasobject else _Content(value.tobytes())
        return "array", [repr(value.dtype), value.shape, content]
    match value:
        case ModuleType():
            return "module", [_library(value)]
        case CodeType():  # its own text, not that of the function that it wraps; there is none in an interpreter
            lines = linecache.getlines(value.co_filename)[value.co_firstlineno - 1 :]
            return "code", ["".join(inspect.getblock(lines)) if lines else _compiled(value)]
        case FunctionType():
            return "function", _of_function(value)
        case MethodType():
            return "method", [value.__func__, value.__self__]
        case BuiltinFunctionType():
            bound_to: Any = value.__self__
            return "built-in", [value.__qualname__, bound_to.__name__ if isinstance(bound_to, ModuleType) else bound_to]
        case type():
            return "class", _of_class(value)
    return kind.__name__, _of_pickle(value)


def _of_pickle(value: Any) -> Sequence[Any]:
    reduce = copyreg.dispatch_table.get(type(value))
    reduced = reduce(value) if reduce else value.__reduce_ex__(_PICKLE_PROTOCOL)
    if isinstance(reduced, str):  # the name of a global
        return [getattr(value, "__wrapped__", f"{getattr(value, '__module__', '')}.{reduced}")]
    return [[*part] if isinstance(part, Iterator) else part for part in reduced]


def _of_function(function: FunctionType) -> Sequence[Any]:
    if not _is_library(_home(function)):
        return [function.__code__, _captured(function)]
    imported: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        imported = getattr(imported, name, None)
    if imported is function:
        return [f"{function.__module__}.{function.__qualname__}"]
    return [function.__code__.co_qualname, _captured(function)]  # a function that a library's function made


def _of_class(of: type) -> Sequence[Any]:
    if _is_library(of.__module__):
        return [f"{of.__module__}.{of.__qualname__}"]
    parts = {name: _of_descriptor(part) for name, part in vars(of).items() if name != "_abc_impl"}
    defined = {name: part for name, part in parts.items() if isinstance(part, FunctionType) or name[:2] != "__"}
    return [of.__qualname__, of.__bases__, defined]


def _of_descriptor(part: Any) -> Any:
    match part:
        case property():
            return [part.fget, part.fset, part.fdel]
        case staticmethod() | classmethod():
            return part.__func__
        case cached_property():
            return part.func
    return part


def _compiled(code: CodeType) -> Sequence[Any]:
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    constants = [_compiled(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    return [code.co_code, *names, constants, code.co_argcount, code.co_kwonlyargcount, code.co_flags]


def _captured(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the values by their names in the function; of a user's modules, the attributes that it uses."""
    if not isinstance(function, FunctionType):
        return {"itself": function}
    if compiled := getattr(function, "_torchdynamo_orig_callable", None):  # torch.compile's, which has a state
        return {"compiled": compiled}
    values = dict(_closure(function))
    if not _is_library(_home(function)):
        values = dict(_used(function.__code__, {**function.__globals__, **values}))
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = dict(zip(reversed(arguments), reversed(function.__defaults__ or ()), strict=False))
    values |= {f"{name}=": default for name, default in {**defaults, **(function.__kwdefaults__ or {})}.items()}
    return values | {f".{name}": value for name, value in vars(function).items()}


def _closure(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # nothing is bound to the name yet
            continue


def _used(code: CodeType, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield name and value, of modules the attributes, for all that code, nested code included, loads from a scope."""
    for first, *attributes in _loads(code):
        if first not in scope:  # a built-in, or missing
            continue
        name, value = first, scope[first]
        while attributes and isinstance(value, ModuleType) and not _is_library(value.__name__):
            if not hasattr(value, attributes[0]):
                break
            name, value = f"{name}.{attributes[0]}", getattr(value, attributes.pop(0))
        yield name, value
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _used(inner, scope)


def _loads(code: CodeType) -> Iterator[list[str]]:
    """Yield each name that the code loads, with attributes read directly from it, as in ["np", "linalg", "norm"]."""
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname == "IMPORT_NAME" and not _is_library(name):
            raise NotDescribedError(f"{name} is imported inside: import it at the top")
        if chain and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(name)
        elif instruction.opname not in ("EXTENDED_ARG", "CACHE", "PUSH_NULL"):
            if chain:
                yield chain
            chain = [name] if instruction.opname in _LOADS else []


def _home(function: FunctionType) -> str:
    """Return the module that a function was written in, which a decorator may have given another name."""
    return str(function.__globals__.get("__name__", ""))


def _library(module: ModuleType) -> str:
    if not _is_library(module.__name__):
        raise NotDescribedError(f"it is used as a whole: name what is used of it, as in {module.__name__}.threshold")
    return module.__name__


def _is_library(name: str) -> bool:
    """Return True for a module of eexit, of Python or of an installed package, whose version results record."""
    top = name.partition(".")[0]
    if top == "__main__":  # python -m gives it the spec of an installed module, such as a debugger's
        return False
    if top in ("eexit", "builtins") or top in sys.stdlib_module_names:
        return True
    try:
        spec = sys.modules[top].__spec__ if top in sys.modules else find_spec(top)
    except (ImportError, ValueError):
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    return any(folder in place for place in places for folder in _LIBRARIES)
