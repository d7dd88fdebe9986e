"""A table about a finished sweep: a folder beside the runs, to which every call adds one file with a checksum."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from eexit.results.checksums import encode_sealed
from eexit.results.parquet_files import DamagedError, StoreLocation, list_folder, once_each, read_sealed
from eexit.results.shown_names import shown_names, with_shown_names, with_stored_names
from eexit.results.store.folder import Store
from eexit.results.tables import describe, schema

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class StudyTable:
    """A table declared in `eexit.results.study_tables`, with the methods that write and read its files.

    Among rows that are equal in the columns `once`, if any, one counts. A row without an error takes precedence over
    one with an error (column `status`), and then the row of the latest call.
    """

    name: str  # name of the folder
    id_column: str | None  # column with the id that names a file; None: rows have no such column
    columns: Mapping[str, pa.Field]  # by name; `started`, when the call began, is among them
    once: Sequence[str] = ()

    @cached_property
    def schema(self) -> pa.Schema:
        return schema(self.columns)

    def describe(self) -> str:
        """Return one line per column: name, type, unit, definition."""
        return describe(self.schema)

    def file(self, file_id: str) -> str:
        """Return the name of the file with this id, 32 hexadecimal digits."""
        return f"{self.name}/{file_id}.parquet"

    def files(self, location: StoreLocation) -> list[str]:
        """Return the names of all files of the table, sorted."""
        return list_folder(location, self.name)

    def publish(self, store: Store, file_id: str, rows: Sequence[Row]) -> None:
        """Publish these rows as the file with this id, replacing any previous file. Raise `OSError`."""
        names = shown_names(store)
        named = [with_stored_names(row, names) for row in self.named(file_id, rows)]
        content = encode_sealed(pa.Table.from_pylist(named, self.schema))
        store.publish(self.file(file_id), content)

    def named(self, file_id: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return these rows with the file's id in `id_column`, if the table has such a column."""
        named = {self.id_column: file_id} if self.id_column else {}
        return [{**row, **named} for row in rows]

    def read(self, location: StoreLocation) -> pa.Table:
        """Return the rows that count, in the order in which their calls began (`started`).

        Raise `DamagedError`, or `OSError` if a file can't be read at all.
        """
        tables = [self.schema.empty_table(), *(read_sealed(location, name) for name in self.files(location))]
        stored = pa.concat_tables(tables, promote_options="default").sort_by([("started", "ascending")])
        rows = with_shown_names(stored, shown_names(location))
        return once_each(rows, self.once, latest=True) if self.once else rows

    def rows(self, location: StoreLocation) -> list[dict[str, Any]]:
        """Return the rows that count as dicts, in the order in which their calls began."""
        return list(self.read(location).to_pylist())

    def set_damaged_aside(self, store: Store) -> Iterator[tuple[str, str]]:
        """Move damaged files to another folder; yield the name of each file and its new folder."""
        for name in self.files(store):
            try:
                read_sealed(store, name)
            except DamagedError:
                yield name, store.set_aside(name)
