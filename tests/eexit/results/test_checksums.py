"""A change of any bit in a checksummed file is detected, and so is a file without a checksum."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flip_bits import READERS, flip_bits

from eexit.results.checksums import (
    ChecksumError,
    FileDigest,
    check_seal,
    encode_generations,
    encode_tokens,
    read_seal,
)

ROWS = pa.table({"run_id": ["a", "b"], "text": ["eexit.blake2b=" + "0" * 64, "eexit.seal"]})
SEALED = encode_generations(ROWS, FileDigest(12, "ab"), 34)


def test_a_sealed_file_is_read_as_any_other_and_says_what_it_seals() -> None:
    check_seal(SEALED)
    file = pq.ParquetFile(io.BytesIO(SEALED), page_checksum_verification=True)
    assert file.read().equals(ROWS)
    assert read_seal(file.metadata.metadata) == (34, FileDigest(12, "ab"))


def test_every_flipped_bit_breaks_the_seal() -> None:
    for bit in range(8 * len(SEALED)):
        flipped = bytearray(SEALED)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ChecksumError):
            check_seal(bytes(flipped))


def test_a_file_without_a_seal_is_no_sealed_one() -> None:
    with pytest.raises(ChecksumError):
        check_seal(encode_tokens(ROWS.slice(0, 0)))


@pytest.mark.slow
def test_no_flipped_bit_reads_back_as_other_data(tmp_path: Path) -> None:
    outcomes = flip_bits(tmp_path, 100)
    assert set(outcomes) <= {(reader, outcome) for reader in READERS for outcome in ("noticed", "the same")}
    assert outcomes.total() == 100 * len(READERS)
