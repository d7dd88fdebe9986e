"""Names of custom rules and modes that were redefined: their names in files, and those that readers show.

A redefined rule is stored by a name of its own, such as `ratio~77aa01`, so that no stored row is rewritten. Readers
show the present text as `ratio`, and an earlier one as `ratio~ba9c4d`. The mapping is `shown_names` of the
configuration in `sweep.json`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from eexit.plan.configuration import renamed_key
from eexit.results.layout import MANIFEST
from eexit.results.parquet_files import StoreLocation

NAMED: Final = ("configuration", "mode", "rule", "control_of", "text_of")  # columns
_MAPPING: Final = re.compile(rb'"shown_names": (\{[^{}]+\})')


def shown_names(location: StoreLocation) -> dict[str, str]:
    """Return the names in files that are shown otherwise → the shown ones; empty if there are none."""
    try:
        with location.filesystem.open_input_stream(location.path(MANIFEST)) as stream:
            found = _MAPPING.search(stream.read())
    except FileNotFoundError:
        return {}
    names: dict[str, str] = json.loads(found[1]) if found else {}
    return names


def with_shown_names(rows: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Return the rows with these names in the columns `NAMED`."""
    for at, field in enumerate(rows.schema if names else ()):
        if field.name in NAMED:
            stored = rows.column(at).unique()
            shown = [None if each is None else renamed_key(each, names) for each in stored.to_pylist()]
            index = pc.index_in(rows.column(at), value_set=stored).combine_chunks()
            rows = rows.set_column(at, field, pa.array(shown, field.type).take(index))
    return rows


def with_stored_names(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a row for a file, given `shown_names`."""
    stored = {shown: name for name, shown in names.items()}
    return {
        name: renamed_key(value, stored) if names and name in NAMED and isinstance(value, str) else value
        for name, value in row.items()
    }
