"""A sweep's Parquet files: what they are called, the seal that shows damage, and reading only what is whole.

A shard is two files of one name, 32 hexadecimal digits: `tokens/NAME.parquet` and `generations/NAME.parquet`. The
metadata of the second seal both: they hold the size and the digest of the tokens file, and a digest of the generations
file itself (of its bytes, with zeros where that digest stands). So a changed bit is found wherever it is; Parquet's own
page checksums, which are written too, leave out page headers and footers. Files of older versions have no seal: there,
the numbers of rows must agree.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from eexit.config import UsageError, first_line
from eexit.schema import OK

GENERATIONS_FOLDER = "generations"
TOKENS_FOLDER = "tokens"
FOLDERS = (TOKENS_FOLDER, GENERATIONS_FOLDER)
READERS = 4
READ_AHEAD = 32  # files
READ_BYTES = 1 << 20

_SHARD = re.compile(r"[0-9a-f]{32}\.parquet")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.parquet\.[0-9a-f]{32}\.tmp")
# A flipped bit can hit one of these and not both: a file with neither was never sealed.
_SEAL, _SEAL_IS = b"eexit.seal", b"eexit.blake2b="
_TOKENS, _ATTEMPT = b"eexit.tokens", b"eexit.attempt"
_NO_DIGEST = "0" * 64
_NEEDED = {"run_id", "status", "n_tokens"}  # columns
_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)  # of bytes that are not as they should be


class DamagedError(UsageError):
    """A data file that is missing, or isn't what was written; the message is one line that names it.

    `shard` is what the generations file says, where that is whole and only the tokens are not.
    """

    shard: "Generations | None" = None


@dataclass(frozen=True)
class Place:
    """A folder on a file system that pyarrow knows. Names inside are relative to it: `generations/ab12….parquet`."""

    filesystem: fs.FileSystem
    root: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        """What `filesystem` calls this name."""
        return f"{self.root.rstrip('/')}/{name}"


@dataclass(frozen=True)
class Digest:
    """What the bytes of a file must come to; `hex` is empty where that isn't known, and `size` is -1."""

    size: int = -1
    hex: str = ""


@dataclass(frozen=True)
class Generations:
    """Some columns of a generations file that is whole, and what it says of its shard.

    `attempt`: the time at which its runs were begun, or its file's own for an older version's, in nanoseconds since
    1970. `n_tokens`: rows that the tokens file must have.
    """

    stem: str
    rows: pa.Table
    attempt: int
    n_tokens: int
    tokens: Digest


@dataclass(frozen=True)
class Listing:
    """What the data folders hold, by name: shards' files, what a killed process left, and what no sweep put there.

    Of the last, hidden files are left out; every reader passes them by.
    """

    shards: dict[str, fs.FileInfo]
    temporary: list[str]
    foreign: list[str]

    @property
    def stems(self) -> list[str]:
        """Of the shards that have a generations file."""
        folder, ending = f"{GENERATIONS_FOLDER}/", ".parquet"
        return sorted(name[len(folder) : -len(ending)] for name in self.shards if name.startswith(folder))


def generations_name(stem: str) -> str:
    return f"{GENERATIONS_FOLDER}/{stem}.parquet"


def tokens_name(stem: str) -> str:
    return f"{TOKENS_FOLDER}/{stem}.parquet"


def list_files(place: Place) -> Listing:
    """Raises `UsageError` for a file where a folder of results should be."""
    listing = Listing({}, [], [])
    for folder in FOLDERS:
        if place.filesystem.get_file_info(place.path(folder)).type == fs.FileType.File:
            raise UsageError(f"{place.path(folder)} is a file where a folder of results should be: remove it")
        for info in place.filesystem.get_file_info(fs.FileSelector(place.path(folder), allow_not_found=True)):
            name = f"{folder}/{info.base_name}"
            if info.type == fs.FileType.File and _SHARD.fullmatch(info.base_name):
                listing.shards[name] = info
            elif info.type == fs.FileType.File and _TEMPORARY.fullmatch(info.base_name):
                listing.temporary.append(name)
            elif not info.base_name.startswith((".", "_")):
                listing.foreign.append(name)
    listing.foreign.sort()
    return listing


def encode_tokens(tokens: pa.Table) -> bytes:
    """The bytes of a tokens file."""
    return _parquet(tokens, {})


def encode_generations(generations: pa.Table, tokens: Digest, attempt: int) -> bytes:
    """The bytes of a generations file, which seals itself and the tokens file that has this digest."""
    seal = _SEAL_IS + _NO_DIGEST.encode()
    metadata = {_TOKENS: f"{tokens.size} {tokens.hex}".encode(), _ATTEMPT: str(attempt).encode(), _SEAL: seal}
    content = bytearray(_parquet(generations, metadata))
    start = content.rindex(seal) + len(_SEAL_IS)
    content[start : start + len(_NO_DIGEST)] = digest_of(content).hex.encode()
    return bytes(content)


def digest_of(content: bytes | bytearray) -> Digest:
    return Digest(len(content), hashlib.blake2b(content, digest_size=32).hexdigest())


