"""Own rules and states: functions in a user's file or notebook, known by their names like ours.

The text of such a file, or of a function from elsewhere, is stored with results that it made, to be read, and compared
with what is given when they are gone on with; it is run only where a user gives it.
"""

import hashlib
import inspect
import linecache
import re
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from eexit.errors import UsageError, first_line

OURS: Final = "eexit."  # how the modules of our own rules and states begin
RESERVED: Final = ("normal", "draft", "generate")  # what keys of configurations begin with already


@dataclass(frozen=True)
class Source:
    """Where an own rule or state comes from: the file's name, or the function's, and the text."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class Definition:
    """What all rules and states have: `definition` says what they do, in words, with the source in the literature."""

    name: str
    definition: str
    source: Source | None = None  # of an own one
    short: str = ""  # what stands for the name in short names; empty: the name


_being_read: ContextVar[Source | None] = ContextVar("_being_read", default=None)


def source_of(function: Callable[..., Any]) -> Source | None:
    """The text of the file that is being read, or of a function from elsewhere; None for ours.

    A function that was typed into an interpreter has no text, but what it was compiled to.
    """
    if (source := _being_read.get()) is not None:
        return source
    if function.__module__.startswith(OURS):
        return None
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        code = function.__code__
        text = f"# no source: {code.co_code.hex()} {code.co_names} {code.co_consts}\n"
    return Source(function.__name__, text)


def refuse_name(what: str, name: str, known: dict[str, Any]) -> None:
    """Raises `UsageError` for a name that can't be in keys of configurations, or that one of ours has."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", name, re.IGNORECASE):
        raise UsageError(f"{what}: call the function by a name of letters, digits and _")
    if name in RESERVED or (name in known and known[name].source is None):
        raise UsageError(f"{what}: there is one of that name already, call the function otherwise")


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    token = _being_read.set(source)
    try:
        yield
    finally:
        _being_read.reset(token)


def use_files(paths: Sequence[str]) -> tuple[Source, ...]:
    """Run files of own rules and states (`--use`), so that their names are known.

    Raises `UsageError` for a file that can't be read or run.
    """
    sources = []
    for path in paths:
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--use {path} can't be read: {first_line(error)}") from error
        sources.append(Source(Path(path).name, text))
    for source in sources:
        use_text(source)
    return tuple(sources)


def use_text(source: Source) -> None:
    """Run the text of a file of own rules and states. Raises `UsageError` if it fails."""
    name = f"eexit_use_{Path(source.name).stem}_{source.digest[:8]}"
    module = ModuleType(name)
    module.__file__ = f"<{source.name}>"
    linecache.cache[module.__file__] = len(source.text), None, source.text.splitlines(keepends=True), module.__file__
    sys.modules[name] = module
    try:
        with _reading(source):
            exec(compile(source.text, module.__file__, "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise UsageError(f"{source.name} can't be used: {type(error).__name__}: {first_line(error)}") from error


def sources_of(entries: Container[str], *kinds: dict[str, Definition]) -> tuple[Source, ...]:
    """The texts of those entries, by name, that are own ones: each once."""
    held = (each.source for kind in kinds for name, each in kind.items() if name in entries)
    return tuple({source.digest: source for source in held if source is not None}.values())
