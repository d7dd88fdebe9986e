"""Results in a bucket: a real server with the S3 protocol on loopback, and a connection that breaks during a write."""

from collections.abc import Iterator
from random import Random
from uuid import uuid4

import pytest
from pyarrow import fs
from s3_server import BUCKET, KEYS, Wire
from scripted import rows_of, sweep_of

from eexit.errors import UsageError
from eexit.plan.runs import plan_runs
from eexit.results.committed import read_columns
from eexit.results.layout import MANIFEST, encode_manifest
from eexit.results.owned_folders import OwnedFolder, OwnedFolderKind, find_owned_folder
from eexit.results.store.commit import CommitError, clear_debris, commit, repair_store, shard_name, survey
from eexit.results.store.folder import Store, open_store
from eexit.results.store.lease import LEASE, hold
from eexit.results.store.manifest import make_manifest

BARE = encode_manifest(make_manifest(sweep_of("m", "one"), {"n_layers": 3, "dtype": "float32"}, [1]))


def uri(wire: Wire, folder: str) -> str:
    return f"s3://{BUCKET}/{folder}?scheme=http&endpoint_override=127.0.0.1:{wire.port}"


@pytest.fixture
def store(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    yield open_store(uri(wire, uuid4().hex))
    wire.cut_after = None


@pytest.mark.parametrize("megabytes", [1, pytest.param(12, marks=pytest.mark.slow)])  # in one request, and in parts
def test_a_write_that_is_cut_shows_nothing(store: Store, wire: Wire, megabytes: int) -> None:
    store.publish("generations/a", b"whole")
    before = wire.n_cuts
    wire.cut_after = megabytes * 500_000
    with pytest.raises(OSError, match=r"."):  # after seconds of retries
        store.publish("generations/a", b"x" * megabytes * 1_000_000)
    assert wire.n_cuts > before
    wire.cut_after = None
    assert store.read("generations/a") == b"whole"


def test_shards_land_whole_or_not_a_lease_is_held_once_and_damage_put_aside(store: Store, wire: Wire) -> None:
    config = sweep_of("m", Random(0).randbytes(20_000).hex(), "two", "three")  # the first doesn't compress below 20 kB
    runs = list(plan_runs(config))
    wire.cut_after = 4000
    with pytest.raises(CommitError, match="can't be written to"):
        commit(store, runs[:9], rows_of(runs[:9], config))
    wire.cut_after = None
    assert survey(store).done == set()
    with hold(store) as lease:
        lease.check()
        with pytest.raises(UsageError, match="is in use by process"), hold(store):
            pass
    assert not store.has(LEASE)
    for some in (runs[:9], runs[9:18], runs[18:]):
        commit(store, some, rows_of(some, config), attempt=2)
    commit(store, runs[:4], rows_of(runs[:4], config), attempt=1)  # as by an actor that was given up and woke up
    cut, gone = (f"tokens/{shard_name(some)}.parquet" for some in (runs[9:18], runs[18:]))
    store.publish(cut, (store.read(cut) or b"")[:-10])
    store.remove(gone)
    store.publish("tokens/notes.txt", b"mine")
    found, lines = repair_store(store)
    assert found.done == {run.run_id for run in runs[:9]}
    for name, what in ((cut, " is damaged ("), (gone, " is missing: "), ("tokens/notes.txt", " is not one of")):
        assert f"{store.path(name)}{what}" in "\n".join(lines)
    assert (len(lines), store.read("tokens/notes.txt")) == (4, b"mine")
    assert (read_columns(store, ["run_id"]).num_rows, clear_debris(store)) == (9, 0)
    aside = store.filesystem.get_file_info(fs.FileSelector(store.path("damaged"), recursive=True))
    assert sum(info.type == fs.FileType.File for info in aside) == 3


def test_a_place_is_known_by_what_is_above_it_and_a_missing_bucket_is_refused(wire: Wire, store: Store) -> None:
    store.publish(MANIFEST, BARE)
    folder = store.root.partition("/")[2]
    for name, inside in (("generations", "generations"), ("deep/../tokens/", "tokens"), ("", "")):
        found = find_owned_folder(open_store(uri(wire, f"{folder}/{name}")))
        assert found == OwnedFolder(OwnedFolderKind.RESULTS, store.root, inside)
    assert find_owned_folder(open_store(uri(wire, uuid4().hex))) is None
    keyed = uri(wire, "x").replace(f"{BUCKET}/x", "an-id:a-secret@nowhere/x")
    with pytest.raises(UsageError, match="can't be written to") as raised:
        open_store(keyed).probe()
    assert "a-secret" not in str(raised.value)
