"""Atomic writes: a local file exists with all of its content or not at all. All files are written by this module.

A full disk, a kill or an interruption leaves the previous file. This module imports neither torch nor pyarrow.
"""

import hashlib
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from eexit.errors import first_line

OLD_SECONDS = 86_400  # a temporary file without changes for this long has no writer
_MARK = "ee817ee8"  # identifies this program's temporary files
_TEMPORARY = re.compile(rf"\..+\.{_MARK}(?P<machine>[0-9a-f]{{8}})(?P<pid>[0-9a-f]{{8}})[0-9a-f]{{8}}\.tmp", re.DOTALL)
MOST_NAME = 60  # characters of a file's name in its temporary name, since file systems allow 255 bytes


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file in one step, replacing the previous one. Raises `OSError`.

    A path that is no regular file, such as /dev/stdout, is written to directly.
    """
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_cache_file(path: Path, content: str | bytes) -> None:
    """Write a cache file and create its folder; ignore failures, since caches are optional."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)


def write_all(contents: Mapping[Path, str]) -> None:
    """Write several files completely, then replace the targets; the first file is replaced last."""
    with ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(atomic_path(path)).write_text(content, encoding="utf-8")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` for writing; it replaces `path` at the end and is removed on an error.

    If `path` is a link, its target is replaced. An `OSError` names `path`. Dead temporary files are removed first.
    """
    final = Path(os.path.realpath(path))
    clear_dead(final.parent)
    temporary = final.with_name(temporary_name(final.name[:MOST_NAME]))
    try:
        yield temporary
        publish(temporary, final)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)) and error.errno is not None:
            error.filename = str(path)  # the error for a full disk names no file
        raise


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Yield a hidden folder in the same place as `beside`, for content to publish; it is removed at the end."""
    clear_dead(beside.parent)
    folder = beside.with_name(temporary_name(beside.name[:MOST_NAME]))
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def clear_dead(folder: Path) -> None:
    """Remove temporary files without a writer from this folder, at the first call per process and folder.

    Such files belong to dead processes of this machine, or have not changed for a day.
    """
    with suppress(OSError):
        for entry in [*os.scandir(folder)]:
            if (found := _TEMPORARY.fullmatch(entry.name)) and _is_left(entry, found["machine"], int(found["pid"], 16)):
                with suppress(OSError):
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


def _is_left(entry: os.DirEntry[str], machine: str, pid: int) -> bool:
    if machine == _machine() and sys.platform != "win32":  # on Windows, this call ends the process
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > OLD_SECONDS


@cache
def _machine() -> str:
    """Return eight hexadecimal digits that identify this boot of the machine and its process namespace."""
    known = [platform.node()]
    with suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:8]


def publish(made: Path, final: Path) -> None:
    """Flush a finished file or folder, then rename it to `final` on the same disk. Raises `OSError`."""
    for path in made.rglob("*") if made.is_dir() else (made,):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    made.replace(final)


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Raise `OSError` for an error of safetensors, such as a full disk."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} can't be written ({first_line(error)})") from error


def temporary_name(name: str) -> str:
    """Return a new, hidden name for an incomplete file, with machine and process; readers of the folder ignore it."""
    return f".{name}.{_MARK}{_machine()}{os.getpid():08x}{uuid4().hex[:8]}.tmp"
