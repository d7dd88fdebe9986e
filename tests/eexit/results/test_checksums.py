"""A change of any bit in a checksummed file is detected, and so is a file without a checksum."""

import io
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from driving import land_rows
from scripted import sweep_of

from eexit.errors import UsageError
from eexit.results.checksums import ChecksumError, FileDigest, check_seal, encode_generations, encode_tokens, read_seal
from eexit.results.store.commit import repair_store
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import read_manifest
from reports.read.sweep import read_sweep

ROWS = pa.table({"run_id": ["a", "b"], "text": ["eexit.blake2b=" + "0" * 64, "eexit.seal"]})
SEALED = encode_generations(ROWS, FileDigest(12, "ab"), 34)


def flipped(content: bytes, bit: int) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def test_a_sealed_file_is_read_as_any_other_and_every_flipped_bit_breaks_the_seal_and_so_does_its_lack() -> None:
    check_seal(SEALED)
    file = pq.ParquetFile(io.BytesIO(SEALED), page_checksum_verification=True)
    assert file.read().equals(ROWS)
    assert read_seal(file.metadata.metadata) == (34, FileDigest(12, "ab"))
    for damaged in (*(flipped(SEALED, bit) for bit in range(8 * len(SEALED))), encode_tokens(ROWS.slice(0, 0))):
        with pytest.raises(ChecksumError):
            check_seal(damaged)


def resumed(folder: Path) -> object:
    manifest, (found, lines) = read_manifest(store := open_store(folder)), repair_store(store)
    return None if lines else (manifest, found)


def reported(folder: Path) -> object:
    sweep = read_sweep(str(folder))
    tables = (each.to_table().to_pylist() for each in (sweep.tokens, sweep.texts))
    return None if sweep.left_out else (sweep.about, sweep.generations.to_csv(), *tables)


@pytest.mark.slow
@pytest.mark.parametrize("read", [resumed, reported])
def test_no_flipped_bit_reads_back_as_other_data(read: Callable[[Path], object], tmp_path: Path) -> None:
    """After each flip, a reader notices the damage, or reads the original data if the bit has no effect."""
    whole = land_rows(tmp_path / "whole", sweep_of("a-model", "one", "two", "three", "four"))
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    expected, draw = read(shutil.copytree(whole, tmp_path / "copy")), Random(0)
    assert expected is not None
    for number in range(100):
        copy, name = shutil.copytree(whole, tmp_path / f"{number}"), draw.choice(files)
        content = (copy / name).read_bytes()
        bit = draw.randrange(8 * len(content))
        (copy / name).write_bytes(flipped(content, bit))
        with suppress(UsageError):
            assert read(copy) in (None, expected), f"bit {bit} of {name}"
