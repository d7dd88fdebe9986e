"""Which rows of judgements count."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from eexit.results.files import DamagedError, Location
from eexit.results.layout import further_name
from eexit.results.seals import encode_further
from eexit.results.study_tables import JUDGEMENTS
from eexit.studies.judging.judgements import read_judgements


def row(run_id: str, minute: int, **others: Any) -> dict[str, Any]:
    needed = {field.name: "" if pa.types.is_string(field.type) else 0 for field in JUDGEMENTS if not field.nullable}
    started = datetime(2026, 1, 1, 0, minute, tzinfo=UTC)
    return {**needed, "run_id": run_id, "started": started, "judge": "j", "rubric": "1", "status": "ok", **others}


def land(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "judgements").mkdir(exist_ok=True)
    name = further_name("judgements", f"{len(list((folder / 'judgements').iterdir())):032x}")
    (folder / name).write_bytes(encode_further(pa.Table.from_pylist(list(rows), JUDGEMENTS)))


def test_of_a_runs_rows_one_without_error_counts_and_then_the_latest(tmp_path: Path) -> None:
    location = Location(fs.LocalFileSystem(), str(tmp_path))
    assert read_judgements(location).schema.equals(JUDGEMENTS)
    late = [
        row("a", 3, clarity=3),
        row("b", 3, status="error", error="down"),
        row("c", 3, status="error", error="late"),
    ]
    early = [row("a", 1, clarity=1), row("b", 1, clarity=2), row("c", 1, status="error", error="early")]
    land(tmp_path, *late, row("a", 3, judge="other", clarity=5), row("a", 3, rubric="0", clarity=4))
    land(tmp_path, *early)
    counting = {
        (row["run_id"], row["judge"], row["rubric"]): (row["clarity"], row["error"])
        for row in read_judgements(location).to_pylist()
    }
    assert counting == {
        ("a", "j", "1"): (3, None),
        ("b", "j", "1"): (2, None),
        ("c", "j", "1"): (None, "late"),
        ("a", "other", "1"): (5, None),
        ("a", "j", "0"): (4, None),
    }


def test_damaged_judgements_are_never_read_as_data(tmp_path: Path) -> None:
    land(tmp_path, row("a", 1))
    [path] = (tmp_path / "judgements").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=rf"judgements/{0:032x}\.parquet is damaged"):
        read_judgements(Location(fs.LocalFileSystem(), str(tmp_path)))
