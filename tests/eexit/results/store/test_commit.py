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
from eexit.plan.sweep_config import SweepConfig
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
from eexit.results.store.folder import Store, open_store
from eexit.results.tables import GENERATIONS, TOKENS

HOSTILE = "<script>\u202e\x07🧑‍🚀\u2028" + "x" * 10_000


@pytest.fixture
def config() -> SweepConfig:
    return sweep_of("a-model", "one", HOSTILE)


@pytest.fixture
def runs(config: SweepConfig) -> list[Run]:
    return list(plan_runs(config))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "out")


@pytest.fixture
def halves(store: Store, runs: list[Run], config: SweepConfig) -> Store:
    """Return a store with two shards of nine runs."""
    for half in (runs[:9], runs[9:]):
        commit(store, half, rows_of(half, config), attempt=1)
    return store


def mixed(runs: list[Run], config: SweepConfig) -> ShardTables:
    """Return results with an error in the first run, and the others done."""
    failed, done = error_results(runs[:1], config, "prompt is empty"), rows_of(runs[1:], config)
    return ShardTables(pa.concat_tables([failed.generations, done.generations]), done.tokens)


def test_a_shard_lands_in_the_schema_with_its_meaning(store: Store, runs: list[Run], config: SweepConfig) -> None:
    assert commit(store, runs, rows_of(runs, config)) == RunCounts(18, 0, 18 * TOKENS_PER_RUN)
    for folder, schema in (("generations", GENERATIONS), ("tokens", TOKENS)):
        (path,) = Path(store.root, folder).iterdir()
        assert path.name == f"{shard_name(runs)}.parquet"
        read = pq.read_schema(path)
        assert read.equals(schema)
        assert [field.metadata for field in read] == [field.metadata for field in schema]
        assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_everything_reads_results_in_one_line(store: Store, runs: list[Run], config: SweepConfig) -> None:
    # A shard of nothing but errors has columns that are null throughout: the mix must stay readable.
    commit(store, runs[:9], error_results(runs[:9], config, "no"))
    commit(store, runs[9:], rows_of(runs[9:], config))
    folder = f"{store.root}/generations"
    rows = [
        pd.read_parquet(folder)[["run_id", "prompt", "n_tokens"]].to_dict("records"),
        pq.read_table(folder).select(["run_id", "prompt", "n_tokens"]).to_pylist(),
        duckdb.execute(f"select run_id, prompt, n_tokens from '{folder}/*.parquet'").df().to_dict("records"),
        polars.read_parquet(f"{folder}/*.parquet").select("run_id", "prompt", "n_tokens").to_dicts(),
    ]
    for read in rows:
        assert {row["run_id"]: row["prompt"] for row in read} == {run.run_id: run.prompt.prompt for run in runs}
        assert len(read) == 18
        assert sum(row["n_tokens"] == TOKENS_PER_RUN for row in read) == 9
    tokens = f"{store.root}/tokens"
    assert len(pd.read_parquet(tokens)) == len(polars.read_parquet(f"{tokens}/*.parquet")) == 9 * TOKENS_PER_RUN


def test_landing_again_replaces(store: Store, runs: list[Run], config: SweepConfig) -> None:
    commit(store, runs, rows_of(runs, config))
    commit(store, runs[::-1], rows_of(runs[::-1], config))
    assert len(pd.read_parquet(f"{store.root}/generations")) == 18
    assert len(pd.read_parquet(f"{store.root}/tokens")) == 18 * TOKENS_PER_RUN


def test_results_of_other_runs_are_refused(store: Store, runs: list[Run], config: SweepConfig) -> None:
    with pytest.raises(ValueError, match="was given 18 runs and returned 17 rows"):
        commit(store, runs, rows_of(runs[1:], config))
    assert not Path(store.root).exists()


def test_what_cannot_be_written_leaves_nothing(store: Store, runs: list[Run], config: SweepConfig) -> None:
    Path(store.root).mkdir()
    Path(store.root, "generations").touch()  # a file where the folder should be
    with pytest.raises(CommitError, match="can't be written to"):
        commit(store, runs, rows_of(runs, config))
    Path(store.root, "generations").unlink()
    assert committed_tally(store, runs) is None
    assert clear_debris(store) == 1
    assert list(Path(store.root, "tokens").iterdir()) == []


def test_the_fence_is_looked_at_before_each_file_is_published(
    store: Store, runs: list[Run], config: SweepConfig
) -> None:
    looks: list[int] = []

    def refuse() -> None:
        looks.append(len(store.names("tokens")) + len(store.names("generations")))
        if looks[-1]:
            raise CommitError("given up")

    with pytest.raises(CommitError, match="given up"):
        commit(store, runs, rows_of(runs, config), refuse=refuse)
    assert looks == [0, 1]
    assert survey(store).done == set()
    assert clear_debris(store) == 1


