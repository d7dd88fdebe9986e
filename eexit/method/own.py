"""Own rules and states: functions in a user's file or notebook, known by their names like ours.

The text of such a file, or of a function from elsewhere, is stored with results that it made, to be read, and compared
with what is given when they are gone on with; it is run only where a user gives it.
"""

import hashlib
import inspect
import linecache
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from eexit.errors import UsageError, first_line
from eexit.method.captured_values import code_digest

OURS: Final = "eexit."  # how the modules of our own rules and states begin
PYTHON: Final = ".py"
SHOWN: Final = 8  # letters of a digest
RESERVED: Final = ("normal", "draft", "generate")  # what keys of configurations begin with already


@dataclass(frozen=True)
class Source:
    """Where an own rule or state comes from: the file's name, or the function's, and the text."""

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
class Definition:
    """What all rules and states have: `definition` says what they do, in words, with the source in the literature."""

    name: str
    definition: str
    source: Source | None = None  # of an own one
    given: bool = True  # False: an own one that is known from results, by what they say of it, and can't be run
    captured: Mapping[str, str] | None = None  # values that its function captures, described elsewhere; None: find them
    short: str = ""  # what stands for the name in short names; empty: the name

    def refuse_if_not_given(self) -> None:
        """Raises `UsageError` for one that is known from results alone."""
        if not self.given and self.source:
            raise UsageError(f"{self.name} is known from results alone: {self.source.way_out}")


_being_read: ContextVar[Source | None] = ContextVar("_being_read", default=None)


def source_of(function: Callable[..., Any]) -> Source | None:
    """The text of the file that is being read, or of a function from elsewhere; None for ours."""
    if (function.__module__ or "").startswith(OURS):  # also one that is first imported while a file is read
        return None
    return _being_read.get() or Source(function.__name__, text_of(function))


def text_of(function: Callable[..., Any]) -> str:
    """A function's own text; of one that was typed into an interpreter, what it was compiled to."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return f"# no source: compiled to code of SHA-256 {code_digest(function.__code__)}\n"


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
def _reading(source: Source) -> Iterator[None]:
    token = _being_read.set(source)
    try:
        yield
    finally:
        _being_read.reset(token)


def use_files(paths: str | Path | Sequence[str | Path]) -> tuple[Source, ...]:
    """Run files of own rules and states (`--use`), so that their names are known.

    Raises `UsageError` for a file that can't be read or run.
    """
    sources = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--use {path} can't be read: {first_line(error)}") from error
        source = Source(Path(path).name, text)
        if not source.is_file:
            raise UsageError(f"--use {path} is no file of Python: give one whose name ends in {PYTHON}")
        sources.append(source)
    for source in sources:
        use_text(source)
    return tuple(sources)


def use_text(source: Source) -> None:
    """Run the text of a file of own rules and states. Raises `UsageError` if it fails."""
    name = f"eexit_use_{Path(source.name).stem}_{source.digest[:SHOWN]}"
    module = ModuleType(name)
    module.__file__ = f"<{source.name} {source.digest[:SHOWN]}>"
    linecache.cache[module.__file__] = len(source.text), None, source.text.splitlines(keepends=True), module.__file__
    sys.modules[name] = module
    try:
        with _reading(source):
            exec(compile(source.text, module.__file__, "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        raise UsageError(f"{source.name} can't be used: {kind}{first_line(error)}") from error
