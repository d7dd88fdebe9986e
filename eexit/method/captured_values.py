"""Descriptions of the values that a function captures: its globals, closure and default arguments, and its helpers'.

    captured_values(function)  # {"threshold": "3", "torch": "module torch", "helper": "function 5d1c…"}

A function of a library, and a module of one, is described by its name; a user's by its text and what it captures.
Everything else is digested as pickle would take it apart.
"""

import copyreg
import dis
import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

_LIBRARIES: Final = ("site-packages", "dist-packages")  # folders of installed packages
_LOADS: Final = frozenset({
    "LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_FROM_DICT_OR_DEREF",
})  # fmt: skip
_ATTRIBUTES: Final = ("LOAD_ATTR", "LOAD_METHOD")
_PLAIN: Final = (type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes)
_COMPILED: Final = "_torchdynamo_orig_callable"
_PICKLE_PROTOCOL: Final = 4


class NotDescribedError(TypeError):
    """A captured value has no digest; the message says which, and why."""


def captured_values(function: Callable[..., Any]) -> dict[str, str]:
    """Return what a function captures by name: a number as it is, all else as its type and SHA-256.

    What a helper captures is there too, behind the helper's name and a dot.

    Raises `NotDescribedError` for a value without a digest, such as a lock or an open file.
    """
    digests, found = _Digests(), {}
    values = _captured(function)
    if isinstance(function, FunctionType) and hasattr(function, "__wrapped__") and not _is_library(_home(function)):
        values["wrapper"] = function.__code__  # the text that is stored is that of the wrapped function
    waiting, helpers = [*sorted(values.items())], [function]
    for name, value in waiting:
        try:
            found[name] = _described(value, digests)
        except Exception as error:  # pickle's methods of any type may raise anything
            raise NotDescribedError(f"{name} ({type(value).__name__}): {error}") from error
        if isinstance(value, FunctionType) and not _is_library(_home(value)) and value not in helpers:
            helpers.append(value)
            waiting += [(f"{name}.{inner}", each) for inner, each in sorted(_captured(value).items())]
    return found


def code_text(code: CodeType) -> str | None:
    """Return a function's own text, not that of what it wraps; None where there is none, as in an interpreter."""
    lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]
    return "".join(inspect.getblock(lines)) if lines else None


def code_digest(code: CodeType) -> str:
    """Return a SHA-256 of what a function was compiled to, without the names of files and numbers of lines."""
    return _Digests().of(_compiled(code)).hex()


def _described(value: object, digests: "_Digests") -> str:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
        return repr(value)
    if isinstance(value, ModuleType):
        return f"module {_library(value)}"
    return f"{type(value).__name__} {digests.of(value).hex()}"


class _Digests:
    """SHA-256 of values, each taken apart once. A value inside itself counts by how far out it began."""

    def __init__(self) -> None:
        self._done: dict[int, bytes] = {}
        self._open: list[int] = []
        self._alive: list[object] = []  # so that no other value gets the same id

    def of(self, value: object) -> bytes:
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
        digests = [part if isinstance(part, _Bytes) else self.of(part) for part in parts]
        if kind == "set":
            digests.sort()
        self._open.pop()
        found = self._done[id(value)] = _sha256(kind.encode(), *digests)
        return found


class _Bytes(bytes):
    """A part that is no value: what a tensor or array holds."""


