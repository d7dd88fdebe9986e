"""The seals of a sweep's files: checksums that reveal a changed bit anywhere in them.

The metadata of a generations file contain the size and the digest of its tokens file, and the digest of the
generations file itself, computed with zeros in place of that digest. A file of a table about a sweep, such as timings,
contains its own digest in the same way. Parquet's own page checksums, which are written as well, do not cover page
headers and footers. The schema of generations has the descriptions of the custom rules and modes that made the rows
(`eexit.method.descriptions`), by which a lost `sweep.json` is written anew.
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


class BrokenSealError(ValueError):
    """A file is not the one that was sealed."""


@dataclass(frozen=True)
class Digest:
    """Size and BLAKE2b digest of a file."""

    size: int
    hex: str


def with_custom(generations: pa.Table, custom: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the rows with these descriptions of custom rules and modes, which filtered rows keep."""
    return generations.replace_schema_metadata({_CUSTOM: json.dumps(custom).encode()}) if custom else generations


def custom_of(generations: pa.Table) -> list[dict[str, Any]]:
    """Return the descriptions of the custom rules and modes by which rows were made, as far as they have them."""
    custom: list[dict[str, Any]] = json.loads((generations.schema.metadata or {}).get(_CUSTOM, b"[]"))
    return custom


def encode_tokens(tokens: pa.Table) -> bytes:
    """The bytes of a tokens file."""
    return _parquet(tokens, {})


def encode_generations(generations: pa.Table, tokens: Digest, attempt: int) -> bytes:
    """The bytes of a generations file that seals itself and the tokens file with this digest."""
    metadata = {_TOKENS: f"{tokens.size} {tokens.hex}".encode(), _ATTEMPT: str(attempt).encode()}
    return encode_sealed(generations, metadata)


def encode_sealed(table: pa.Table, metadata: Mapping[bytes, bytes] = MappingProxyType({})) -> bytes:
    """The bytes of a file that seals itself, such as one of a table about a sweep."""
    seal = _SEAL_IS + _NO_DIGEST.encode()
    content = bytearray(_parquet(table, {**metadata, _SEAL: seal}))
    start = content.rindex(seal) + len(_SEAL_IS)
    content[start : start + len(_NO_DIGEST)] = digest_of(content).hex.encode()
    return bytes(content)


def digest_of(content: bytes | bytearray) -> Digest:
    return Digest(len(content), hashlib.blake2b(content, digest_size=32).hexdigest())


def check_seal(content: bytes) -> None:
    """Raises `BrokenSealError` for a file, of generations or of a study, that has no seal or does not match it."""
    start = content.rfind(_SEAL_IS) + len(_SEAL_IS)
    end = start + len(_NO_DIGEST)
    digest = hashlib.blake2b(memoryview(content)[:start], digest_size=32)
    digest.update(_NO_DIGEST.encode())
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != content[start:end]:
        raise BrokenSealError


def read_seal(metadata: Mapping[bytes, bytes]) -> tuple[int, Digest]:
    """From a sealed file's metadata: when the attempt started, and the digest of the tokens file."""
    size, digest = metadata[_TOKENS].decode().split()
    return int(metadata[_ATTEMPT]), Digest(int(size), digest)


def _parquet(table: pa.Table, metadata: dict[bytes, bytes]) -> bytes:
    """The bytes of a complete Parquet file."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(metadata)
    content: bytes = sink.getvalue().to_pybytes()
    return content
