"""Results in a bucket: a real server with the S3 protocol on loopback, and a connection that breaks during a write."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from driving import assert_same, drive
from pyarrow import fs
from ray_fixtures import started_ray
from s3_server import BUCKET, KEYS, Wire
from scripted import look, rows_of, sweep_of

from eexit.errors import SweepStopped, UsageError
from eexit.plan.runs import count_runs, plan_runs
from eexit.results.committed import read_columns
from eexit.results.layout import MANIFEST, encode_manifest
from eexit.results.owned_folders import OwnedFolder, OwnedFolderKind, find_owned_folder
from eexit.results.store.commit import CommitError, clear_debris, commit, repair_store, shard_name, survey
from eexit.results.store.extend import manifest_written
from eexit.results.store.folder import Store, open_store
from eexit.results.store.lease import LEASE, hold
from eexit.results.store.manifest import make_manifest

BARE = encode_manifest(make_manifest(sweep_of("m", "one"), {"n_layers": 3, "dtype": "float32"}, [1]))


@pytest.fixture(scope="module", autouse=True)
def _keys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield


def noise(seed: int) -> str:
    """Return 40 kB that don't compress below 20."""
    return Random(seed).randbytes(20_000).hex()


def uri(wire: Wire, folder: str) -> str:
    return f"s3://{BUCKET}/{folder}?scheme=http&endpoint_override=127.0.0.1:{wire.port}"


@pytest.fixture
def store(wire: Wire) -> Iterator[Store]:
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
    config = sweep_of("m", noise(0), "two", "three")
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


@pytest.mark.slow
def test_a_sweep_goes_on_once_its_bucket_is_mended(wire: Wire, tmp_path: Path, ray_environment: dict[str, str]) -> None:
    out = uri(wire, "sweep")
    config = sweep_of(tmp_path, *(f"{n}" for n in range(3)), *(noise(n) for n in range(6)))
    runs, store = list(plan_runs(config)), open_store(out)
    model, layers, _ = look(config, 9)
    with manifest_written(store, make_manifest(config, model, layers)):  # it is longer than the wire's limit
        commit(store, runs[:9], rows_of(runs[:9], config))
    with started_ray(ray_environment):
        wire.cut_after = 20_000
        with pytest.raises(SweepStopped, match=r"5 failures in a row, the last: .*can't be written to"):
            drive(config, out, actors=1)
        wire.cut_after = None
        for name in store.names("generations"):
            with store.filesystem.open_input_file(store.path(name)) as file:
                assert pq.ParquetFile(file).read().num_rows  # whole, each of them
        assert len(survey(store).done) < count_runs(config)
        drive(config, out, actors=1)
    expected = rows_of(runs, config).generations.select(["run_id", "exit_rate"]).to_pandas()
    assert_same(read_columns(store, ["run_id", "exit_rate"]).to_pandas(), expected, ["run_id"])
