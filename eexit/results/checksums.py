"""Checksums of a sweep's files, which reveal a changed bit anywhere.

The metadata of a generations file contain size and digest of its tokens file, and a digest of the generations file
itself. The file's own digest is computed with zeros in its place. A file of a table about a sweep, such as timings,
contains its own digest in the same way. Parquet's page checksums, which are written too, do not cover page headers and
footers. The schema of generations contains descriptions of the custom rules and modes of its runs
(`eexit.method.custom_manifest`), from which a lost `sweep.json` is rewritten.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_SEAL, _SEAL_IS = b"eexit.seal", b"eexit.blake2b="
_TOKENS, _ATTEMPT = b"eexit.tokens", b"eexit.attempt"
_NO_DIGEST = "0" * 64
_CUSTOM = b"eexit.custom"


class ChecksumError(ValueError):
    """Checksum mismatch: a file has changed since it was written."""


@dataclass(frozen=True)
class FileDigest:
    """Size and BLAKE2b digest of a file."""

    size: int
    hex: str


def with_custom(generations: pa.Table, custom: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the rows with these descriptions of custom rules and modes in their schema, which filtered rows retain."""
    return generations.replace_schema_metadata({_CUSTOM: json.dumps(custom).encode()}) if custom else generations


def custom_of(generations: pa.Table) -> list[dict[str, Any]]:
    """Return the descriptions of custom rules and modes in the schema of these rows; empty if it has none."""
    custom: list[dict[str, Any]] = json.loads((generations.schema.metadata or {}).get(_CUSTOM, b"[]"))
    return custom


def encode_tokens(tokens: pa.Table) -> bytes:
    """Return the bytes of a tokens file."""
    return _parquet(tokens, {})


def encode_generations(generations: pa.Table, tokens: FileDigest, attempt: int) -> bytes:
    """Return the bytes of a generations file, including its own checksum and the tokens file's."""
    metadata = {_TOKENS: f"{tokens.size} {tokens.hex}".encode(), _ATTEMPT: str(attempt).encode()}
    return encode_sealed(generations, metadata)


def encode_sealed(table: pa.Table, metadata: Mapping[bytes, bytes] = MappingProxyType({})) -> bytes:
    """Return the bytes of a file that contains its own checksum, such as that of a table about a sweep."""
    seal = _SEAL_IS + _NO_DIGEST.encode()
    content = bytearray(_parquet(table, {**metadata, _SEAL: seal}))
    start = content.rindex(seal) + len(_SEAL_IS)
    content[start : start + len(_NO_DIGEST)] = checksum_of(content).hex.encode()
    return bytes(content)


def checksum_of(content: bytes | bytearray) -> FileDigest:
    return FileDigest(len(content), hashlib.blake2b(content, digest_size=32).hexdigest())


def check_seal(content: bytes) -> None:
    """Raise `ChecksumError` for a generations or study file whose checksum is missing or does not match."""
    start = content.rfind(_SEAL_IS) + len(_SEAL_IS)
    end = start + len(_NO_DIGEST)
    digest = hashlib.blake2b(memoryview(content)[:start], digest_size=32)
    digest.update(_NO_DIGEST.encode())
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != content[start:end]:
        raise ChecksumError


def read_seal(metadata: Mapping[bytes, bytes]) -> tuple[int, FileDigest]:
    """Return the attempt's start (ns since 1970) and the tokens file's digest, from a generations file's metadata."""
    size, digest = metadata[_TOKENS].decode().split()
    return int(metadata[_ATTEMPT]), FileDigest(int(size), digest)


def _parquet(table: pa.Table, metadata: dict[bytes, bytes]) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(metadata)
    content: bytes = sink.getvalue().to_pybytes()
    return content
