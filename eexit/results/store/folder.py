"""A results folder on a local disk or under a URI that `pyarrow.fs` supports (s3://, gs://).

A file exists with its complete content or not at all: files are published in one step and never appended to.
"""

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
from pyarrow import fs

from eexit.errors import UsageError
from eexit.output.atomic_files import temporary_name, write_atomic
from eexit.output.locations import HIDDEN, redact, without_secrets
from eexit.results.parquet_files import StoreLocation

DAMAGED_FOLDER = "damaged"
# The client's default, for a missing bucket or network, is a quarter of an hour. A write takes up to twice as long.
GCS_RETRY_SECONDS, GCS_PROBE_SECONDS = 60, 2


@dataclass(frozen=True)
class Store(StoreLocation):
    """A results folder. Names are relative to it, with forward slashes: `generations/ab12.parquet`."""

    uri: str = field(default="", repr=False, compare=False)  # as given, perhaps with secrets; empty: a local folder

    def publish(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write `content` to `name` in one step, replacing any previous file. Raise `OSError`."""
        if not self.is_local:
            # One write, since an exception between several writes would publish an incomplete file.
            with self.filesystem.open_output_stream(self.path(name)) as stream:
                stream.write(content)
            return
        final = Path(self.path(name))
        final.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(final, content)

    def create(self, name: str, content: bytes) -> bool:
        """Publish `name` unless it exists; return True if it was published. Atomic only where hard links exist."""
        if not self.is_local:
            return self._create_unsure(name, content)
        final = Path(self.path(name))
        aside = temporary_name(final.name)
        self.publish(aside, content)
        try:
            final.hardlink_to(final.with_name(aside))
        except FileExistsError:
            return False
        except OSError:  # no hard links, as on some USB sticks and network disks
            return self._create_unsure(name, content)
        finally:
            self.remove(aside)
        return True

    def _create_unsure(self, name: str, content: bytes) -> bool:
        if self.has(name):
            return False
        self.publish(name, content)
        return self.read(name) == content

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """Return the content of `name`, or its first `most` bytes; None if there is no such file."""
        try:
            with self.filesystem.open_input_stream(self.path(name)) as stream:
                content: bytes = stream.read(most)
        except FileNotFoundError:
            return None
        return content

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in `folder`, including temporary ones; none if there is no such folder.

        Raise `UsageError` for a file in place of the folder.
        """
        if self.has(folder):
            raise UsageError(f"{self.path(folder)} is a file where a folder of results should be: remove it")
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
        return [f"{folder}/{info.base_name}" for info in infos if info.type == fs.FileType.File]

    def has(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type == fs.FileType.File)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(name))

    @property
    def is_there(self) -> bool:
        """True if the folder exists. Object stores have no folders, only names."""
        return bool(self.filesystem.get_file_info(self.root).type == fs.FileType.Directory)

    def remove_if_empty(self, folder: str = "") -> None:
        """Remove `folder`, or the store's own folder, if it is local and empty."""
        if self.is_local:
            with contextlib.suppress(OSError):
                Path(self.path(folder)).rmdir()

    def set_aside(self, *names: str) -> str:
        """Move unusable files, in this order, to a folder that nothing reads; return that folder."""
        aside = f"{DAMAGED_FOLDER}/{datetime.now(UTC):%Y-%m-%dT%H.%M.%S.%f}"
        for name in filter(self.has, names):
            if self.is_local:
                Path(self.path(f"{aside}/{name}")).parent.mkdir(parents=True, exist_ok=True)
            self.filesystem.move(self.path(name), self.path(f"{aside}/{name}"))
        return aside

    def probe(self, flag: str = "--out") -> None:
        """Write and remove a file where the results will be. Raise `UsageError` if that fails.

        `flag` is the flag that named the location, for messages.
        """
        try:
            if self.is_local:
                # In the nearest existing folder, so that a sweep that is refused later has created nothing.
                root = Path(self.root)
                _refuse_dangling_link(root)
                existing = next(path for path in (root, *root.parents) if path.exists())
                with tempfile.TemporaryFile(dir=existing):
                    pass
            else:
                name, there = f".probe-{uuid4().hex}", open_store(self.uri, GCS_PROBE_SECONDS)
                there.publish(name, b"")
                there.remove(name)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{flag} {self.root} can't be written to ({reason}): choose another place") from error


def _refuse_dangling_link(root: Path) -> None:
    for path in (root, *root.parents):
        if path.is_symlink() and not path.exists():
            raise UsageError(
                f"--out {root} can't be written to ({path} is a link to {os.readlink(path)}, which is not there): "
                "make that folder, or choose another place"
            )


def open_store(out: str | Path, retry_seconds: int = GCS_RETRY_SECONDS) -> Store:
    """Return the store at a folder or URI, without creating anything. Raise `UsageError` for a URI that can't be used.

    Google's cloud counts as out of reach after `retry_seconds`, unless the URI sets a limit.
    """
    if "://" not in str(out):
        return Store(fs.LocalFileSystem(), os.path.abspath(out))
    uri = str(out)
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={retry_seconds}"
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        reason = without_secrets(str(error).splitlines()[0].replace(uri, HIDDEN))
        raise UsageError(f"{redact(str(out))} can't be used ({reason}): give a folder, s3:// or gs://") from error
    return Store(filesystem, root, str(out))
