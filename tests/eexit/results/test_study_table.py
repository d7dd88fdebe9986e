"""Study tables of a finished sweep: published rows are read, copied and reported, and damage is never read as data."""

from datetime import UTC, datetime
from typing import Any

import pytest
from synthetic_sweeps import blank

from eexit.results import study_tables
from eexit.results.parquet_files import DamagedError
from eexit.results.store.folder import Store
from eexit.results.study_table import StudyTable
from eexit.results.study_tables import JUDGEMENTS, STUDY_TABLES, TIMINGS


def row_of(table: StudyTable, minute: int, **columns: Any) -> dict[str, Any]:
    return blank(table) | {"started": datetime(2026, 1, 1, 0, minute, tzinfo=UTC)} | columns


def test_every_table_that_is_declared_is_read_copied_and_reported() -> None:
    declared = [value for value in vars(study_tables).values() if isinstance(value, StudyTable)]
    assert set(declared) == set(STUDY_TABLES)
    assert len({table.name for table in declared}) == len(declared)


@pytest.mark.parametrize("table", STUDY_TABLES, ids=lambda table: table.name)
def test_what_is_published_is_read_in_the_order_of_calls(table: StudyTable, store: Store) -> None:
    assert table.read(store).schema.equals(table.schema)
    late = row_of(table, 2, **dict.fromkeys(table.once, "other"))
    table.publish(store, "f" * 32, [row_of(table, 1, **dict.fromkeys(table.once, ""))])
    table.publish(store, "a" * 32, [late] * 2)
    table.publish(store, "a" * 32, [late])  # replaces the first
    store.publish(f"{table.name}/mine.txt", b"")
    assert table.files(store) == [table.file("a" * 32), table.file("f" * 32)]
    rows = table.read(store)
    assert rows.schema.equals(table.schema)
    assert [time.minute for time in rows["started"].to_pylist()] == [1, 2]
    if table.id_column:
        assert rows[table.id_column].to_pylist() == ["f" * 32, "a" * 32]


def test_a_damaged_file_is_refused_and_set_aside_and_rows_of_an_older_version_lack_columns(store: Store) -> None:
    columns = {name: field for name, field in TIMINGS.columns.items() if name != "prompt_ids"}
    older = StudyTable(TIMINGS.name, TIMINGS.id_column, columns)
    for file_id in "af":
        older.publish(store, file_id * 32, [row_of(older, 1)])
    name = TIMINGS.file("f" * 32)
    content = store.read(name) or b""
    store.publish(name, content[:99] + bytes([content[99] ^ 1]) + content[100:])
    with pytest.raises(DamagedError, match=f"{name} is damaged"):
        TIMINGS.read(store)
    [(moved, folder)] = TIMINGS.set_damaged_aside(store)
    assert (moved, store.has(f"{folder}/{name}")) == (name, True)
    assert TIMINGS.read(store)["prompt_ids"].to_pylist() == [None]


def test_of_a_judged_run_a_row_without_an_error_counts_and_then_the_latest(store: Store) -> None:
    def row(run_id: str, minute: int, clarity: int | None, error: str | None = None, **named: str) -> dict[str, Any]:
        named = {"run_id": run_id, "judge": "j", "rubric": "1", "status": "error" if error else "ok", **named}
        return row_of(JUDGEMENTS, minute, clarity=clarity, error=error, **named)

    late = [
        row("a", 3, 3), row("b", 3, None, "down"), row("c", 3, None, "late"),
        row("a", 3, 5, judge="other"), row("a", 3, 4, rubric="0"),
    ]  # fmt: skip
    JUDGEMENTS.publish(store, "0" * 32, late)
    JUDGEMENTS.publish(store, "1" * 32, [row("a", 1, 1), row("b", 1, 2), row("c", 1, None, "early")])
    names = ("run_id", "judge", "rubric", "clarity", "error")
    assert {tuple(row[name] for name in names) for row in JUDGEMENTS.rows(store)} == {
        ("a", "j", "1", 3, None), ("b", "j", "1", 2, None), ("c", "j", "1", None, "late"),
        ("a", "other", "1", 5, None), ("a", "j", "0", 4, None),
    }  # fmt: skip
