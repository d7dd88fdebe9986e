"""Writing a local file so that it is there with all of its content or not at all: everything that is written goes here.

A full disk, a kill or an interruption leaves what was there before. This module imports neither torch nor pyarrow.
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

OLD_SECONDS = 86_400  # after which a temporary file that nothing is written to has no writer
_MARK = "ee817ee8"  # of the temporary files of this program
_TEMPORARY = re.compile(rf"\..+\.{_MARK}(?P<machine>[0-9a-f]{{8}})(?P<pid>[0-9a-f]{{8}})[0-9a-f]{{8}}\.tmp", re.DOTALL)
MOST_NAME = 60  # characters of a file's name that its temporary file has too, since file systems take 255 bytes


def write_whole(path: Path, content: str | bytes) -> None:
    """Make all of `content` visible under `path` in one step, replacing what was there. Raises `OSError`.

    What is no regular file, such as /dev/stdout, is written to as it is.
    """
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with becoming(path) as temporary:
        temporary.write_bytes(content)


def keep(path: Path, content: str | bytes) -> None:
    """Write a file of a cache, which is done without if it can't be written."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def write_all(contents: Mapping[Path, str]) -> None:
    """Write several files, none of which is replaced before all are written; the first is replaced last."""
    with ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(becoming(path)).write_text(content, encoding="utf-8")


@contextmanager
def becoming(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write a file to, which becomes `path` at the end, and is removed on an error.

    Where `path` is a link, the file that it leads to is replaced. An `OSError` names `path`.
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
            error.filename = str(path)  # a system's error for a full disk names no file
        raise


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder beside this path, to make there what is then published; it is removed at the end."""
    clear_dead(beside.parent)
    folder = beside.with_name(temporary_name(beside.name[:MOST_NAME]))
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def clear_dead(folder: Path) -> None:
    """Remove the temporary files that writers have left in this folder: those of dead processes of this machine, and
    those that nothing was written to for a day. It is done once, when this process first writes there.
    """
    with suppress(OSError):
        for entry in [*os.scandir(folder)]:
            if (found := _TEMPORARY.fullmatch(entry.name)) and _is_left(entry, found["machine"], int(found["pid"], 16)):
                with suppress(OSError):
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


def _is_left(entry: os.DirEntry[str], machine: str, pid: int) -> bool:
    if machine == _machine() and sys.platform != "win32":  # where this call would end the process
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > OLD_SECONDS


@cache
def _machine() -> str:
    """Eight digits for this machine since it was started, and for what its processes are numbered by."""
    known = [platform.node()]
    with suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:8]


def publish(made: Path, final: Path) -> None:
    """Let a finished file or folder become `final`, on the same disk, once its bytes are there. Raises `OSError`."""
    for path in made.rglob("*") if made.is_dir() else (made,):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    made.replace(final)


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Raises `OSError` for what safetensors has an error of its own for, such as a full disk."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} can't be written ({first_line(error)})") from error


def temporary_name(name: str) -> str:
    """A new, hidden name for a file until it is complete, which readers of the folder ignore; it says who writes."""
    return f".{name}.{_MARK}{_machine()}{os.getpid():08x}{uuid4().hex[:8]}.tmp"
