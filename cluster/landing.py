"""Shards as Parquet: landing them, finding what has landed, clearing away what a killed process left.

A shard is two files of one name, a hash of its run ids: `tokens/NAME.parquet`, then `generations/NAME.parquet`.
The second is the commit mark: a run has landed when its row is in a generations file. Doing a shard again lands it
under the same name, so that a lost acknowledgement can't duplicate it.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from cluster.store import TEMPORARY_ENDING, Store
from eexit.config import UsageError
from eexit.generator import Results
from eexit.plan import Run
from eexit.schema import ERROR, OK

GENERATIONS_FOLDER = "generations"
TOKENS_FOLDER = "tokens"
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


def land(store: Store, runs: Sequence[Run], results: Results) -> Tally:
    """Publish the results of `runs`: tokens first, then generations. Raises `LandingError`; then nothing has landed."""
    got = sorted(results.generations["run_id"].to_pylist())
    if got != sorted(run.run_id for run in runs):
        raise ValueError(f"the generator was given {len(runs)} runs and returned {len(got)} rows, not one for each")
    name = shard_name(runs)
    _publish(store, _tokens(name), parquet(results.tokens))
    _publish(store, _generations(name), parquet(results.generations))
    return tally_of(results.generations)


def _publish(store: Store, name: str, content: pa.Buffer) -> None:
    """Results cost more than a moment's patience with a network."""
    for wait in (*SECONDS_BEFORE_TRIES, None):
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


def landed(store: Store) -> set[str]:
    """Ids of the runs that are done: landed, and not as errors."""
    table = read_generations(store, ["run_id", "status"])
    return set(table.filter(pc.field("status") == OK)["run_id"].to_pylist())


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


def remove_errors(store: Store) -> int:
    """Take the error rows out of what has landed, so that their runs can be done again; returns how many."""
    removed = 0
    for name in _with_errors(store):
        table = _read(store, [name])
        kept = table.filter(pc.field("status") != ERROR)
        removed += table.num_rows - kept.num_rows
        if kept.num_rows:
            store.publish(name, parquet(kept))  # an error row has no tokens: their file stays as it is
        else:
            store.remove(name)
            store.remove(_tokens(PurePosixPath(name).stem))
    return removed


def _with_errors(store: Store) -> list[str]:
    names = data_files(store, GENERATIONS_FOLDER)
    table = _read(store, names, ["status", "__filename"]).filter(pc.field("status") == ERROR)
    files = {PurePosixPath(path).name for path in table["__filename"].unique().to_pylist()}
    return [name for name in names if PurePosixPath(name).name in files]


def data_files(store: Store, folder: str) -> list[str]:
    """Names of the Parquet files in a folder of results."""
    return [name for name in store.names(folder) if not PurePosixPath(name).name.startswith((".", "_"))]


def _read(store: Store, names: list[str], columns: list[str] | None = None) -> pa.Table:
    if not names:
        return pa.table({column: pa.array([], pa.string()) for column in columns or []})
    try:
        dataset = ds.dataset(store.paths(names), format="parquet", filesystem=store.filesystem)
        return dataset.to_table(columns=columns)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"what is in {store.root} can't be read ({reason}): remove the file or choose another"
        ) from error


def parquet(table: pa.Table) -> pa.Buffer:
    """A whole file, to be written at once."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _tokens(name: str) -> str:
    return f"{TOKENS_FOLDER}/{name}.parquet"


def _generations(name: str) -> str:
    return f"{GENERATIONS_FOLDER}/{name}.parquet"
