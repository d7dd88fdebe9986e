"""`--out` is created atomically, never shared with another sweep, and refused before loading if it can't be used."""

import json
import re
from pathlib import Path

import pytest
from scripted import sweep_of

from eexit.errors import UsageError
from eexit.results.layout import FORMAT, MANIFEST, encode_manifest
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import (
    MissingManifestError,
    first_difference,
    make_manifest,
    read_manifest,
    refuse_other_model,
)

SHARD = f"generations/{'ab' * 16}.parquet"
MODEL = {"name": "tiny", "digest": "ab12", "n_layers": 7, "dtype": "float32"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "deep" / "out")


def test_files_are_whole_or_absent(store: Store) -> None:
    assert store.read("a/b") is None
    store.publish("a/b", b"one")
    store.publish("a/b", b"two")
    assert store.read("a/b") == b"two"
    assert store.names("a") == ["a/b"]
    store.remove("a/b")
    store.remove("a/b")
    assert not store.has("a/b")
    assert store.names("nowhere") == []


def test_what_is_there_is_not_created_again_with_links_or_without(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("linked", "unlinked"):
        assert store.create(name, b"one")
        assert not store.create(name, b"two")
        assert store.read(name) == b"one"
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    assert sorted(path.name for path in Path(store.root).iterdir()) == ["linked", "unlinked"]


def test_a_uri_is_a_store_too(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/out")
    store.publish("generations/x.parquet", b"x")
    assert (tmp_path / "out" / "generations" / "x.parquet").read_bytes() == b"x"


def test_google_is_not_waited_for_as_long_as_its_client_would() -> None:
    limited = "gs://bucket/out?retry_limit_seconds=60"
    assert open_store("gs://bucket/out") == open_store(limited) != open_store(limited.replace("60", "900"))


def test_a_uri_that_is_none_is_refused_without_its_secrets() -> None:
    uris = {"nfs://user:secret@host/out": "nfs://…@host/out", "s3://user:secret@bucket/[out": "s3://…@bucket/[out"}
    for uri, shown in uris.items():
        with pytest.raises(UsageError, match=rf"--out {re.escape(shown)} can't be used") as raised:
            open_store(uri)
        assert "\n" not in str(raised.value)
        assert "secret" not in str(raised.value)


def test_the_probe_leaves_nothing(store: Store, tmp_path: Path) -> None:
    store.probe()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UsageError, match=r"--out .* can't be written to .*: choose another place"):
            open_store(out).probe()


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for out in (tmp_path / "link", tmp_path / "link" / "deep"):
        with pytest.raises(UsageError) as raised:
            open_store(out).probe()
        assert str(raised.value) == (
            f"--out {out} can't be written to ({tmp_path}/link is a link to {tmp_path}/gone, which is not there): "
            "make that folder, or choose another place"
        )


def test_a_manifest_says_what_the_results_are_of(store: Store) -> None:
    config = sweep_of("tiny", "one", "two")
    assert read_manifest(store) is None
    manifest = make_manifest(config, MODEL, (5,))
    store.publish(MANIFEST, encode_manifest(manifest))
    assert read_manifest(store) is None  # as long as there are no results
    store.publish(SHARD, b"")
    held = json.loads(store.read("sweep.json") or b"")
    assert held["format"] == FORMAT
    assert held["config"] == config.model_dump(mode="json")
    assert held["model"] == MODEL
    assert held["exitable_layers"] == [5]
    assert held["n_runs"] == 18
    assert set(held["versions"]) == {"python", "eexit", "torch", "transformers", "ray", "pyarrow"}
    assert held["started"].endswith("+00:00")
    read = read_manifest(store)
    assert read is not None
    refuse_other_model(store, read, manifest)


def test_another_model_is_refused_with_the_difference(store: Store) -> None:
    config = sweep_of("tiny", "one", "two")
    held = make_manifest(config, MODEL, (5,))
    other = make_manifest(config, {**MODEL, "digest": "cd34"}, (5,))
    with pytest.raises(UsageError, match=r'\(model\.digest: "ab12" -> "cd34"\)'):
        refuse_other_model(store, held, other)


@pytest.mark.parametrize("part", ["weights", "configuration", "chat template", "tokenizer"])
def test_a_model_folder_that_changed_is_told_by_what_changed(store: Store, part: str) -> None:
    config = sweep_of("tiny", "one")
    parts = dict.fromkeys(["weights", "configuration", "chat template", "tokenizer"], "ab12")
    held = make_manifest(config, {**MODEL, "parts": parts}, (5,))
    refuse_other_model(store, held, held)
    now = make_manifest(config, {**MODEL, "parts": parts | {part: "cd34"}, "digest": "ef56"}, (5,))
    with pytest.raises(UsageError) as raised:
        refuse_other_model(store, held, now)
    assert str(raised.value) == (
        f"--out {store.root} holds results of this model before its {part} changed: "
        "put that back as it was, or choose another --out"
    )


def test_results_without_a_manifest_are_refused(store: Store) -> None:
    store.publish("notes.txt", b"not of a sweep")
    assert read_manifest(store) is None
    store.publish(SHARD, b"")
    with pytest.raises(MissingManifestError, match=r"holds results but no sweep\.json"):
        read_manifest(store)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"sweep\.json is damaged, or no sweep's \(it is not JSON"),
        (b"[]", r"sweep\.json is damaged, or no sweep's \(it is not an object"),
        (b'{"format": %d}' % FORMAT, r"sweep\.json is damaged, or no sweep's \(its checksum does not match\)"),
        (
            b'{"format": 1, "config": {}, "model": {}, "exitable_layers": []}',
            rf"is no sweep's of this version \(it has format 1, not {FORMAT}\): choose another --out",
        ),
    ],
)
def test_a_manifest_that_is_none_is_refused(store: Store, content: bytes, message: str) -> None:
    store.publish(SHARD, b"")
    store.publish("sweep.json", content)
    with pytest.raises(UsageError, match=message):
        read_manifest(store)


def test_the_first_difference_is_named() -> None:
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) is None
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a[1].b: 2 -> 3"
    assert first_difference({"a": 1}, {"a": 1, "c": "x"}) == 'c: null -> "x"'