def _sha256(*parts: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.digest()


def _parts(value: Any) -> tuple[str, Sequence[Any]]:
    """Return what kind of thing a value is, and the values that make it up. Raises `TypeError` if they can't be had."""
    kind = type(value)
    if kind in (list, tuple):
        return kind.__name__, value
    if kind is dict:
        return "dict", [part for item in value.items() for part in item]
    if kind in (set, frozenset):
        return "set", [*value]
    if isinstance(value, ModuleType):
        return "module", [_library(value)]
    if isinstance(value, CodeType):
        return "code", [code_text(value) or _compiled(value)]
    if isinstance(value, FunctionType):
        return "function", _of_function(value)
    if isinstance(value, MethodType):
        return "method", [value.__func__, value.__self__]
    if isinstance(value, BuiltinFunctionType):
        bound_to = value.__self__
        return "built-in", [value.__qualname__, bound_to.__name__ if isinstance(bound_to, ModuleType) else bound_to]
    if isinstance(value, type):
        return "class", _of_class(value)
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return "tensor", [str(value.dtype), tuple(value.shape), _Bytes(flat.view(torch.uint8).numpy().tobytes())]
    if numpy and isinstance(value, numpy.ndarray):
        content = value.tolist() if value.dtype.hasobject else _Bytes(value.tobytes())
        return "array", [repr(value.dtype), value.shape, content]
    return kind.__name__, _of_pickle(value)


def _of_pickle(value: Any) -> Sequence[Any]:
    """Return what pickle would make a value of again."""
    reduce = copyreg.dispatch_table.get(type(value))
    found = reduce(value) if reduce else value.__reduce_ex__(_PICKLE_PROTOCOL)
    if isinstance(found, str):  # the name of a global
        return [getattr(value, "__wrapped__", f"{getattr(value, '__module__', '')}.{found}")]
    return [[*part] if isinstance(part, Iterator) else part for part in found]


def _of_function(function: FunctionType) -> Sequence[Any]:
    name = f"{function.__module__}.{function.__qualname__}"
    if not _is_library(_home(function)):
        return [function.__code__, _captured(function)]
    if _imported(function) is function:
        return [name]
    return [function.__code__.co_qualname, _captured(function)]  # what a library's function made


def _of_class(of: type) -> Sequence[Any]:
    name = of.__qualname__
    if _is_library(of.__module__):
        return [f"{of.__module__}.{name}"]
    parts = {key: _of_descriptor(part) for key, part in vars(of).items() if key != "_abc_impl"}
    is_dunder = {key: key.startswith("__") and not isinstance(part, FunctionType) for key, part in parts.items()}
    return [name, of.__bases__, {key: part for key, part in parts.items() if not is_dunder[key]}]


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
    if compiled := getattr(function, _COMPILED, None):  # torch.compile's, which has a state of its own
        return {"compiled": compiled}
    closure = dict(_filled(function))
    is_library = _is_library(_home(function))
    scope: Mapping[str, Any] = closure if is_library else {**function.__globals__, **closure}
    found = dict(closure) if is_library else dict(_used(function.__code__, scope))
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = dict(zip(reversed(arguments), reversed(function.__defaults__ or ()), strict=False))
    found |= {f"{name}=": default for name, default in {**defaults, **(function.__kwdefaults__ or {})}.items()}
    return found | {f".{name}": value for name, value in vars(function).items()}


def _filled(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # nothing is bound to the name yet
            continue


def _used(code: CodeType, scope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a function's code, and that of functions inside it, loads from a scope, with the attributes."""
    for first, *attributes in _chains(code):
        if first not in scope:  # a built-in, or missing
            continue
        name, value = first, scope[first]
        while attributes and _is_users(value) and hasattr(value, attributes[0]):
            name, value = f"{name}.{attributes[0]}", getattr(value, attributes.pop(0))
        yield name, value
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME" and not _is_library(instruction.argval):
            raise NotDescribedError(f"{instruction.argval} is imported inside: import it at the top")
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _used(inner, scope)


def _chains(code: CodeType) -> Iterator[list[str]]:
    """Yield each name that is loaded, with the attributes that are taken of it at once."""
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        if chain and instruction.opname in _ATTRIBUTES:
            chain.append(instruction.argval)
            continue
        if instruction.opname in ("EXTENDED_ARG", "CACHE", "PUSH_NULL"):
            continue
        if chain:
            yield chain
        chain = [instruction.argval] if instruction.opname in _LOADS else []


def _is_users(value: object) -> bool:
    return isinstance(value, ModuleType) and not _is_library(value.__name__)


def _home(function: FunctionType) -> str:
    """Return the module that a function was written in, which a decorator may have given another name."""
    return str(function.__globals__.get("__name__", ""))


def _library(module: ModuleType) -> str:
    if _is_users(module):
        raise NotDescribedError(f"it is used as a whole: name what is used of it, as in {module.__name__}.threshold")
    return module.__name__


def _is_library(name: str) -> bool:
    """Return True for a module of eexit, of Python or of an installed package, whose version results record."""
    top = name.partition(".")[0]
    if top in ("eexit", "builtins") or top in sys.stdlib_module_names:
        return True
    try:
        spec = sys.modules[top].__spec__ if top in sys.modules else find_spec(top)
    except (ImportError, ValueError):
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    return any(folder in place for place in places for folder in _LIBRARIES)


def _imported(value: Any) -> object:
    """Return what an import by a value's own name gives."""
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found
