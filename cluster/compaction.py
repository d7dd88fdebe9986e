"""Merging many small Parquet files into few, in place or into a copy.

In place, on a local disk: merged files are written aside, then each folder is exchanged for its merged one in one step.
Who reads `generations` or `tokens` gets every row once, before as after. What a folder held before stays for a few
seconds, since a reader that is listing it must not see it half deleted; one that opens its files later than that gets
`FileNotFoundError`. What is killed between the two exchanges is finished by the next sweep or compaction. Object stores
exchange nothing: there, and wherever else, `compact_into` writes a merged copy.
"""

import ctypes
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import manifest
from cluster.landing import GENERATIONS_FOLDER, TOKENS_FOLDER, clear_debris, data_files, parquet, read_files
from cluster.store import Store, open_store
from eexit.config import UsageError

ASIDE = ".compacting"
READY = "ready"
EXCHANGED = ".exchanged"  # hidden: readers of a data folder pass it by
FOLDERS = (TOKENS_FOLDER, GENERATIONS_FOLDER)
GRACE_SECONDS = 5.0  # for readers that are listing a folder when it is exchanged
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def compact(store: Store, rows_per_file: int, grace_seconds: float = GRACE_SECONDS) -> tuple[int, int]:
    """Merge what is in `store` into files of at least `rows_per_file` runs; returns the files before and after.

    Its lease must be held. Raises `UsageError` for a store that isn't local.
    """
    if not store.is_local:
        raise UsageError(f"--out {store.root} is no local folder, and is compacted into a copy only: give --into")
    finish_compaction(store)
    clear_debris(store)
    names = _stems(store)
    groups = list(_groups(store, names, rows_per_file))
    if len(groups) == len(names):
        return len(names), len(names)
    _rehearse_exchange(Path(store.root, ASIDE))
    aside = open_store(Path(store.root, ASIDE))
    for group in groups:
        _merge(store, aside, group)
    aside.publish(READY, b"")
    finish_compaction(store, grace_seconds)
    return len(names), len(groups)


def compact_into(store: Store, target: Store, rows_per_file: int) -> tuple[int, int]:
    """A merged copy of the sweep in `store`, in a `target` that holds none. Its lease must be held."""
    if manifest.read_manifest(target) is not None:
        raise UsageError(f"--into {target.root} holds results: choose another place")
    clear_debris(store)
    content = store.read(manifest.NAME)
    if content is None:
        raise UsageError(f"{store.root} holds no {manifest.NAME}: is it a sweep's?")
    target.publish(manifest.NAME, content)
    names = _stems(store)
    groups = list(_groups(store, names, rows_per_file))
    for group in groups:
        _merge(store, target, group)
    return len(names), len(groups)


def finish_compaction(store: Store, grace_seconds: float = GRACE_SECONDS) -> None:
    """Bring a compaction to its end that was killed; does nothing where there was none."""
    aside = Path(store.root, ASIDE)
    if not store.is_local or not aside.is_dir():
        return
    if (aside / READY).exists():
        for folder in FOLDERS:
            # Once exchanged, what lies aside is marked: a second exchange would undo the first.
            if not (aside / folder / EXCHANGED).exists():
                Path(store.root, folder, EXCHANGED).touch()
                _exchange(aside / folder, Path(store.root, folder))
        (aside / READY).unlink()
        time.sleep(grace_seconds)
    shutil.rmtree(aside)


def _rehearse_exchange(aside: Path) -> None:
    one, other = aside / "one", aside / "other"
    try:
        for folder in (one, other):
            folder.mkdir(parents=True)
        _exchange(one, other)
    except UsageError:
        shutil.rmtree(aside)
        raise
    one.rmdir()
    other.rmdir()


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    paths = (os.fsencode(one), os.fsencode(other))
    if not hasattr(libc, "renameat2"):
        raise UsageError(f"folders can't be exchanged in one step on this system: compact {other.parent} with --into")
    if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS):
            raise UsageError(f"the file system of {other.parent} can't exchange folders: compact it with --into")
        raise OSError(code, os.strerror(code), str(other))


def _stems(store: Store) -> list[str]:
    return sorted(PurePosixPath(name).stem for name in data_files(store, GENERATIONS_FOLDER))


def _groups(store: Store, stems: list[str], rows_per_file: int) -> Iterator[list[str]]:
    group: list[str] = []
    rows = 0
    for stem in stems:
        path = store.paths([f"{GENERATIONS_FOLDER}/{stem}.parquet"])[0]
        with store.filesystem.open_input_file(path) as file:
            rows += pq.ParquetFile(file).metadata.num_rows
        group.append(stem)
        if rows >= rows_per_file:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _merge(source: Store, target: Store, stems: list[str]) -> None:
    """One file of both tables, of one name, as landing does it: tokens first."""
    name = stems[0] if len(stems) == 1 else hashlib.blake2b("".join(stems).encode(), digest_size=16).hexdigest()
    for folder in FOLDERS:
        tables = [table for _, table in read_files(source, [f"{folder}/{stem}.parquet" for stem in stems])]
        target.publish(f"{folder}/{name}.parquet", parquet(pa.concat_tables(tables)))
