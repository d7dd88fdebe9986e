"""Damaged results: damage is named, its runs are done again, foreign files stay, and each run counts once."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flip_bits import READERS, flip_bits
from scripted import TOKENS_PER_RUN, rows_of, sweep_of

from eexit.errors import UsageError
from eexit.plan.config import SweepConfig
from eexit.plan.runs import Run, plan_runs
from eexit.results.shard_tables import error_results
from eexit.results.store.commit import (
    clear_debris,
    commit,
    landed_tally,
    remove_errors,
    repair_store,
    shard_name,
    survey,
)
from eexit.results.store.extend import manifest_written
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import MissingManifestError, make_manifest, read_manifest, refuse_other_runs

MODEL = {"name": "tiny", "n_layers": 30, "dtype": "float32"}


@pytest.fixture
def config() -> SweepConfig:
    return sweep_of("a-model", "one", "two")


@pytest.fixture
def runs(config: SweepConfig) -> list[Run]:
    return list(plan_runs(config))


@pytest.fixture
def store(tmp_path: Path, runs: list[Run], config: SweepConfig) -> Store:
    """Return a store with two shards of nine runs."""
    store = open_store(tmp_path / "out")
    for half in (runs[:9], runs[9:]):
        commit(store, half, rows_of(half, config), attempt=1)
    return store


def file(store: Store, folder: str, runs: list[Run]) -> Path:
    return Path(store.root, folder, f"{shard_name(runs)}.parquet")


def ids(runs: list[Run]) -> set[str]:
    return {run.run_id for run in runs}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "replaced": lambda path: path.write_text("notes"),
    "a row less": lambda path: pq.write_table(pq.read_table(path).slice(1), path),
    "unsealed": lambda path: pq.write_table(pq.read_table(path), path),
    "flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("folder", ["tokens", "generations"])
def test_a_damaged_shard_is_named_and_its_runs_are_done_again(
    store: Store, runs: list[Run], config: SweepConfig, folder: str, damage: str
) -> None:
    path = file(store, folder, runs[:9])
    DAMAGES[damage](path)
    assert landed_tally(store, runs[:9]) is None
    found, lines = repair_store(store)
    assert found.done == ids(runs[9:])
    if (folder, damage) == ("generations", "deleted"):
        assert lines == []  # it was never committed
        assert clear_debris(store) == 1
    else:
        (line,) = lines
        assert line.startswith(f"{path} ")
        assert "its runs are done again" in line
    commit(store, runs[:9], rows_of(runs[:9], config))
    found, lines = repair_store(store)
    assert (found.done, lines) == (ids(runs), [])
    assert pd.read_parquet(f"{store.root}/tokens").run_id.value_counts().eq(TOKENS_PER_RUN).all()


def test_what_is_left_of_a_damaged_shard_is_kept_aside(store: Store, runs: list[Run]) -> None:
    flip(file(store, "tokens", runs[:9]))
    before = {folder: file(store, folder, runs[:9]).read_bytes() for folder in ("tokens", "generations")}
    _, (line,) = repair_store(store)
    aside = Path(store.root, line.rpartition(" ")[2])
    assert {path.parent.name: path.read_bytes() for path in aside.glob("*/*")} == before


def test_error_rows_are_taken_out_of_a_shard(store: Store, runs: list[Run], config: SweepConfig) -> None:
    failed, done = error_results(runs[:1], config, "no"), rows_of(runs[1:9], config)
    results = type(done)(pa.concat_tables([failed.generations, done.generations]), done.tokens)
    commit(store, runs[:9], results)
    assert remove_errors(store, survey(store).with_errors) == 1
    assert repair_store(store)[1] == []
    assert survey(store).done == ids(runs[1:])


def test_what_no_sweep_wrote_is_named_and_left_alone(store: Store, runs: list[Run]) -> None:
    foreign = ["tokens/my_notes.txt", "generations/mine.parquet", "tokens/backup/x.parquet", "tokens/.x.tmp"]
    for name in foreign:
        store.publish(name, b"mine")
    found, lines = repair_store(store)
    assert clear_debris(store) == 0
    assert found.done == ids(runs)
    assert [line.split(" is not one of the sweep's files")[0] for line in lines] == [
        f"{store.root}/{name}" for name in ("generations/mine.parquet", "tokens/backup", "tokens/my_notes.txt")
    ]
    assert {name: store.read(name) for name in foreign} == dict.fromkeys(foreign, b"mine")


@pytest.mark.parametrize("late", ["the whole", "its halves"])
@pytest.mark.parametrize("same", [True, False])
def test_a_run_that_is_there_twice_is_settled_for_the_later_attempt(
    tmp_path: Path, runs: list[Run], config: SweepConfig, late: str, same: bool
) -> None:
    store = open_store(tmp_path / "out")
    shards = {"the whole": [runs[:9]], "its halves": [runs[:4], runs[4:9]]}
    for name, some in shards.items():
        for shard in some:
            results = rows_of(shard, config, lambda run: {} if same else {"text": name})  # noqa: B023  # called here
            commit(store, shard, results, attempt=2 if name == late else 1)
    _, lines = repair_store(store)
    assert sum("there twice" in line for line in lines) == 3 - len(shards[late])
    generations = pd.read_parquet(f"{store.root}/generations")
    assert sorted(generations.run_id) == sorted(ids(runs[:9]))
    assert set(generations.text) == {"abc" if same else late}
    assert pd.read_parquet(f"{store.root}/tokens").run_id.value_counts().eq(TOKENS_PER_RUN).all()
    assert repair_store(store)[1] == []


def test_runs_that_are_elsewhere_too_leave_a_shard_and_the_others_stay(
    store: Store, runs: list[Run], config: SweepConfig
) -> None:
    commit(store, runs[:4], rows_of(runs[:4], config), attempt=2)
    commit(store, runs[4:6], error_results(runs[4:6], config, "timed out"), attempt=3)  # what is done counts, not these
    _, lines = repair_store(store)
    assert any("4 of its runs were there twice" in line for line in lines)
    assert any("all of its runs were there twice" in line for line in lines)
    assert sorted(pd.read_parquet(f"{store.root}/generations").run_id) == sorted(ids(runs))
    assert pd.read_parquet(f"{store.root}/tokens").run_id.value_counts().eq(TOKENS_PER_RUN).all()
    assert (survey(store).done, repair_store(store)[1], clear_debris(store)) == (ids(runs), [], 0)


@pytest.mark.parametrize("content", [None, b"", b'{"format": 2'])
def test_a_manifest_that_is_lost_is_written_anew_if_the_runs_are_the_commands(
    store: Store, config: SweepConfig, content: bytes | None
) -> None:
    if content is not None:
        store.publish("sweep.json", content)
    with pytest.raises(MissingManifestError) as lost:
        read_manifest(store)
    with pytest.raises(UsageError, match=r"its runs are not those of this command: choose another --out$"):
        refuse_other_runs(store, lost.value, sweep_of("another-model", "one", "two"))
    for other, has in (
        (sweep_of("a-model", "one", "three"), "9 of its 18 runs are not this command's (prompt 1)"),
        (sweep_of("a-model", "one", "two", modes=["normal"]),
         "16 of its 18 runs are not this command's (configuration unfrozen/kl/0.5, unfrozen/kl/1, unfrozen/kl/2, and 5 "
         "more)"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"{re.escape(has)}: give all that the sweep has grown to in one command,"):
            refuse_other_runs(store, lost.value, other)
    assert "all 18 runs that have landed are this command's" in refuse_other_runs(store, lost.value, config)
    manifest = make_manifest(config, MODEL, (5,))
    with manifest_written(store, manifest):
        pass
    assert read_manifest(store) == manifest
    assert [path.read_bytes() for path in Path(store.root, "damaged").glob("*/*")] == [content] * (content is not None)


def test_a_changed_manifest_is_noticed(store: Store, config: SweepConfig) -> None:
    with manifest_written(store, make_manifest(config, MODEL, (5,))):
        pass
    content = store.read("sweep.json") or b""
    store.publish("sweep.json", content.replace(b'"one"', b'"ono"'))
    with pytest.raises(MissingManifestError, match="its checksum does not match"):
        read_manifest(store)


@pytest.mark.slow
def test_no_flipped_bit_reads_back_as_other_data(tmp_path: Path) -> None:
    outcomes = flip_bits(tmp_path, 100)
    assert set(outcomes) <= {(reader, outcome) for reader in READERS for outcome in ("noticed", "the same")}
    assert outcomes.total() == 100 * len(READERS)
