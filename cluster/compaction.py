"""Merging many small Parquet files into few, in place or into a copy.

In place, on a local disk: merged files are written aside, then each folder is exchanged for its merged one in one step.
Who reads `generations` or `tokens` gets every row once, before as after. What a folder held before stays for a few
seconds, since a reader that is listing it must not see it half deleted; one that opens its files later than that gets
`FileNotFoundError`. What is killed between the two exchanges is finished by the next sweep or compaction. Object stores
exchange nothing: there, and wherever else, `compact_into` writes a merged copy.
"""

import ctypes
import errno
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.landing import Survey, clear_debris, name_of, survey
from cluster.store import Store, open_store
from eexit.about import FORMATS, NAME, decode, encode
from eexit.config import UsageError
from eexit.files import FOLDERS, generations_name, list_files, read_generations, read_tokens, tokens_name, without
from eexit.seals import digest_of, encode_generations, encode_tokens

ASIDE = ".compacting"
READY = "ready"
REHEARSED = ("one", "other")
EXCHANGED = ".exchanged"  # hidden: readers of a data folder pass it by
GRACE_SECONDS = 5.0  # for readers that are listing a folder when it is exchanged
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def compact(store: Store, rows_per_file: int, grace_seconds: float = GRACE_SECONDS) -> tuple[int, int]:
    """Merge what is in `store` into files of at least `rows_per_file` runs; returns the files before and after.

    Its lease must be held. Raises `UsageError` for a store that isn't local, and for files that aren't the sweep's.
    """
    if not store.is_local:
        raise UsageError(f"--out {store.root} is no local folder, and is compacted into a copy only: give --into")
    finish_compaction(store)
    clear_debris(store)
    found = _sound(store)
    if found.foreign:  # they would go with the folder that is exchanged
        raise UsageError(f"{store.path(found.foreign[0])} is not one of the sweep's files: move it elsewhere")
    names = list_files(store).stems
    groups = list(_groups(store, names, rows_per_file))
    if len(groups) == len(names) and not found.superseded:
        return len(names), len(names)
    _rehearse_exchange(Path(store.root, ASIDE))
    aside = open_store(Path(store.root, ASIDE))
    for folder in FOLDERS:
        Path(aside.root, folder).mkdir(parents=True)
    n_files = sum(_merge(store, aside, group, found.superseded) for group in groups)
    aside.publish(READY, b"")
    finish_compaction(store, grace_seconds)
    return len(names), n_files


def compact_into(store: Store, target: Store, rows_per_file: int) -> tuple[int, int]:
    """A merged copy of the sweep in `store`, in a `target` that holds none. Its lease must be held."""
    if target.has(NAME) or list_files(target).shards:
        raise UsageError(f"--into {target.root} holds results: choose another place")
    found = _sound(store)
    target.publish(NAME, encode(read_about(store)))
    names = list_files(store).stems
    groups = list(_groups(store, names, rows_per_file))
    return len(names), sum(_merge(store, target, group, found.superseded) for group in groups)


def read_about(store: Store) -> dict[str, Any]:
    """What the sweep in `store` is. Raises `UsageError` if there is none."""
    content = store.read(NAME)
    if content is None:
        raise UsageError(f"{store.root} holds no {NAME}: is it a sweep's?")
    try:
        return decode(content, FORMATS)
    except ValueError as error:
        raise UsageError(f"{store.root}/{NAME} is no sweep's, or damaged ({error}): nothing is touched") from error


def _sound(store: Store) -> Survey:
    found = survey(store)
    if found.damaged:
        first = next(iter(found.damaged.values()))
        more = f", and {len(found.damaged) - 1} more are" if len(found.damaged) > 1 else ""
        raise UsageError(f"{first}{more}: run the sweep's own command first, which does these runs again")
    return found


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
    _clear_aside(store, aside)


def _clear_aside(store: Store, aside: Path) -> None:
    """Remove what a compaction put aside, and nothing else: what came into a folder meanwhile goes back to it."""
    held = list_files(open_store(aside))
    for name in (*held.shards, *held.temporary, *(f"{folder}/{EXCHANGED}" for folder in FOLDERS)):
        (aside / name).unlink(missing_ok=True)
    for folder in FOLDERS:
        for path in (aside / folder).glob("*"):
            if not Path(store.root, folder, path.name).exists():
                path.rename(Path(store.root, folder, path.name))
    for folder in (*FOLDERS, *REHEARSED, "."):
        with suppress(OSError):  # it isn't there, or it isn't empty
            (aside / folder).rmdir()


def _rehearse_exchange(aside: Path) -> None:
    one, other = (aside / name for name in REHEARSED)
    try:
        for folder in (one, other):
            folder.mkdir(parents=True, exist_ok=True)
        _exchange(one, other)
    finally:
        for folder in (one, other, aside):
            folder.rmdir()


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


def _groups(store: Store, stems: list[str], rows_per_file: int) -> Iterator[list[str]]:
    group: list[str] = []
    rows = 0
    for stem in stems:
        with store.filesystem.open_input_file(store.path(generations_name(stem))) as file:
            rows += pq.ParquetFile(file).metadata.num_rows
        group.append(stem)
        if rows >= rows_per_file:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _merge(source: Store, target: Store, stems: list[str], superseded: Mapping[str, Collection[str]]) -> int:
    """One shard of all of these, without the rows that don't count, landed as a shard is; returns how many files."""
    shards = [read_generations(source, stem) for stem in stems]
    dropped = [superseded.get(stem, ()) for stem in stems]
    # Shards of several versions may differ in their columns.
    generations = pa.concat_tables(map(without, (s.rows for s in shards), dropped), promote_options="default")
    if not generations.num_rows:
        return 0
    name = name_of(stems) if len(stems) > 1 else stems[0]
    tokens = (read_tokens(source, shard) for shard in shards)
    content = encode_tokens(pa.concat_tables(map(without, tokens, dropped), promote_options="default"))
    target.publish(tokens_name(name), content)
    attempt = max(shard.attempt for shard in shards)
    target.publish(generations_name(name), encode_generations(generations, digest_of(content), attempt))
    return 1
