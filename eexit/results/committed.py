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

from eexit.plan.runs import OK
from eexit.results.layout import tokens_name
from eexit.results.parquet_files import (
    READER_THREADS,
    DamagedError,
    StoreLocation,
    conform,
    list_files,
    read_generations,
    read_shards,
    stream_tokens,
)
from eexit.results.shown_names import shown_names, with_shown_names
from eexit.results.tables import GENERATIONS

TOKENS_AT_ONCE: Final = 8192
OF_TOP_PREDICTIONS: Final = ("decided", "top_token_ids", "top_prob")  # columns of tokens


def read_columns(location: StoreLocation, columns: Sequence[str]) -> pa.Table:
    """Read these columns of all committed runs, with null where a file lacks a column. Raise `DamagedError`.

    Tokens files are not opened.
    """
    schema = pa.schema([GENERATIONS.field(name) for name in columns])
    with ThreadPoolExecutor(READER_THREADS) as readers:
        shards = readers.map(lambda stem: read_generations(location, stem, columns), list_files(location).stems)
        tables = [conform(shard.rows, schema) for shard in shards]
    return with_shown_names(pa.concat_tables(tables or [schema.empty_table()]), shown_names(location))


def runs_with_tokens(
    location: StoreLocation, columns: Sequence[str], wanted: pc.Expression, of_tokens: Sequence[str]
) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """Yield each run that matches `wanted` and has tokens: its row, and a table of its tokens with columns `of_tokens`.

    `wanted` filters by `columns`. Raise `OSError`, or `DamagedError` for a damaged file, even one without a matching
    run.
    """
    names = shown_names(location)
    for shard in read_shards(location, list_files(location), columns):
        if isinstance(shard, DamagedError):
            raise shard
        by_id = {row["run_id"]: row for row in with_shown_names(shard.rows, names).filter(wanted).to_pylist()}
        if not by_id:
            continue
        run_ids = pa.array([*by_id], pa.string())
        batches = stream_tokens(location, shard, ["run_id", *of_tokens], TOKENS_AT_ONCE)  # memory stays bounded
        for table in whole_runs(batch.filter(pc.is_in(batch["run_id"], run_ids)) for batch in batches):
            run_id = table["run_id"]
            starts = np.flatnonzero(np.append(True, pc.not_equal(run_id[1:], run_id[:-1]).to_numpy()))
            for start, end in pairwise([*starts.tolist(), len(table)]):
                run = by_id[run_id[start].as_py()]
                if end - start != run["n_tokens"]:
                    path, n = location.path(tokens_name(shard.stem)), run["n_tokens"]
                    raise DamagedError(f"{path} is damaged (it has {end - start:,} tokens of a run of {n:,} together)")
                yield run, table.slice(start, end - start).combine_chunks()


def predictions_of(location: StoreLocation, configuration: str) -> tuple[dict[str, str], Iterator[pa.RecordBatch]]:
    """Return run id → prompt id of a configuration's successful runs, and their tokens for `top_predictions`."""
    wanted = (pc.field("configuration") == configuration) & (pc.field("status") == OK)
    columns = ["run_id", "prompt_id", "configuration", "status", "n_tokens"]
    runs = read_columns(location, columns).filter(wanted)
    of_runs = runs_with_tokens(location, columns, wanted, OF_TOP_PREDICTIONS)
    prompt_of_run = dict(zip(runs["run_id"].to_pylist(), runs["prompt_id"].to_pylist(), strict=True))
    return prompt_of_run, (batch for _, tokens in of_runs for batch in tokens.to_batches())


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


def top_predictions(
    tokens: Iterable[pa.RecordBatch], run_ids: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield each layer's predictions for decided tokens of these runs, where they were recorded.

    `tokens` have `run_id` and `OF_TOP_PREDICTIONS`. Each item has the tokens' indices in `run_ids`, (D,), the top
    probabilities, (D, X, K), and each layer's likeliest token, (D, X).
    """
    ids = pa.array(run_ids, pa.string())
    for batch in tokens:
        batch = batch.filter(pc.field("decided") & pc.field("top_prob").is_valid() & pc.field("run_id").isin(ids))
        if len(batch):
            p_DXK, token_id_DXK = (nested_array(batch[name]) for name in ("top_prob", "top_token_ids"))
            yield pc.index_in(batch["run_id"], ids).to_numpy(), p_DXK, token_id_DXK[..., 0]


def nested_array(column: pa.Array) -> np.ndarray:
    """Return nested lists of numbers, of equal lengths and without nulls, as an array with an axis per level."""
    shape = [len(column)]
    while pa.types.is_list(column.type):
        flat = column.flatten()
        shape.append(len(flat) // len(column))
        column = flat
    numbers: np.ndarray = column.to_numpy(zero_copy_only=False).reshape(shape)
    return numbers
