"""Reader of the files behind a report: all undamaged files of the sweep, with each run counted once.

Damaged and foreign files are left out, with a message. A report repairs nothing; the sweep's own command does.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from eexit.errors import first_line
from eexit.results.layout import GENERATIONS_FOLDER, TOKENS_FOLDER, generations_name, tokens_name
from eexit.results.parquet_files import (
    DamagedError,
    GenerationsFile,
    StoreLocation,
    conform,
    list_files,
    read_generations,
    read_shards,
    read_tokens,
    superseded,
    without,
)
from eexit.results.shown_names import shown_names, with_shown_names
from eexit.results.study_tables import STUDY_TABLES
from eexit.results.tables import GENERATIONS, TOKENS

# Local files were checked as a whole. This check is for files under a URI, and for files that change meanwhile.
_PARQUET = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


@dataclass(frozen=True)
class CommittedRuns:
    """Committed runs: columns of all runs in memory, tokens and texts as datasets on disk, a line per file left out.

    The datasets have the names in files of custom rules and modes, and `rows` those that are shown.
    """

    rows: pa.Table
    tokens: ds.Dataset
    texts: ds.Dataset
    left_out: tuple[str, ...]


def read_committed(location: StoreLocation, columns: Sequence[str]) -> CommittedRuns:
    """Read the committed runs with these columns of `GENERATIONS`, among them `run_id` and `status`. Missing columns
    become null. Raise `DamagedError` as `_copied` does, if the folder is a copy without shards.
    """
    listing = list_files(location)
    if not listing.stems and listing.foreign:
        return _copied(location, columns)
    shards, without_tokens = [], set()
    left_out = [f"{location.path(name)} is not one of the sweep's files" for name in listing.foreign]
    for found in read_shards(location, listing, columns):
        shard = found.shard if isinstance(found, DamagedError) else found
        if isinstance(found, DamagedError):
            left_out.append(str(found))
            without_tokens.update([found.shard.stem] if found.shard else [])
        if shard:
            shards.append(shard)
    dropped = superseded(shards)
    left_out += [
        f"{location.path(generations_name(stem))}: {len(run_ids)} runs that another file has too, and that count there"
        for stem, run_ids in dropped.items()
    ]
    wanted = loose(pa.schema([GENERATIONS.field(name) for name in columns]))
    rows = [conform(without(shard.rows, dropped.get(shard.stem, ())), wanted) for shard in shards]
    return CommittedRuns(
        with_shown_names(pa.concat_tables(rows or [wanted.empty_table()]), shown_names(location)),
        _dataset(location, TOKENS, [shard for shard in shards if shard.stem not in without_tokens], dropped),
        _dataset(location, GENERATIONS, shards, dropped),
        tuple(left_out),
    )


def _copied(location: StoreLocation, columns: Sequence[str]) -> CommittedRuns:
    """Read a copy by `pyarrow.dataset.write_dataset`, as in cluster/README.md: files of any name without checksums.

    Raise `DamagedError` if it can't be read, or holds a run twice, since nothing records which one counts.
    """
    try:
        texts, tokens = (
            ds.dataset(location.path(folder), filesystem=location.filesystem, format=_PARQUET, schema=loose(schema))
            for folder, schema in ((GENERATIONS_FOLDER, GENERATIONS), (TOKENS_FOLDER, TOKENS))
        )
        rows = texts.to_table(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{location.root} holds no shards, and can't be read ({first_line(error)})") from error
    if pc.count_distinct(rows["run_id"]).as_py() < len(rows):
        raise DamagedError(f"{location.root} is a copy that holds runs twice: make the report of the original")
    return CommittedRuns(rows, tokens, texts, ())


def loose(schema: pa.Schema) -> pa.Schema:
    """Return the schema with all of its columns nullable."""
    return pa.schema([field.with_nullable(True) for field in schema])


def _dataset(
    location: StoreLocation,
    schema: pa.Schema,
    shards: Sequence[GenerationsFile],
    dropped: Mapping[str, Collection[str]],
) -> ds.Dataset:
    """Return the rows of these shards in `schema`, without the dropped runs. Columns that the files lack are null."""
    name_of = tokens_name if schema is TOKENS else generations_name
    whole = [location.path(name_of(shard.stem)) for shard in shards if shard.stem not in dropped]
    parts = [ds.dataset(whole, filesystem=location.filesystem, format=_PARQUET, schema=loose(schema))] if whole else []
    for stem in (shard.stem for shard in shards if shard.stem in dropped):
        shard = read_generations(location, stem)
        table = read_tokens(location, shard) if schema is TOKENS else shard.rows
        parts.append(ds.dataset(conform(without(table, dropped[stem]), loose(schema))))
    return ds.dataset(parts or [ds.dataset(loose(schema).empty_table())])


def read_study_tables(location: StoreLocation) -> tuple[Mapping[str, pd.DataFrame], tuple[str, ...]]:
    """Return all study tables by name, and a line for each one left out because of a damaged file."""
    found: dict[str, pd.DataFrame] = {}
    left_out: list[str] = []
    for table in STUDY_TABLES:
        try:
            found[table.name] = table.read(location).to_pandas()
        except DamagedError as error:
            left_out.append(f"{error}: no {table.name} are shown")
    return found, tuple(left_out)
