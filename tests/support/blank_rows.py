"""Blank rows of study tables, for tests that need only some columns."""

from typing import Any

import pyarrow as pa

from eexit.results.study_table import StudyTable


def blank(table: StudyTable) -> dict[str, Any]:
    """Return the columns that can't be null, each with an empty value."""
    return {field.name: _nothing(field.type) for field in table.schema if not field.nullable}


def _nothing(kind: pa.DataType) -> Any:
    if pa.types.is_nested(kind):
        return []
    if pa.types.is_boolean(kind):
        return False
    return "" if pa.types.is_string(kind) else 0