def test_error_rows_make_room_for_another_try(store: Store, runs: list[Run], config: SweepConfig) -> None:
    tally = commit(store, runs[:9], mixed(runs[:9], config))
    assert tally == committed_tally(store, runs[:9]) == RunCounts(9, 1, 8 * TOKENS_PER_RUN)
    assert survey(store).done == ids(runs[1:9])
    commit(store, runs[9:], error_results(runs[9:], config, "no"))
    assert remove_errors(store, survey(store).with_errors) == 10
    assert remove_errors(store, survey(store).with_errors) == 0
    commit(store, [runs[0], *runs[9:]], rows_of([runs[0], *runs[9:]], config))
    generations = pd.read_parquet(f"{store.root}/generations")
    assert sorted(generations.run_id) == sorted(run.run_id for run in runs)
    assert set(generations.status) == {"ok"}
    assert pd.read_parquet(f"{store.root}/tokens").run_id.value_counts().eq(TOKENS_PER_RUN).all()


def test_debris_goes_and_results_stay(halves: Store, runs: list[Run]) -> None:
    store = halves
    orphan = Path(store.root, "generations", f"{shard_name(runs[9:])}.parquet")
    orphan.unlink()  # as if killed between the two files
    Path(store.root, "generations", f".{orphan.name}.{'0' * 32}.tmp").write_bytes(b"half")
    assert pd.read_parquet(f"{store.root}/generations").run_id.nunique() == 9  # readers ignore temporary files
    assert clear_debris(store, runs[:9]) == 0
    assert clear_debris(store) == 2
    assert pd.read_parquet(f"{store.root}/tokens").run_id.nunique() == 9


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
    halves: Store, runs: list[Run], config: SweepConfig, folder: str, damage: str
) -> None:
    path = file(halves, folder, runs[:9])
    DAMAGES[damage](path)
    assert committed_tally(halves, runs[:9]) is None
    found, lines = repair_store(halves)
    assert found.done == ids(runs[9:])
    if (folder, damage) == ("generations", "deleted"):
        assert lines == []  # it was never committed
        assert clear_debris(halves) == 1
    else:
        (line,) = lines
        assert line.startswith(f"{path} ")
        assert "its runs are done again" in line
    commit(halves, runs[:9], rows_of(runs[:9], config))
    found, lines = repair_store(halves)
    assert (found.done, lines) == (ids(runs), [])
    assert pd.read_parquet(f"{halves.root}/tokens").run_id.value_counts().eq(TOKENS_PER_RUN).all()


def test_what_is_left_of_a_damaged_shard_is_kept_aside(halves: Store, runs: list[Run]) -> None:
    flip(file(halves, "tokens", runs[:9]))
    before = {folder: file(halves, folder, runs[:9]).read_bytes() for folder in ("tokens", "generations")}
    _, (line,) = repair_store(halves)
    aside = Path(halves.root, line.rpartition(" ")[2])
    assert {path.parent.name: path.read_bytes() for path in aside.glob("*/*")} == before


def test_what_no_sweep_wrote_is_named_and_left_alone(halves: Store, runs: list[Run]) -> None:
    foreign = ["tokens/my_notes.txt", "generations/mine.parquet", "tokens/backup/x.parquet", "tokens/.x.tmp"]
    for name in foreign:
        halves.publish(name, b"mine")
    found, lines = repair_store(halves)
    assert clear_debris(halves) == 0
    assert found.done == ids(runs)
    assert [line.split(" is not one of the sweep's files")[0] for line in lines] == [
        f"{halves.root}/{name}" for name in ("generations/mine.parquet", "tokens/backup", "tokens/my_notes.txt")
    ]
    assert {name: halves.read(name) for name in foreign} == dict.fromkeys(foreign, b"mine")


@pytest.mark.parametrize("late", ["the whole", "its halves"])
@pytest.mark.parametrize("same", [True, False])
def test_a_run_that_is_there_twice_is_settled_for_the_later_attempt(
    store: Store, runs: list[Run], config: SweepConfig, late: str, same: bool
) -> None:
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
    halves: Store, runs: list[Run], config: SweepConfig
) -> None:
    commit(halves, runs[:4], rows_of(runs[:4], config), attempt=2)
    commit(
        halves, runs[4:6], error_results(runs[4:6], config, "timed out"), attempt=3
    )  # what is done counts, not these
    _, lines = repair_store(halves)
    assert any("4 of its runs were there twice" in line for line in lines)
    assert any("all of its runs were there twice" in line for line in lines)
    assert sorted(pd.read_parquet(f"{halves.root}/generations").run_id) == sorted(ids(runs))
    assert pd.read_parquet(f"{halves.root}/tokens").run_id.value_counts().eq(TOKENS_PER_RUN).all()
    assert (survey(halves).done, repair_store(halves)[1], clear_debris(halves)) == (ids(runs), [], 0)
