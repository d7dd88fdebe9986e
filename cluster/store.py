"""A folder of results: on a local disk, or under a URI that `pyarrow.fs` knows (s3://, gs://).

A name either has all its content or isn't there: files are published in one step and never appended to.
"""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
from pyarrow import fs

from eexit.config import UsageError
from eexit.files import Place
from eexit.places import HIDDEN, shown, without_secrets
from eexit.results import temporary_name

DAMAGED_FOLDER = "damaged"
GCS_RETRY_SECONDS = 60  # its client would try a bucket that isn't there, or no network, for a quarter of an hour


@dataclass(frozen=True)
class Store(Place):
    """Names inside are relative to the folder, with forward slashes: `generations/ab12.parquet`."""

    def publish(self, name: str, content: bytes | pa.Buffer) -> None:
        """Make `content` visible under `name`, whole, replacing what was there. Raises `OSError`."""
        if not self.is_local:
            # One write of everything: an exception between open and close would publish what was written so far.
            with self.filesystem.open_output_stream(self.path(name)) as stream:
                stream.write(content)
            return
        final = Path(self.path(name))
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(temporary_name(final.name))
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                error.filename = str(final)  # of a full disk, the system's error does not say which
            raise

    def create(self, name: str, content: bytes) -> bool:
        """Publish unless there is something under `name`; whether it was. Only file systems with links are sure."""
        if not self.is_local:
            return self._create_unsure(name, content)
        final = Path(self.path(name))
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = temporary_name(final.name)
        self.publish(aside, content)
        try:
            final.hardlink_to(final.with_name(aside))
        except FileExistsError:
            return False
        except OSError:  # there are no links, as on some USB sticks and network disks
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
        """The content under `name`, or its first `most` bytes; None if there is none."""
        try:
            with self.filesystem.open_input_stream(self.path(name)) as stream:
                content: bytes = stream.read(most)
        except FileNotFoundError:
            return None
        return content

    def names(self, folder: str) -> list[str]:
        """Names of the files in `folder`, temporary ones too; none if there is no such folder.

        Raises `UsageError` for a file where the folder should be.
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
        """Whether there is a folder; object stores have none, only names."""
        return bool(self.filesystem.get_file_info(self.root).type == fs.FileType.Directory)

    def remove_if_empty(self, folder: str = "") -> None:
        """Remove `folder`, or the whole place, if it is a local folder and nothing is in it."""
        if self.is_local:
            with contextlib.suppress(OSError):
                Path(self.path(folder)).rmdir()

    def set_aside(self, *names: str) -> str:
        """Move what can't be used any more, in this order, to where nothing reads it; returns the folder."""
        aside = f"{DAMAGED_FOLDER}/{datetime.now(UTC):%Y-%m-%dT%H.%M.%S.%f}"
        for name in filter(self.has, names):
            if self.is_local:
                Path(self.path(f"{aside}/{name}")).parent.mkdir(parents=True, exist_ok=True)
            self.filesystem.move(self.path(name), self.path(f"{aside}/{name}"))
        return aside

    def probe(self) -> None:
        """Write and remove a file where the results will go. Raises `UsageError` if that can't be done."""
        try:
            if self.is_local:
                # In the nearest folder that is there already: a sweep refused later must leave nothing behind.
                root = Path(self.root)
                _refuse_dangling_link(root)
                existing = next(path for path in (root, *root.parents) if path.exists())
                with tempfile.TemporaryFile(dir=existing):
                    pass
            else:
                name = f".probe-{uuid4().hex}"
                self.publish(name, b"")
                self.remove(name)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"--out {self.root} can't be written to ({reason}): choose another place") from error


def _refuse_dangling_link(root: Path) -> None:
    for path in (root, *root.parents):
        if path.is_symlink() and not path.exists():
            raise UsageError(
                f"--out {root} can't be written to ({path} is a link to {os.readlink(path)}, which is not there): "
                "make that folder, or choose another place"
            )


def open_store(out: str | Path) -> Store:
    """The store at a folder or URI; nothing is created yet. Raises `UsageError` for a URI that can't be used."""
    if "://" not in str(out):
        return Store(fs.LocalFileSystem(), os.path.abspath(out))
    uri = str(out)
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={GCS_RETRY_SECONDS}"
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        reason = without_secrets(str(error).splitlines()[0].replace(uri, HIDDEN))
        raise UsageError(f"--out {shown(str(out))} can't be used ({reason}): give a folder, s3:// or gs://") from error
    return Store(filesystem, root)
