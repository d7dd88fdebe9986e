"""A table about a finished sweep: its folder beside the runs, and its sealed files, of which every call adds one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from eexit.results.files import DamagedError, Location, list_folder, once_each, read_sealed
from eexit.results.seals import encode_sealed
from eexit.results.store.folder import Store
from eexit.results.tables import describe, schema

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Table:
    """Declared in `eexit.results.study_tables`: where it is, how it is written, read, copied and reported follows.

    Of rows that are the same in the columns `once`, if it has any, one counts: one without an error rather than one
    with an error (column `status`), and then that of the latest call.
    """

    name: str  # of its folder
    id_column: str | None  # of what a file is named after; None: nothing in its rows
    columns: Mapping[str, pa.Field]  # by name; with `started`, when the call began
    once: Sequence[str] = ()

    @cached_property
    def schema(self) -> pa.Schema:
        return schema(self.columns)

    def describe(self) -> str:
        """One line per column: name, type, unit, definition."""
        return describe(self.schema)

    def file(self, file_id: str) -> str:
        """The name of the file of a call, or of whatever has this id, which has 32 hexadecimal digits."""
        return f"{self.name}/{file_id}.parquet"

    def files(self, location: Location) -> list[str]:
        """The names of all its files, sorted."""
        return list_folder(location, self.name)

    def publish(self, store: Store, file_id: str, rows: Sequence[Row]) -> None:
        """Publish these rows as the file of this id, in place of the one that was there. Raises `OSError`."""
        content = encode_sealed(pa.Table.from_pylist(self.named(file_id, rows), self.schema))
        store.publish(self.file(file_id), content)

    def named(self, file_id: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """These rows with what their file is named after, in the column that has it."""
        named = {self.id_column: file_id} if self.id_column else {}
        return [{**row, **named} for row in rows]

    def read(self, location: Location) -> pa.Table:
        """The rows that count, by when their calls began (`started`).

        Raises `DamagedError`, and `OSError` if a file can't be read at all.
        """
        tables = [self.schema.empty_table(), *(read_sealed(location, name) for name in self.files(location))]
        rows = pa.concat_tables(tables, promote_options="default").sort_by([("started", "ascending")])
        return once_each(rows, self.once, latest=True) if self.once else rows

    def rows(self, location: Location) -> list[dict[str, Any]]:
        """The rows that count as dicts, by when their calls began."""
        return list(self.read(location).to_pylist())

    def set_damaged_aside(self, store: Store) -> Iterator[tuple[str, str]]:
        """Moves files that are not what was published; gives the name of each, and the folder that it is in now."""
        for name in self.files(store):
            try:
                read_sealed(store, name)
            except DamagedError:
                yield name, store.set_aside(name)
