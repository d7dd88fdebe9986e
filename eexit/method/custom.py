"""Custom rules and modes: functions in a user's file or notebook, registered by their names like those of eexit.

Results store the text of such a file, or of a function from elsewhere. It serves to be read, and to be compared with
what is given when they are extended. It runs only where a user gives it.
"""

import hashlib
import inspect
import linecache
import re
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from eexit.errors import UsageError, first_line
from eexit.method.captured_values import code_digest
from eexit.output.locations import path_from

PYTHON: Final = ".py"
SHOWN: Final = 8  # letters of a digest
RAISED: Final = (Exception, SystemExit, GeneratorExit)  # what a user's code may raise, but for Ctrl-C
PACKAGE: Final = Path(__file__).parents[1]
SECONDS_UNSAID: Final = 3.0  # that running a file may take without a message
RESERVED: Final = ("normal", "draft", "generate")  # beginnings of configurations' keys


@dataclass(frozen=True)
class CustomSource:
    """Origin of a custom rule or mode: the name of the file or of the function, and its text."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        return digest_of(self.text)

    @property
    def is_file(self) -> bool:
        """True if the text comes from a file, which can be run again."""
        return self.name.endswith(PYTHON)

    @property
    def way_out(self) -> str:
        """Advice to the user on how to supply this custom rule or mode again."""
        how = f"give --use {self.name}" if self.is_file else "give that function again, or --use FILE.py that has it"
        return f"{how} (SHA-256 {self.digest[:SHOWN]}…)"


@dataclass(frozen=True, eq=False, kw_only=True)
class RegistryEntry(ABC):
    """A registered rule or mode; `definition` describes it in words, with the source in the literature."""

    name: str
    definition: str
    function: Callable[..., Any]
    source: CustomSource | None = None  # of a custom one
    given: bool = True  # False: a custom one that is described in results and can't be run
    captured: Mapping[str, str] | None = None  # values that the function captures, if they were described elsewhere
    short: str = ""  # for short names of configurations; empty: the name

    def cause(self, error: BaseException) -> str:
        """Return the message of an error from the function or from a check of its result, with the file and line."""
        code = inspect.unwrap(self.function).__code__
        return cause_of(error, code.co_filename, f" ({_file_name(code.co_filename)}, line {code.co_firstlineno})")

    @abstractmethod
    def register(self) -> None:
        """Register the rule or mode under its name, replacing a custom one with the same name."""

    def refuse_if_not_given(self) -> None:
        """Raise `UsageError` for an entry that is described in results alone."""
        if not self.given and self.source:
            raise UsageError(f"{self.name} is known from results alone: {self.source.way_out}")


_running_file: ContextVar[CustomSource | None] = ContextVar("_running_file", default=None)


def entry_fields(kind: str, function: Any, known: Mapping[str, RegistryEntry]) -> dict[str, Any]:
    """Return the fields of a `RegistryEntry` that follow from a decorated function; `kind` is rule or mode.

    Raise `UsageError` for an object without source code, such as a number or a `functools.partial`. Raise it also for a
    name that can't be in a configuration's key, or that `known` has as one of eexit's.
    """
    if not callable(function) or not hasattr(function, "__name__") or not hasattr(inspect.unwrap(function), "__code__"):
        raise UsageError(f"a {kind} is made of a function that has a name, as def gives it one, got {function!r}")
    name = function.__name__
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", name, re.IGNORECASE):
        raise UsageError(f"{kind} {name}: call the function by a name of letters, digits and _")
    if name in RESERVED or (name in known and known[name].source is None):
        raise UsageError(f"{kind} {name}: there is one of that name already, call the function otherwise")
    if (function.__module__ or "").startswith("eexit."):  # also where it is first imported while a file runs
        source = None
    else:
        source = _running_file.get() or CustomSource(name, text_of(function))
    definition = " ".join((inspect.getdoc(function) or f"own {kind} {name}").split())
    return {"name": name, "definition": definition, "function": function, "source": source}


def needs_of(declared: str | Sequence[str]) -> tuple[str, ...]:
    """Return what a rule or mode needs, declared as one name or as a list, without repeats."""
    return (declared,) if isinstance(declared, str) else tuple(dict.fromkeys(declared))


def text_of(function: Callable[..., Any]) -> str:
    """Return a function's source or, for one typed into an interpreter, the digest of its code."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return f"# no source: compiled to code of SHA-256 {code_digest(function.__code__)}\n"


