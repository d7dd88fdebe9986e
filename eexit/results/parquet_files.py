"""Reading and checking a sweep's Parquet files.

A shard is two files with one name, 32 hexadecimal digits: `tokens/NAME.parquet` and `generations/NAME.parquet`. The
generations file contains the checksums of both (`eexit.results.checksums`).
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from eexit.errors import UsageError, first_line
from eexit.plan.runs import OK
from eexit.results.checksums import ChecksumError, FileDigest, check_seal, checksum_of, read_seal
from eexit.results.layout import (
    FOLDERS,
    GENERATIONS_FOLDER,
    generations_name,
    is_shard_file,
    is_temporary_file,
    tokens_name,
)

READER_THREADS = 4
READ_AHEAD_FILES = 32
READ_BYTES = 1 << 20

_NEEDED = {"run_id", "status", "n_tokens"}  # columns
_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)  # raised on damaged bytes


class DamagedError(UsageError):
    """A missing or altered data file; the message is one line that names the file.

    `shard` is the content of the generations file, if only the tokens file is damaged.
    """

    shard: "GenerationsFile | None" = None


@dataclass(frozen=True)
class StoreLocation:
    """A folder on a pyarrow file system. Names are relative to it: `generations/ab12….parquet`."""

    filesystem: fs.FileSystem
    root: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        """Return the path of this name on `filesystem`."""
        return f"{self.root.rstrip('/')}/{name}"


@dataclass(frozen=True)
class GenerationsFile:
    """Some columns of an undamaged generations file, with the metadata of its shard.

    `attempt` is when the runs were started, in nanoseconds since 1970, and `tokens` the digest of the tokens file.
    """

    stem: str
    rows: pa.Table
    attempt: int
    tokens: FileDigest


@dataclass(frozen=True)
class StoreListing:
    """Names of the shard files, of temporary files of killed processes, and of foreign files in the data folders.

    Foreign files are files that no sweep wrote; hidden ones are omitted, since every reader ignores them.
    """

    shards: dict[str, fs.FileInfo]
    temporary: list[str]
    foreign: list[str]

    @property
    def stems(self) -> list[str]:
        """Names of the shards that have a generations file, without folder and extension."""
        folder, ending = f"{GENERATIONS_FOLDER}/", ".parquet"
        return sorted(name[len(folder) : -len(ending)] for name in self.shards if name.startswith(folder))


def list_files(location: StoreLocation) -> StoreListing:
    """List the data folders. Raise `UsageError` for a file in place of a data folder."""
    listing = StoreListing({}, [], [])
    for folder in FOLDERS:
        if location.filesystem.get_file_info(location.path(folder)).type == fs.FileType.File:
            raise UsageError(f"{location.path(folder)} is a file where a folder of results should be: remove it")
        for info in location.filesystem.get_file_info(fs.FileSelector(location.path(folder), allow_not_found=True)):
            name = f"{folder}/{info.base_name}"
            if info.type == fs.FileType.File and is_shard_file(info.base_name):
                listing.shards[name] = info
            elif info.type == fs.FileType.File and is_temporary_file(info.base_name):
                listing.temporary.append(name)
            elif not info.base_name.startswith((".", "_")):
                listing.foreign.append(name)
    listing.foreign.sort()
    return listing


def read_generations(location: StoreLocation, stem: str, columns: Sequence[str] | None = None) -> GenerationsFile:
    """Verify the checksum of a generations file, and read these columns (None: all) and `_NEEDED`.

    Raise `DamagedError`, or `OSError` if the file can't be read at all.
    """
    path = location.path(generations_name(stem))
    content = _read(location, path)
    with _naming(path):
        check_seal(content)
        # ParquetFile, since pyarrow.dataset would import pandas: 50 MB per process.
        file = pq.ParquetFile(pa.BufferReader(content))
        rows = file.read(None if columns is None else list({*columns, *_NEEDED}), use_threads=False)
        return GenerationsFile(stem, rows, *read_seal(file.metadata.metadata))


def check_tokens(location: StoreLocation, shard: GenerationsFile, info: fs.FileInfo | None) -> None:
    """Raise `DamagedError` if the shard's tokens file, described by `info`, is missing or damaged.

    A local file's checksum is verified. Under a URI only its size is, since object stores verify their bytes
    themselves.
    """
    path = location.path(tokens_name(shard.stem))
    if info is None or info.type != fs.FileType.File:
        raise DamagedError(f"{path} is missing")
    if info.size != shard.tokens.size or (location.is_local and _digest_of_file(path) != shard.tokens.hex):
        raise _changed(path)


def read_tokens(location: StoreLocation, shard: GenerationsFile) -> pa.Table:
    """Return a shard's tokens table. Raise `DamagedError`, or `OSError` if the file can't be read at all."""
    path = location.path(tokens_name(shard.stem))
    content = _read(location, path)
    if checksum_of(content) != shard.tokens:
        raise _changed(path)
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)


def stream_tokens(
    location: StoreLocation, shard: GenerationsFile, columns: Sequence[str], most_rows: int
) -> Iterator[pa.Table]:
    """Yield these columns of a shard's tokens, in tables of at most `most_rows` rows, however large the file is.

    The checksums of pages are verified; `check_tokens` verifies that of the whole file. Raise `DamagedError`.
    """
    path = location.path(tokens_name(shard.stem))
    with location.filesystem.open_input_file(path) as source, _naming(path):
        file = pq.ParquetFile(source, page_checksum_verification=True, buffer_size=READ_BYTES)
        for batch in file.iter_batches(most_rows, columns=list(columns), use_threads=False):
            yield pa.Table.from_batches([batch])


def list_folder(location: StoreLocation, folder: str) -> list[str]:
    """Return the names of all files of a table, sorted."""
    infos = location.filesystem.get_file_info(fs.FileSelector(location.path(folder), allow_not_found=True))
    return sorted(f"{folder}/{info.base_name}" for info in infos if is_shard_file(info.base_name))


def read_sealed(location: StoreLocation, name: str) -> pa.Table:
    """Verify a file that contains its own checksum, and return its rows. Raise `DamagedError` or `OSError`."""
    path = location.path(name)
    content = _read(location, path)
    with _naming(path):
        check_seal(content)
        return pq.ParquetFile(pa.BufferReader(content)).read()


def read_shards(
    location: StoreLocation, listing: StoreListing, columns: Sequence[str] | None
) -> Iterator[GenerationsFile | DamagedError]:
    """Yield each shard's generations, or the error if one of its two files is damaged, in the order of their names."""

    def read(stem: str) -> GenerationsFile | DamagedError:
        shard = None
        try:
            shard = read_generations(location, stem, columns)
            check_tokens(location, shard, listing.shards.get(tokens_name(stem)))
        except DamagedError as error:
            error.shard = shard
            return error
        return shard

    stems = listing.stems
    with ThreadPoolExecutor(READER_THREADS) as readers:
        for start in range(0, len(stems), READ_AHEAD_FILES):
            yield from readers.map(read, stems[start : start + READ_AHEAD_FILES])


