"""`--out` is created atomically, and refused before loading if it can't be used."""

import re
from pathlib import Path
from unittest.mock import Mock

import pytest

from eexit.errors import UsageError
from eexit.results.store.folder import Store, open_store


@pytest.fixture(params=["", "file://"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(f"{request.param}{tmp_path}/deep/out")


def test_files_are_whole_or_absent_and_created_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.read("a/b") is None
    for content in (b"one", b"two"):
        store.publish("a/b", content)
        assert Path(store.root, "a/b").read_bytes() == store.read("a/b") == content
    assert store.names("a") == ["a/b"]
    for _ in range(2):
        store.remove("a/b")
    assert not store.has("a/b")
    assert store.names("nowhere") == []

    for name in ("linked", "unlinked"):
        assert [store.create(name, b"one"), store.create(name, b"two"), store.read(name)] == [True, False, b"one"]
        monkeypatch.setattr(Path, "hardlink_to", Mock(side_effect=PermissionError(1, "Operation not permitted")))
    assert sorted(path.name for path in Path(store.root).iterdir() if path.is_file()) == ["linked", "unlinked"]


def test_google_is_not_waited_for_long_and_a_uri_that_is_none_is_refused_without_its_secrets() -> None:
    limited = "gs://bucket/out?retry_limit_seconds=60"
    assert open_store("gs://bucket/out") == open_store(limited) != open_store(limited.replace("60", "900"))
    uris = {"nfs://user:secret@host/out": "nfs://…@host/out", "s3://user:secret@bucket/[out": "s3://…@bucket/[out"}
    for uri, shown in uris.items():
        with pytest.raises(UsageError, match=rf"^(?!.*secret).*{re.escape(shown)} can't be used.*\Z"):
            open_store(uri)


def test_the_probe_leaves_nothing_and_refuses_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    open_store(tmp_path / "deep" / "out").probe()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, reason in (("file", "can't be written to"), ("link", f"is a link to {tmp_path}/gone, which is not")):
        for out in (tmp_path / name, tmp_path / name / "deep"):
            with pytest.raises(UsageError, match=rf"^--out {out} .*{reason}"):
                open_store(out).probe()
