"""Reading the committed runs of a sweep, for studies, trainings, exports and tables.

A damaged file is an error here. A report skips it (`reports.read.committed_runs`), and a sweep that resumes repairs it
(`eexit.results.store.commit.repair_store`).
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eexit.results.layout import tokens_name
from eexit.results.parquet_files import (
    READER_THREADS,
    DamagedError,
    GenerationsFile,
    StoreLocation,
    conform,
    list_files,
    read_generations,
    read_shards,
    stream_tokens,
)
from eexit.results.tables import GENERATIONS

TOKENS_AT_ONCE: Final = 8192


def read_columns(location: StoreLocation, columns: Sequence[str]) -> pa.Table:
    """Read these columns of all committed runs, with null where a file lacks a column. Raise `DamagedError`.

    Tokens files are not opened.
    """
    schema = pa.schema([GENERATIONS.field(name) for name in columns])
    with ThreadPoolExecutor(READER_THREADS) as readers:
        shards = readers.map(lambda stem: read_generations(location, stem, columns), list_files(location).stems)
        tables = [conform(shard.rows, schema) for shard in shards]
    return pa.concat_tables(tables or [schema.empty_table()])


def tokens_of(
    location: StoreLocation, shard: GenerationsFile, runs: pa.Table, columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield the tokens of some runs of a shard, in tables of a few thousand rows that contain whole runs.

    `columns` must include `run_id`. Memory use does not grow with the shard. Raise `DamagedError`.
    """
    run_ids = runs["run_id"].combine_chunks()
    batches = stream_tokens(location, shard, columns, TOKENS_AT_ONCE)
    return whole_runs(batch.filter(pc.is_in(batch["run_id"], run_ids)) for batch in batches)


def runs_with_tokens(
    location: StoreLocation, columns: Sequence[str], wanted: pc.Expression, of_tokens: Sequence[str]
) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """Yield each run that matches `wanted` and has tokens: its row, and a table of its tokens with columns `of_tokens`.

    `wanted` filters by `columns`. Raise `OSError`, or `DamagedError` for a damaged file, even one without a matching
    run.
    """
    for shard in read_shards(location, list_files(location), columns):
        if isinstance(shard, DamagedError):
            raise shard
        runs = shard.rows.filter(wanted)
        by_id = {row["run_id"]: row for row in runs.to_pylist()}
        for table in tokens_of(location, shard, runs, ["run_id", *of_tokens]) if by_id else ():
            run_id = table["run_id"]
            starts = np.flatnonzero(np.append(True, pc.not_equal(run_id[1:], run_id[:-1]).to_numpy()))
            for start, end in pairwise([*starts.tolist(), len(table)]):
                run = by_id[run_id[start].as_py()]
                if end - start != run["n_tokens"]:
                    path, n = location.path(tokens_name(shard.stem)), run["n_tokens"]
                    raise DamagedError(f"{path} is damaged (it has {end - start:,} tokens of a run of {n:,} together)")
                yield run, table.slice(start, end - start).combine_chunks()


def whole_runs(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut the rows of a tokens table only between runs."""
    rest: pa.Table | None = None
    for batch in batches:
        table = batch if rest is None else pa.concat_tables([rest, batch])
        if not table.num_rows:
            continue
        last = pc.index(table["run_id"], table["run_id"][-1]).as_py()
        if last:
            yield table.slice(0, last)
        rest = table.slice(last)
    if rest is not None:
        yield rest


def nested_array(column: pa.Array) -> np.ndarray:
    """Return nested lists of numbers, of equal lengths and without nulls, as an array with an axis per level."""
    shape = [len(column)]
    while pa.types.is_list(column.type):
        flat = column.flatten()
        shape.append(len(flat) // len(column))
        column = flat
    numbers: np.ndarray = column.to_numpy(zero_copy_only=False).reshape(shape)
    return numbers
