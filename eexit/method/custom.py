"""Own rules and modes: functions in a user's file or notebook, known by their names like ours.

The text of such a file, or of a function from elsewhere, is stored with results that it made, to be read, and compared
with what is given when they are gone on with; it is run only where a user gives it.
"""

import hashlib
import inspect
import linecache
import re
import sys
import threading
import time
import traceback
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

OURS: Final = "eexit."  # how the modules of our custom rules and modes begin
PYTHON: Final = ".py"
SHOWN: Final = 8  # letters of a digest
RAISED: Final = (Exception, SystemExit, GeneratorExit)  # what a user's code may raise, but for Ctrl-C
PACKAGE: Final = Path(__file__).parents[1]
SECONDS_UNSAID: Final = 3.0  # that running a file may take without a word
RESERVED: Final = ("normal", "draft", "generate")  # what keys of configurations begin with already


@dataclass(frozen=True)
class CustomSource:
    """Where an custom rule or mode comes from: the file's name, or the function's, and the text."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        return digest_of(self.text)

    @property
    def is_file(self) -> bool:
        """Whether the text is a file's, which can be run again, and not one function's."""
        return self.name.endswith(PYTHON)

    @property
    def way_out(self) -> str:
        """How to give it again."""
        how = f"give --use {self.name}" if self.is_file else "give that function again, or --use FILE.py that has it"
        return f"{how} (SHA-256 {self.digest[:SHOWN]}…)"


@dataclass(frozen=True, eq=False, kw_only=True)
class RegistryEntry:
    """What all rules and modes have: `definition` says what they do, in words, with the source in the literature."""

    name: str
    definition: str
    function: Callable[..., Any]
    source: CustomSource | None = None  # of an own one
    given: bool = True  # False: an own one that is known from results, by what they say of it, and can't be run
    captured: Mapping[str, str] | None = None  # values that its function captures, described elsewhere; None: find them
    short: str = ""  # what stands for the name in short names; empty: the name

    def cause(self, error: BaseException) -> str:
        """Return what its function raised, with the file and line; of what was found wrong with it, where it stands."""
        code = inspect.unwrap(self.function).__code__
        what = cause_of(error, code.co_filename)
        is_placed = any(frame.filename == code.co_filename for frame in traceback.extract_tb(error.__traceback__))
        return what if is_placed else f"{what} ({_file_name(code.co_filename)}, line {code.co_firstlineno})"

    def refuse_if_not_given(self) -> None:
        """Raises `UsageError` for one that is known from results alone."""
        if not self.given and self.source:
            raise UsageError(f"{self.name} is known from results alone: {self.source.way_out}")


_being_read: ContextVar[CustomSource | None] = ContextVar("_being_read", default=None)


def source_of(function: Callable[..., Any]) -> CustomSource | None:
    """The text of the file that is being read, or of a function from elsewhere; None for ours."""
    if (function.__module__ or "").startswith(OURS):  # also one that is first imported while a file is read
        return None
    return _being_read.get() or CustomSource(function.__name__, text_of(function))


def text_of(function: Callable[..., Any]) -> str:
    """A function's own text; of one that was typed into an interpreter, what it was compiled to."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return f"# no source: compiled to code of SHA-256 {code_digest(function.__code__)}\n"


def refuse_no_function(what: str, function: object) -> None:
    """Raises `UsageError` for what has neither a name nor a text, such as a number or a `functools.partial`."""
    if not callable(function) or not hasattr(function, "__name__") or not hasattr(inspect.unwrap(function), "__code__"):
        raise UsageError(f"a {what} is made of a function that has a name, as def gives it one, got {function!r}")


def check_shape_and_dtype(given: Any, shape: Sequence[int], dtype: Any = None, what: str = "", kind: str = "") -> None:
    """Raise `TypeError` unless a custom function gives a tensor of this shape and, unless it is None, of this dtype.

    `what` names the tensor in the error, and `kind` its elements.
    """
    if not hasattr(given, "shape") or not hasattr(given, "dtype"):
        elements = f" of {kind}" if kind else ""
        raise TypeError(f"gives {what}a {type(given).__name__}, not a {tuple(shape)} tensor{elements}")
    if tuple(given.shape) != tuple(shape):
        raise TypeError(f"gives {what}{tuple(given.shape)}, not {tuple(shape)}")
    if dtype not in (None, given.dtype):
        raise TypeError(f"gives {what}{given.dtype}, not {dtype}")


