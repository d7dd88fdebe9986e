"""A change of any bit in a sealed file is detected. A file without a seal counts as one of an older version."""

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from eexit.results.files import DamagedError, Location, read_timings
from eexit.results.layout import timings_name
from eexit.results.seals import (
    BrokenSealError,
    Digest,
    check_seal,
    encode_further,
    encode_generations,
    encode_tokens,
    read_seal,
)
from eexit.results.study_tables import TIMINGS

ROWS = pa.table({"run_id": ["a", "b"], "text": ["eexit.blake2b=" + "0" * 64, "eexit.seal"]})
SEALED = encode_generations(ROWS, Digest(12, "ab"), 34)


def test_a_sealed_file_is_read_as_any_other_and_says_what_it_seals() -> None:
    assert check_seal(SEALED)
    file = pq.ParquetFile(io.BytesIO(SEALED), page_checksum_verification=True)
    assert file.read().equals(ROWS)
    assert read_seal(file.metadata.metadata) == (34, Digest(12, "ab"))


def test_every_flipped_bit_breaks_the_seal() -> None:
    for bit in range(8 * len(SEALED)):
        flipped = bytearray(SEALED)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BrokenSealError):
            check_seal(bytes(flipped))


def test_a_file_of_an_older_version_has_no_seal() -> None:
    assert not check_seal(encode_tokens(ROWS.slice(0, 0)))


def timing(number: int, minute: int) -> pa.Table:
    row = {"timing_id": f"{number:032x}", "started": datetime(2026, 1, 1, 0, minute, tzinfo=UTC), "seconds": minute}
    needed = {field.name: "" if pa.types.is_string(field.type) else 0 for field in TIMINGS if not field.nullable}
    return pa.Table.from_pylist([needed | row], TIMINGS)


def test_all_timings_are_read_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    location = Location(fs.LocalFileSystem(), str(tmp_path))
    assert read_timings(location).schema.equals(TIMINGS)
    (tmp_path / "timings").mkdir()
    (tmp_path / timings_name("f" * 32)).write_bytes(encode_further(timing(0xF, 1)))
    (tmp_path / timings_name("a" * 32)).write_bytes(encode_further(timing(0xA, 2)))
    (tmp_path / "timings" / "mine.txt").touch()
    assert read_timings(location).column("seconds").to_pylist() == [1, 2]


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content.replace(b"seal", b"leas")])
def test_a_damaged_timing_is_never_read_as_data(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "timings").mkdir()
    (tmp_path / timings_name("f" * 32)).write_bytes(damage(encode_further(timing(0xF, 1))))
    with pytest.raises(DamagedError, match=f"timings/{'f' * 32}.parquet is damaged"):
        read_timings(Location(fs.LocalFileSystem(), str(tmp_path)))