def check_shape_and_dtype(result: Any, shape: Sequence[int], dtype: Any = None, what: str = "", kind: str = "") -> None:
    """Raise `TypeError` unless the result of a custom function is a tensor of this shape and, if given, this dtype.

    `what` names the tensor in the error, and `kind` its elements.
    """
    if not hasattr(result, "shape") or not hasattr(result, "dtype"):
        elements = f" of {kind}" if kind else ""
        raise TypeError(f"gives {what}a {type(result).__name__}, not a {tuple(shape)} tensor{elements}")
    if tuple(result.shape) != tuple(shape):
        raise TypeError(f"gives {what}{tuple(result.shape)}, not {tuple(shape)}")
    if dtype not in (None, result.dtype):
        raise TypeError(f"gives {what}{result.dtype}, not {dtype}")


def digest_of(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def use_files(paths: str | Path | Sequence[str | Path]) -> tuple[CustomSource, ...]:
    """Run files of custom rules and modes (`--use`). Raise `UsageError` for a file that can't be read or run."""
    sources = []
    for each in paths if isinstance(paths, list | tuple) else [paths]:
        path = path_from(each, "--use")
        try:
            source = CustomSource(path.name, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--use {path} can't be read: {first_line(error)}") from error
        if not source.is_file:
            raise UsageError(f"--use {path} is no file of Python: give one whose name ends in {PYTHON}")
        sources.append(source)
    for source in sources:
        use_text(source)
    return tuple(sources)


def use_text(source: CustomSource) -> None:
    """Run the text of a file of custom rules and modes. Raise `UsageError` if it fails."""
    name = f"eexit_use_{Path(source.name).stem}_{source.digest[:SHOWN]}"
    module = ModuleType(name)
    module.__file__ = f"<{source.name} {source.digest[:SHOWN]}>"
    linecache.cache[module.__file__] = len(source.text), None, source.text.splitlines(keepends=True), module.__file__
    sys.modules[name] = module
    try:
        with _running(source, module):
            exec(compile(source.text, module.__file__, "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, RAISED):
            raise
        raise UsageError(f"{source.name} can't be used: {cause_of(error, module.__file__)}") from error


@contextmanager
def _running(source: CustomSource, module: ModuleType) -> Iterator[None]:
    """Register rules and modes under a file's name, prefix its output with the name, and report if it takes long."""
    began = time.monotonic()

    def prefixed_print(*values: object, file: Any = None, **options: Any) -> None:
        if file is None:
            values, file = (f"{source.name}:", *values), sys.stderr
        print(*values, file=file, **options)

    slow = threading.Timer(SECONDS_UNSAID, prefixed_print, ["it is still being run"])
    slow.daemon = True
    vars(module)["print"] = prefixed_print
    token = _running_file.set(source)
    slow.start()
    try:
        yield
    finally:
        slow.cancel()
        _running_file.reset(token)
        if vars(module).get("print") is prefixed_print:
            del vars(module)["print"]
        if (seconds := time.monotonic() - began) >= SECONDS_UNSAID:
            prefixed_print(f"it took {seconds:.1f} seconds to run")


def cause_of(error: BaseException, file: str, elsewhere: str = "") -> str:
    """Return the message of an error from a user's code, with the line of `file` that led there, else `elsewhere`."""
    frames = traceback.extract_tb(error.__traceback__)
    in_file = [frame for frame in frames if frame.filename == file]
    if isinstance(error, SystemExit):
        message = f"it calls sys.exit({'' if error.code is None else repr(error.code)})"
    elif Path(frames[-1].filename).is_relative_to(PACKAGE) and not isinstance(error, SyntaxError):
        message = first_line(error)  # of a check of eexit's own
    else:
        message = f"{type(error).__name__}: {first_line(error)}"
    place = f" ({_file_name(file)}, line {in_file[-1].lineno}: {in_file[-1].line})" if in_file else elsewhere
    return message + place


def _file_name(file: str) -> str:
    """Return the name of a file, or of the file whose text was run by `use_text`."""
    name = file.strip("<>")
    return (name.rpartition(" ")[0] or name) if file.startswith("<") else Path(file).name
