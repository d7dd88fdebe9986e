"""Shards are committed whole and once, readable in one line; damage is named, and its runs are done again."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted import TOKENS_PER_RUN, rows_of, sweep_of

from eexit.plan.runs import Run, plan_runs
from eexit.results.shard_tables import ShardTables, error_results
from eexit.results.store.commit import (
    CommitError,
    RunCounts,
    clear_debris,
    commit,
    committed_tally,
    remove_errors,
    repair_store,
    shard_name,
    survey,
)
from eexit.results.store.folder import Store
from eexit.results.tables import GENERATIONS, TOKENS

HOSTILE = "<script>\u202e\x07🧑‍🚀\u2028" + "x" * 10_000
CONFIG = sweep_of("a-model", "one", HOSTILE)
RUNS = list(plan_runs(CONFIG))


@pytest.fixture
def halves(store: Store) -> Store:
    """Return a store with two shards of nine runs."""
    for half in (RUNS[:9], RUNS[9:]):
        land(store, half, attempt=2)
    return store


def land(store: Store, runs: list[Run], attempt: int | None = None, error: str = "", **columns: str) -> RunCounts:
    tables = error_results(runs, CONFIG, error) if error else rows_of(runs, CONFIG, lambda run: columns)
    return commit(store, runs, tables, attempt)


def ids(runs: list[Run]) -> set[str]:
    return {run.run_id for run in runs}


def file(store: Store, folder: str, runs: list[Run]) -> Path:
    return Path(store.root, folder, f"{shard_name(runs)}.parquet")


def assert_once(store: Store, runs: list[Run]) -> pd.DataFrame:
    """Assert that these runs are committed once each, with all their tokens; return their rows."""
    generations, tokens = (pd.read_parquet(f"{store.root}/{name}") for name in ("generations", "tokens"))
    assert sorted(generations.run_id) == sorted(ids(runs))
    assert set(generations.status) == {"ok"}
    assert tokens.run_id.value_counts().to_dict() == dict.fromkeys(ids(runs), TOKENS_PER_RUN)
    return generations


def test_a_shard_has_the_schema_with_its_meaning_and_everything_reads_it_in_one_line(store: Store) -> None:
    land(store, RUNS[:9], error="no")  # its columns are null throughout: the mix must stay readable
    assert land(store, RUNS[9:]) == RunCounts(9, 0, 9 * TOKENS_PER_RUN)
    for folder, schema in (("generations", GENERATIONS), ("tokens", TOKENS)):
        read = pq.ParquetFile(file(store, folder, RUNS[9:]))
        assert [*read.schema_arrow] == [*schema]
        assert [field.metadata for field in read.schema_arrow] == [field.metadata for field in schema]
        assert read.metadata.row_group(0).column(0).compression == "ZSTD"
    land(store, RUNS[:8:-1])  # which replaces them
    folder, tokens = f"{store.root}/generations", f"{store.root}/tokens"
    tables: list[pd.DataFrame] = [
        pd.read_parquet(folder), pq.read_table(folder).to_pandas(),
        duckdb.execute(f"from '{folder}/*.parquet'").df(), polars.read_parquet(f"{folder}/*.parquet").to_pandas(),
    ]  # fmt: skip
    expected = {run.run_id: run.prompt.prompt for run in RUNS}
    for read in tables:
        assert (len(read), read.set_index("run_id").prompt.to_dict()) == (18, expected)
        assert (read.n_tokens == TOKENS_PER_RUN).sum() == 9
    assert len(pd.read_parquet(tokens)) == len(polars.read_parquet(f"{tokens}/*.parquet")) == 9 * TOKENS_PER_RUN


def test_what_is_not_committed_leaves_nothing_and_the_fence_is_looked_at_before_each_file(store: Store) -> None:
    with pytest.raises(ValueError, match="was given 18 runs and returned 17 rows"):
        commit(store, RUNS, rows_of(RUNS[1:], CONFIG))
    assert not Path(store.root).exists()
    store.publish("generations", b"")  # a file where the folder should be
    with pytest.raises(CommitError, match="can't be written to"):
        land(store, RUNS)
    store.remove("generations")
    assert committed_tally(store, RUNS) is None
    assert clear_debris(store) == 1
    looks: list[int] = []

    def refuse() -> None:
        looks.append(len(store.names("tokens")) + len(store.names("generations")))
        if looks[-1]:
            raise CommitError("given up")

    with pytest.raises(CommitError, match="given up"):
        commit(store, RUNS, rows_of(RUNS, CONFIG), refuse=refuse)
    assert looks == [0, 1]
    assert survey(store).done == set()
    assert clear_debris(store) == 1


def test_error_rows_make_room_for_another_try(store: Store) -> None:
    failed, done = error_results(RUNS[:1], CONFIG, "empty"), rows_of(RUNS[1:9], CONFIG)
    mixed = ShardTables(pa.concat_tables([failed.generations, done.generations]), done.tokens)
    tally = commit(store, RUNS[:9], mixed)
    assert tally == committed_tally(store, RUNS[:9]) == RunCounts(9, 1, 8 * TOKENS_PER_RUN)
    assert survey(store).done == ids(RUNS[1:9])
    land(store, RUNS[9:], error="no")
    assert [remove_errors(store, survey(store).with_errors) for _ in range(2)] == [10, 0]
    land(store, [RUNS[0], *RUNS[9:]])
    assert_once(store, RUNS)


def test_what_no_sweep_wrote_is_named_and_left_alone_debris_goes_and_results_stay(halves: Store) -> None:
    named = [f"generations/{shard_name(RUNS).upper()}.parquet", "generations/mine.parquet", "tokens/my_notes.txt"]
    foreign = [*named, "tokens/backup/x.parquet", "tokens/.x.tmp"]
    for name in foreign:
        halves.publish(name, b"mine")
    found, lines = repair_store(halves)
    assert (found.done, clear_debris(halves)) == (ids(RUNS), 0)
    expected = {f"{halves.root}/{name}" for name in (*named, "tokens/backup")}
    assert {line.split(" is not one of")[0] for line in lines} == expected
    assert {name: halves.read(name) for name in foreign} == dict.fromkeys(foreign, b"mine")
    for name in foreign:
        halves.remove(name)
    orphan = file(halves, "generations", RUNS[9:])
    orphan.unlink()  # as if killed between the two files
    orphan.with_name(f".{orphan.name}.{'0' * 32}.tmp").write_bytes(b"half")
    assert clear_debris(halves, RUNS[:9]) == 0
    assert pd.read_parquet(orphan.parent).run_id.nunique() == 9  # readers ignore temporary files
    assert clear_debris(halves) == 2
    assert_once(halves, RUNS[:9])


DAMAGES: dict[str, Callable[[Path], object]] = {  # `test_checksums.py` flips every bit
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "replaced": lambda path: path.write_text("notes"),
    "flipped": lambda path: path.write_bytes(path.read_bytes().replace(b"PAR1", b"PAR0", 1)),
    "unsealed": lambda path: pq.write_table(pq.read_table(path), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("folder", ["tokens", "generations"])
def test_a_damaged_shard_is_named_and_done_again(halves: Store, folder: str, damage: str) -> None:
    path = file(halves, folder, RUNS[:9])
    DAMAGES[damage](path)
    assert committed_tally(halves, RUNS[:9]) is None
    before = {each.parent.name: each.read_bytes() for each in Path(halves.root).glob(f"*/{path.name}")}
    found, lines = repair_store(halves)
    assert found.done == ids(RUNS[9:])
    if (folder, damage) == ("generations", "deleted"):  # it was never committed
        assert (lines, clear_debris(halves)) == ([], 1)
    else:
        [line] = lines
        assert line.startswith(f"{path} ")
        aside = Path(halves.root, line.rpartition(" ")[2])
        assert {kept.parent.name: kept.read_bytes() for kept in aside.glob("*/*")} == before
    land(halves, RUNS[:9])
    assert (repair_store(halves)[1], survey(halves).done) == ([], ids(RUNS))
    assert_once(halves, RUNS)


@pytest.mark.parametrize("attempt", [1, 3])
def test_of_runs_that_are_there_twice_the_later_attempts_stay_and_errors_go(halves: Store, attempt: int) -> None:
    """The attempt of both halves is 2."""
    land(halves, RUNS[:4], attempt, text="again")
    land(halves, RUNS[4:6], attempt=4, error="no")  # what is done counts, not these
    _, lines = repair_store(halves)
    assert sum("all of its runs were there twice" in line for line in lines) == (2 if attempt < 2 else 1)
    assert sum("4 of its runs were there twice" in line for line in lines) == (attempt > 2)
    rows = assert_once(halves, RUNS)
    assert {*rows.run_id[rows.text == "again"]} == (ids(RUNS[:4]) if attempt > 2 else set())
    assert (survey(halves).done, repair_store(halves)[1], clear_debris(halves)) == (ids(RUNS), [], 0)
