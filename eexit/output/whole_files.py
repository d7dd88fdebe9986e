"""Writing a local file so that it is there with all of its content or not at all: everything that is written goes here.

A full disk, a kill or an interruption leaves what was there before. This module imports neither torch nor pyarrow.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from eexit.errors import first_line

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
    """A new, hidden name for a file until it is complete, so that readers of the folder ignore it."""
    return f".{name}.{uuid4().hex}.tmp"
