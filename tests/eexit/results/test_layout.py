import json
import re
from dataclasses import replace
from typing import Any

import pytest

from eexit.output.atomic_files import temporary_name
from eexit.results.layout import (
    FORMAT,
    Manifest,
    UnsupportedFormatError,
    decode_manifest,
    encode_manifest,
    generations_name,
    is_shard_file,
    is_temporary_file,
    side_file_name,
    side_folder_name,
    tokens_name,
)

MANIFEST = Manifest(
    config={"prompts": [{"id": "0", "prompt": "Où ?"}], "seeds": [0], "temperature": 0.0},
    model={"name": "tiny", "n_layers": 7, "dtype": "float32"},
    exitable_layers=[2, 4],
    n_runs=9,
    versions={"python": "3.11", "ray": None},
    started="2026-01-01T00:00:00+00:00",
)


def test_a_manifest_reads_as_it_was_written() -> None:
    assert MANIFEST.format == FORMAT
    assert decode_manifest(encode_manifest(MANIFEST)) == MANIFEST


def test_a_manifest_without_a_checksum_a_changed_one_and_one_of_another_format_are_told() -> None:
    with pytest.raises(ValueError, match="its checksum does not match"):
        decode_manifest(json.dumps({"format": FORMAT, "config": {}, "model": {}, "exitable_layers": []}).encode())
    with pytest.raises(ValueError, match="its checksum does not match"):
        decode_manifest(encode_manifest(MANIFEST).replace(b'"n_runs": 9', b'"n_runs": 8'))
    with pytest.raises(UnsupportedFormatError, match=f"it has format 99, not {FORMAT}"):
        decode_manifest(encode_manifest(replace(MANIFEST, format=99)))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"config": []}, "config: Input should be a valid dictionary"),
        ({"config": {}}, "config.prompts: Field required"),
        ({"config": {**MANIFEST.config, "prompts": [{"id": "0", "prompt": 3}]}}, "config.prompts.0.prompt: Input"),
        ({"config": {**MANIFEST.config, "seeds": "0"}}, "config.seeds: Input should be a valid list"),
        ({"model": {**MANIFEST.model, "n_layers": "7"}}, "model.n_layers: Input should be a valid integer"),
        ({"model": {**MANIFEST.model, "name": "tiny\x1b[2J"}}, "model.name: String should match pattern"),
        ({"exitable_layers": [2, None]}, "exitable_layers.1: Input should be a valid integer"),
        ({"configurations": [{"key": "a", "mode": "skip", "exit_set": "all"}]}, "configurations.0.exit_set: String"),
        ({"own": [{"kind": "rule", "name": "mine"}]}, "own.0.source: Field required"),
        ({"versions": {"python": 3.11}}, "versions.python: Input should be a valid string"),
    ],
)  # fmt: skip
def test_a_manifest_of_wrong_types_is_told_by_where_they_are(changed: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as told:
        decode_manifest(encode_manifest(replace(MANIFEST, **changed)))
    assert "\x1b" not in str(told.value)


def test_deeply_nested_json_is_no_manifest() -> None:
    with pytest.raises(ValueError, match=r"^it is not JSON: "):
        decode_manifest(b"[" * 100_000)


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
