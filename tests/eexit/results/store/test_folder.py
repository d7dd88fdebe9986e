"""`--out` is created atomically, and refused before loading if it can't be used."""

import re
from pathlib import Path

import pytest

from eexit.errors import UsageError
from eexit.results.store.folder import Store, open_store


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
        with pytest.raises(UsageError, match=rf"{re.escape(shown)} can't be used") as raised:
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
