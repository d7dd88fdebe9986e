"""Shards as Parquet: landing them, finding what has landed, clearing away what a killed process left.

A shard is two files of one name, a hash of its run ids: `tokens/NAME.parquet`, then `generations/NAME.parquet`.
The second is the commit mark: a run has landed when its row is in a generations file. Doing a shard again lands it
under the same name, so that a lost acknowledgement can't duplicate it.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.store import TEMPORARY_ENDING, Store
from eexit.config import UsageError
from eexit.generator import Results
from eexit.plan import Run
from eexit.schema import ERROR, OK

GENERATIONS_FOLDER = "generations"
TOKENS_FOLDER = "tokens"
READERS = 4
READ_AHEAD = 32  # files
SECONDS_BEFORE_TRIES = (0.2, 1.0)


class LandingError(Exception):
    """Results that were made but couldn't be written: the fault of the place, not of the runs."""


@dataclass(frozen=True)
class Tally:
    """What some runs came to; tallies add up."""

    runs: int = 0
    errors: int = 0
    tokens: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.runs + other.runs, self.errors + other.errors, self.tokens + other.tokens)


def tally_of(generations: pa.Table) -> Tally:
    """What these rows come to."""
    errors = pc.sum(pc.equal(generations["status"], ERROR)).as_py() or 0
    return Tally(generations.num_rows, errors, pc.sum(generations["n_tokens"]).as_py() or 0)


def shard_name(runs: Sequence[Run]) -> str:
    """The name of the shard of these runs, whatever their order."""
    return hashlib.blake2b("".join(sorted(run.run_id for run in runs)).encode(), digest_size=16).hexdigest()


def land(store: Store, runs: Sequence[Run], results: Results, refuse: Callable[[], None] = lambda: None) -> Tally:
    """Publish the results of `runs`: tokens first, then generations. Raises `LandingError`; then nothing has landed.

    `refuse` is called before each file is published, and raises `LandingError` if this attempt may no longer land.
    """
    got = sorted(results.generations["run_id"].to_pylist())
    if got != sorted(run.run_id for run in runs):
        raise ValueError(f"the generator was given {len(runs)} runs and returned {len(got)} rows, not one for each")
    name = shard_name(runs)
    _publish(store, _tokens(name), parquet(results.tokens), refuse)
    _publish(store, _generations(name), parquet(results.generations), refuse)
    return tally_of(results.generations)


def _publish(store: Store, name: str, content: pa.Buffer, refuse: Callable[[], None]) -> None:
    """Results cost more than a moment's patience with a shared disk; object stores' clients have their own."""
    for wait in (*(SECONDS_BEFORE_TRIES if store.is_local else ()), None):
        refuse()
        try:
            store.publish(name, content)
            return
        except (OSError, pa.ArrowException) as error:
            if wait is None:
                raise LandingError(f"{store.root} can't be written to: {error}") from error
            time.sleep(wait)


def landed_tally(store: Store, runs: Sequence[Run]) -> Tally | None:
    """What the shard of exactly these runs came to, or None if it hasn't landed."""
    name = _generations(shard_name(runs))
    if not store.has(name):
        return None
    return tally_of(_read(store, [name], ["status", "n_tokens"]))


@dataclass(frozen=True)
class Survey:
    """What a store holds: the ids of the runs that landed and not as errors, and the files with errors."""

    done: set[str]
    with_errors: list[str]


def survey(store: Store) -> Survey:
    """Look through everything that has landed."""
    done: set[str] = set()
    with_errors = []
    for name, table in read_files(store, data_files(store, GENERATIONS_FOLDER), ["run_id", "status"]):
        ok = table.filter(pc.equal(table["status"], OK))
        done.update(ok["run_id"].to_pylist())
        if ok.num_rows < table.num_rows:
            with_errors.append(name)
    return Survey(done, with_errors)


def landed(store: Store) -> set[str]:
    """Ids of the runs that are done: landed, and not as errors."""
    return survey(store).done


def read_generations(store: Store, columns: list[str]) -> pa.Table:
    """These columns of every run that has landed."""
    return _read(store, data_files(store, GENERATIONS_FOLDER), columns)


def clear_debris(store: Store, runs: Sequence[Run] | None = None) -> int:
    """Remove temporary files and tokens without generations (of `runs`' shard, or all); returns how many."""
    only = None if runs is None else shard_name(runs)
    generations = {PurePosixPath(name).name for name in store.names(GENERATIONS_FOLDER)}
    debris = [
        name
        for folder in (TOKENS_FOLDER, GENERATIONS_FOLDER)
        for name in store.names(folder)
        if (only is None or only in name)
        and (name.endswith(TEMPORARY_ENDING) or PurePosixPath(name).name not in generations)
    ]
    for name in debris:
        store.remove(name)
    return len(debris)


def remove_errors(store: Store, with_errors: Sequence[str]) -> int:
    """Take the error rows out of these files, so that their runs can be done again; returns how many there were."""
    removed = 0
    for name, table in read_files(store, with_errors):
        kept = table.filter(pc.not_equal(table["status"], ERROR))
        removed += table.num_rows - kept.num_rows
        if kept.num_rows:
            store.publish(name, parquet(kept))  # an error row has no tokens: their file stays as it is
        else:
            store.remove(name)
            store.remove(_tokens(PurePosixPath(name).stem))
    return removed


def data_files(store: Store, folder: str) -> list[str]:
    """Names of the Parquet files in a folder of results."""
    return [name for name in store.names(folder) if not PurePosixPath(name).name.startswith((".", "_"))]


def read_files(store: Store, names: Sequence[str], columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
    """Each file and its table, a few at a time. Raises `UsageError` for one that can't be read.

    By pyarrow's plain reader: its `dataset` costs a process 50 MB of pandas.
    """

    def read(name: str) -> pa.Table:
        with store.filesystem.open_input_file(store.paths([name])[0]) as file:
            return pq.ParquetFile(file).read(columns, use_threads=False)

    try:
        with ThreadPoolExecutor(READERS) as readers:
            for start in range(0, len(names), READ_AHEAD):
                some = names[start : start + READ_AHEAD]
                yield from zip(some, readers.map(read, some), strict=True)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"what is in {store.root} can't be read ({reason}): remove the file or choose another"
        ) from error


def _read(store: Store, names: Sequence[str], columns: list[str]) -> pa.Table:
    tables = [table for _, table in read_files(store, names, columns)]
    if not tables:
        return pa.table({column: pa.array([], pa.string()) for column in columns})
    return pa.concat_tables(tables)


def parquet(table: pa.Table) -> pa.Buffer:
    """A whole file, to be written at once."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _tokens(name: str) -> str:
    return f"{TOKENS_FOLDER}/{name}.parquet"


def _generations(name: str) -> str:
    return f"{GENERATIONS_FOLDER}/{name}.parquet"