def superseded(shards: Sequence[GenerationsFile]) -> dict[str, set[str]]:
    """Return duplicate runs that don't count, of runs that were committed more than once: shard name → run ids.

    A successful row takes precedence over an error; among equals, the row of the later attempt counts.
    """
    run_ids = pa.chunked_array([chunk for shard in shards for chunk in shard.rows["run_id"].chunks], pa.string())
    landed = run_ids.value_counts()
    twice = set(landed.field("values").filter(pc.greater(landed.field("counts"), 1)).to_pylist())
    counts: dict[str, tuple[bool, int, str]] = {}
    losers: dict[str, set[str]] = {}
    for shard in shards if twice else ():
        for run_id, status in zip(*(shard.rows[name].to_pylist() for name in ("run_id", "status")), strict=True):
            if run_id in twice:
                this = (status == OK, shard.attempt, shard.stem)
                loser = min(this, counts.get(run_id, this))
                counts[run_id] = max(this, counts.get(run_id, this))
                if loser != counts[run_id]:
                    losers.setdefault(loser[2], set()).add(run_id)
    return losers


def once_each(rows: pa.Table, names: Sequence[str], latest: bool = False) -> pa.Table:
    """Return one row for each combination of values in these columns: without an error if possible, else any.

    Among equals, the first counts, or the latest.
    """
    counts: dict[tuple[object, ...], int] = {}
    is_ok = [status == OK for status in rows["status"].to_pylist()]
    for at, key in enumerate(zip(*(rows[name].to_pylist() for name in names), strict=True)):
        before = counts.setdefault(key, at)
        if is_ok[at] > is_ok[before] or (latest and is_ok[at] == is_ok[before]):
            counts[key] = at
    return rows.take(pa.array(sorted(counts.values()), pa.int64()))


def without(table: pa.Table, run_ids: Collection[str]) -> pa.Table:
    """Return the table without the rows of these runs."""
    return (
        table.filter(pc.invert(pc.is_in(table["run_id"], pa.array(sorted(run_ids), pa.string())))) if run_ids else table
    )


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with the columns of `schema`, filled with null where the table lacks a column."""
    has = set(table.column_names)
    columns = [
        table[field.name].cast(field.type) if field.name in has else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _read(location: StoreLocation, path: str) -> bytes:
    """Return a file's bytes. Raise `DamagedError` if it is missing, or an `OSError` that names it."""
    try:
        with location.filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
    except FileNotFoundError as error:
        raise DamagedError(f"{path} is missing") from error
    except OSError as error:
        raise OSError(f"{path} can't be read ({first_line(error)})") from error
    return content


def _digest_of_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=32)).hexdigest()
    except OSError as error:
        raise OSError(f"{path} can't be read ({first_line(error)})") from error


def _changed(path: str) -> DamagedError:
    return DamagedError(f"{path} is damaged (its checksum does not match)")


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Convert whatever reading damaged bytes raises to a `DamagedError` that names the file."""
    try:
        yield
    except DamagedError:
        raise
    except ChecksumError as error:
        raise _changed(path) from error
    except _UNREADABLE as error:
        raise DamagedError(f"{path} is damaged ({first_line(error)})") from error
