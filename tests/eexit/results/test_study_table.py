"""Study tables of a finished sweep: published rows are read, copied and reported, and damage is never read as data."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from blank_rows import blank

from eexit.results import study_tables
from eexit.results.parquet_files import DamagedError
from eexit.results.store.folder import open_store
from eexit.results.study_table import StudyTable
from eexit.results.study_tables import JUDGEMENTS, STUDY_TABLES, TIMINGS

TABLES = pytest.mark.parametrize("table", STUDY_TABLES, ids=lambda table: table.name)


def started(minute: int) -> dict[str, Any]:
    return {"started": datetime(2026, 1, 1, 0, minute, tzinfo=UTC)}


def test_every_table_that_is_declared_is_read_copied_and_reported() -> None:
    declared = [value for value in vars(study_tables).values() if isinstance(value, StudyTable)]
    assert set(declared) == set(STUDY_TABLES)
    assert len({table.name for table in declared}) == len(declared)


@TABLES
def test_what_is_published_is_read_in_the_order_of_calls(table: StudyTable, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert table.read(store).schema.equals(table.schema)
    named = dict.fromkeys(table.once, "")
    table.publish(store, "f" * 32, [blank(table) | named | started(1)])
    table.publish(store, "a" * 32, [blank(table) | dict.fromkeys(named, "other") | started(2)] * 2)
    table.publish(store, "a" * 32, [blank(table) | dict.fromkeys(named, "other") | started(2)])  # replaces the first
    (tmp_path / table.name / "mine.txt").touch()
    assert table.files(store) == [table.file("a" * 32), table.file("f" * 32)]
    rows = table.read(store)
    assert rows.schema.equals(table.schema)
    assert [time.minute for time in rows["started"].to_pylist()] == [1, 2]
    if table.id_column:
        assert rows[table.id_column].to_pylist() == ["f" * 32, "a" * 32]


@TABLES
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: content.replace(b"seal", b"leas"),
        lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:],
    ],
)
def test_a_damaged_file_is_never_read_as_data_and_can_be_set_aside(
    table: StudyTable, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    store = open_store(tmp_path)
    table.publish(store, "a" * 32, [blank(table) | started(1)])
    table.publish(store, "f" * 32, [blank(table) | started(1)])
    path = tmp_path / table.file("f" * 32)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedError, match=rf"{table.name}/{'f' * 32}\.parquet is damaged"):
        table.read(store)
    [(name, folder)] = table.set_damaged_aside(store)
    assert name == table.file("f" * 32)
    assert store.has(f"{folder}/{name}")
    assert len(table.read(store)) == 1


def test_of_a_judged_run_a_row_without_an_error_counts_and_then_the_latest(tmp_path: Path) -> None:
    store = open_store(tmp_path)

    def row(run_id: str, minute: int, **others: Any) -> dict[str, Any]:
        named = {"run_id": run_id, "judge": "j", "rubric": "1", "status": "ok"}
        return blank(JUDGEMENTS) | started(minute) | named | others

    late = [
        row("a", 3, clarity=3),
        row("b", 3, status="error", error="down"),
        row("c", 3, status="error", error="late"),
    ]
    early = [row("a", 1, clarity=1), row("b", 1, clarity=2), row("c", 1, status="error", error="early")]
    JUDGEMENTS.publish(
        store, "0" * 32, [*late, row("a", 3, judge="other", clarity=5), row("a", 3, rubric="0", clarity=4)]
    )
    JUDGEMENTS.publish(store, "1" * 32, early)
    counting = {
        (row["run_id"], row["judge"], row["rubric"]): (row["clarity"], row["error"])
        for row in JUDGEMENTS.read(store).to_pylist()
    }
    assert counting == {
        ("a", "j", "1"): (3, None),
        ("b", "j", "1"): (2, None),
        ("c", "j", "1"): (None, "late"),
        ("a", "other", "1"): (5, None),
        ("a", "j", "0"): (4, None),
    }


def test_rows_of_an_older_version_lack_columns(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    columns = {name: field for name, field in TIMINGS.columns.items() if name != "prompt_ids"}
    older = StudyTable(TIMINGS.name, TIMINGS.id_column, columns)
    older.publish(store, "0" * 32, [blank(older) | started(1)])
    assert TIMINGS.read(store)["prompt_ids"].to_pylist() == [None]
