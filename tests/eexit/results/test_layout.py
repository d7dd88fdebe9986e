import json
from dataclasses import replace

import pytest

from eexit.output.whole_files import temporary_name
from eexit.results.layout import (
    FORMAT,
    Manifest,
    OtherFormatError,
    decode,
    encode,
    generations_name,
    is_shard_file,
    is_temporary_file,
    side_file_name,
    side_folder_name,
    tokens_name,
)

MANIFEST = Manifest(
    config={"prompts": [{"id": "0", "prompt": "Où ?"}]},
    model={"name": "tiny", "n_layers": 7},
    exitable_layers=[2, 4],
    n_runs=9,
    versions={"python": "3.11", "ray": None},
    started="2026-01-01T00:00:00+00:00",
)


def test_a_manifest_reads_as_it_was_written() -> None:
    assert MANIFEST.format == FORMAT
    assert decode(encode(MANIFEST)) == MANIFEST


def test_a_manifest_without_a_checksum_a_changed_one_and_one_of_another_format_are_told() -> None:
    with pytest.raises(ValueError, match="its checksum does not match"):
        decode(json.dumps({"format": FORMAT, "config": {}, "model": {}, "exitable_layers": []}).encode())
    with pytest.raises(ValueError, match="its checksum does not match"):
        decode(encode(MANIFEST).replace(b'"n_runs": 9', b'"n_runs": 8'))
    with pytest.raises(OtherFormatError, match=f"it has format 99, not {FORMAT}"):
        decode(encode(replace(MANIFEST, format=99)))


def test_a_shards_files_are_known_by_their_names_whole_or_not() -> None:
    stem = "0af9" * 8
    for name in (generations_name(stem), tokens_name(stem)):
        folder, base = name.split("/")
        assert folder in ("generations", "tokens")
        assert is_shard_file(base)
        assert is_temporary_file(temporary_name(base))
        assert not is_shard_file(temporary_name(base))
    assert temporary_name("a") != temporary_name("a")
    for name in ("notes.parquet", f"{stem}.parquet.bak", f"{stem.upper()}.parquet", ".x.tmp"):
        assert not is_shard_file(name)
        assert not is_temporary_file(name)


def test_side_files_are_named_for_their_report() -> None:
    assert (side_folder_name("report.html"), side_folder_name("a.b.html")) == ("report.data", "a.b.data")
    assert side_file_name(12) == "prompt-12.js"