def refuse_name(what: str, name: str, known: dict[str, Any]) -> None:
    """Raises `UsageError` for a name that can't be in keys of configurations, or that one of ours has."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", name, re.IGNORECASE):
        raise UsageError(f"{what}: call the function by a name of letters, digits and _")
    if name in RESERVED or (name in known and known[name].source is None):
        raise UsageError(f"{what}: there is one of that name already, call the function otherwise")


def digest_of(text: str) -> str:
    """SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _reading(source: CustomSource) -> Iterator[None]:
    token = _being_read.set(source)
    try:
        yield
    finally:
        _being_read.reset(token)


def use_files(paths: str | Path | Sequence[str | Path]) -> tuple[CustomSource, ...]:
    """Run files of custom rules and modes (`--use`), so that their names are known.

    Raises `UsageError` for a file that can't be read or run.
    """
    sources = []
    given: Sequence[Any] = paths if isinstance(paths, list | tuple) else [paths]
    for path in (path_from(each, "--use") for each in given):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--use {path} can't be read: {first_line(error)}") from error
        source = CustomSource(path.name, text)
        if not source.is_file:
            raise UsageError(f"--use {path} is no file of Python: give one whose name ends in {PYTHON}")
        sources.append(source)
    for source in sources:
        use_text(source)
    return tuple(sources)


def use_text(source: CustomSource) -> None:
    """Run the text of a file of custom rules and modes. Raises `UsageError` if it fails."""
    name = f"eexit_use_{Path(source.name).stem}_{source.digest[:SHOWN]}"
    module = ModuleType(name)
    module.__file__ = f"<{source.name} {source.digest[:SHOWN]}>"
    linecache.cache[module.__file__] = len(source.text), None, source.text.splitlines(keepends=True), module.__file__
    sys.modules[name] = module
    try:
        with _reading(source), _run_by_name(source.name, module):
            exec(compile(source.text, module.__file__, "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, RAISED):
            raise
        raise UsageError(f"{source.name} can't be used: {cause_of(error, module.__file__)}") from error


@contextmanager
def _run_by_name(name: str, module: ModuleType) -> Iterator[None]:
    """Print what a file prints behind its name, and say so where running it takes long: nothing else has begun yet."""
    began = time.monotonic()

    def say(*values: object, file: Any = None, **options: Any) -> None:
        if file is None:
            values, file = (f"{name}:", *values), sys.stderr
        print(*values, file=file, **options)

    slow = threading.Timer(SECONDS_UNSAID, say, ["it is still being run"])
    slow.daemon = True
    vars(module)["print"] = say
    slow.start()
    try:
        yield
    finally:
        slow.cancel()
        if vars(module).get("print") is say:
            del vars(module)["print"]
        if (seconds := time.monotonic() - began) >= SECONDS_UNSAID:
            say(f"it took {seconds:.1f} seconds to run")


def cause_of(error: BaseException, file: str) -> str:
    """Return what a user's code raised, and the last line of a file that led there; of our own errors the message."""
    frames = traceback.extract_tb(error.__traceback__)
    of_file = [frame for frame in frames if frame.filename == file]
    if isinstance(error, SystemExit):
        what = f"it calls sys.exit({'' if error.code is None else repr(error.code)})"
    elif Path(frames[-1].filename).is_relative_to(PACKAGE) and not isinstance(error, SyntaxError):
        what = first_line(error)
    else:
        what = f"{type(error).__name__}: {first_line(error)}"
    return f"{what} ({_file_name(file)}, line {of_file[-1].lineno}: {of_file[-1].line})" if of_file else what


def _file_name(file: str) -> str:
    """Return the name of a file, or of what stands for a file that was run from its text."""
    name = file.strip("<>")
    return (name.rpartition(" ")[0] or name) if file.startswith("<") else Path(file).name