def read_generations(place: Place, stem: str, columns: Sequence[str] | None = None) -> Generations:
    """Read a generations file, or these columns and `_NEEDED` of it, after checking its seal.

    Raises `DamagedError`, and `OSError` for a file that can't be read at all.
    """
    path = place.path(generations_name(stem))
    content = _read(place, path)
    sealed = _check_seal(path, content)
    try:
        # By pyarrow's plain reader: its `dataset` costs a process 50 MB of pandas.
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        rows = file.read(None if columns is None else list({*columns, *_NEEDED}), use_threads=False)
        metadata = file.metadata.metadata
        missing = sorted(_NEEDED - set(rows.column_names))
        if missing:
            raise ValueError(f"it has no column {missing[0]}")
        if pc.count_distinct(rows["run_id"]).as_py() < rows.num_rows:
            raise ValueError("it holds a run more than once")
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    n_tokens = pc.sum(rows["n_tokens"]).as_py() or 0
    if not sealed:
        return Generations(stem, rows, place.filesystem.get_file_info(path).mtime_ns or 0, n_tokens, Digest())
    size, digest = metadata[_TOKENS].decode().split()
    return Generations(stem, rows, int(metadata[_ATTEMPT]), n_tokens, Digest(int(size), digest))


def check_tokens(place: Place, shard: Generations, info: fs.FileInfo | None) -> None:
    """Raises `DamagedError` unless the shard's tokens file, of which `info` tells, is there and whole.

    A local file is read for that. Under a URI its size has to do: an object store looks after its objects' bits itself.
    """
    path = place.path(tokens_name(shard.stem))
    if info is None or info.type != fs.FileType.File:
        raise DamagedError(f"{path} is missing")
    if not shard.tokens.hex:
        with place.filesystem.open_input_file(path) as file:
            _open_tokens(path, shard, file)
    elif info.size != shard.tokens.size or (place.is_local and digest_of_file(place, path) != shard.tokens):
        raise _changed(path)


def read_tokens(place: Place, shard: Generations) -> pa.Table:
    """All of a shard's tokens. Raises `DamagedError`, and `OSError` for a file that can't be read at all."""
    path = place.path(tokens_name(shard.stem))
    content = _read(place, path)
    if shard.tokens.hex and digest_of(content) != shard.tokens:
        raise _changed(path)
    try:
        return _open_tokens(path, shard, pa.BufferReader(content)).read(use_threads=False)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def read_shards(place: Place, listing: Listing, columns: Sequence[str] | None) -> Iterator[Generations | DamagedError]:
    """Each shard's generations, or what is wrong with one of its two files; in the order of their names."""

    def read(stem: str) -> Generations | DamagedError:
        shard = None
        try:
            shard = read_generations(place, stem, columns)
            check_tokens(place, shard, listing.shards.get(tokens_name(stem)))
        except DamagedError as error:
            error.shard = shard
            return error
        return shard

    stems = listing.stems
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(stems), READ_AHEAD):
            yield from readers.map(read, stems[start : start + READ_AHEAD])


def superseded(shards: Iterable[Generations], twice: Collection[str]) -> dict[str, set[str]]:
    """Of the runs that are there `twice`, the rows that don't count: run ids by the stem of their shard.

    A row that is done counts rather than an error, and else that of the later attempt.
    """
    counts: dict[str, tuple[bool, int, str]] = {}
    others: dict[str, set[str]] = {}
    for shard in shards:
        for run_id, status in zip(*(shard.rows[name].to_pylist() for name in ("run_id", "status")), strict=True):
            if run_id in twice:
                this = (status == OK, shard.attempt, shard.stem)
                loser = min(this, counts.get(run_id, this))
                counts[run_id] = max(this, counts.get(run_id, this))
                if loser != counts[run_id]:
                    others.setdefault(loser[2], set()).add(run_id)
    return others


def without(table: pa.Table, run_ids: Collection[str]) -> pa.Table:
    """The rows of other runs than these."""
    return (
        table.filter(pc.invert(pc.is_in(table["run_id"], pa.array(sorted(run_ids), pa.string())))) if run_ids else table
    )


def _parquet(table: pa.Table, metadata: dict[bytes, bytes]) -> bytes:
    """A whole file, to be written at once."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(metadata)
    return sink.getvalue().to_pybytes()


def _read(place: Place, path: str) -> bytes:
    """Raises `OSError` that names the file, and `DamagedError` where there is none."""
    try:
        with place.filesystem.open_input_stream(path) as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise DamagedError(f"{path} is missing") from error
    except OSError as error:
        raise OSError(f"{path} can't be read ({first_line(error)})") from error


def digest_of_file(place: Place, path: str) -> Digest:
    digest, size = hashlib.blake2b(digest_size=32), 0
    try:
        with place.filesystem.open_input_stream(path) as stream:
            while content := stream.read(READ_BYTES):
                digest.update(content)
                size += len(content)
    except OSError as error:
        raise OSError(f"{path} can't be read ({first_line(error)})") from error
    return Digest(size, digest.hexdigest())


def _check_seal(path: str, content: bytes) -> bool:
    """Whether a generations file has a seal. Raises `DamagedError` for one that doesn't fit."""
    start = content.rfind(_SEAL_IS) + len(_SEAL_IS)
    if start < len(_SEAL_IS):
        if _SEAL in content:
            raise _changed(path)
        return False
    end = start + len(_NO_DIGEST)
    digest = hashlib.blake2b(memoryview(content)[:start], digest_size=32)
    digest.update(_NO_DIGEST.encode())
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != content[start:end]:
        raise _changed(path)
    return True


def _open_tokens(path: str, shard: Generations, source: pa.NativeFile) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    if file.metadata.num_rows != shard.n_tokens:
        raise DamagedError(f"{path} has {file.metadata.num_rows:,} rows, not {shard.n_tokens:,} as its generations say")
    return file


def _changed(path: str) -> DamagedError:
    return DamagedError(f"{path} is damaged (its checksum does not match)")


def _damaged(path: str, error: Exception) -> DamagedError:
    return DamagedError(f"{path} is damaged ({first_line(error)})")
