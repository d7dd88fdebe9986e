"""Prompt files: .txt (one prompt a line), .jsonl, .csv and .parquet (column `prompt`; other `COLUMNS` are optional).

A .csv file separates cells by commas, semicolons or tabs. From Python, prompts may also be texts, dicts or a table.

>>> read_prompts("prompts.csv")[0].prompt
'Explain recursion.'
>>> prompts_of(["Explain recursion.", {"prompt": "3 + 4?", "answer": "7"}])[1].answer
'7'
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eexit.errors import UsageError, first_line
from eexit.output.locations import redact
from eexit.output.text import did_you_mean, truncate_lines
from eexit.plan.sweep_config import Prompt

COMMANDS = "jobs"  # package of the commands, with sweeps and prompts
NUMBERS = ("max_new_tokens", "steps")
COLUMNS = ("prompt", "id", "system", "answer", "answer_pattern", "group", "kind", "prefiller", *NUMBERS)
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # of a .csv, selected by its header
# A row's place in its file, for messages, and the row.
Row = tuple[str, Mapping[str, object]]


def read_prompts(path: str | Path) -> tuple[Prompt, ...]:
    """Return the prompts of a file in order and unchanged; a missing id becomes the prompt's 0-based index.

    Files that come with the commands, such as `jobs/sweeps/prompts/study.jsonl`, are found from any folder. Columns
    that are not read are named on standard error. Raises `UsageError` if the file can't be used: one line with the
    file, the place in it, the value and the way out.
    """
    if "://" in str(path):
        raise UsageError(f"{redact(str(path))}: prompts are read from a local file: download it first")
    path = with_package(Path(path))
    if path.suffix.lower() not in READERS:
        what = path.suffix or "a name without ending"
        raise UsageError(f"{path}: {what} is not supported: use {ENDINGS}")
    try:
        return _gathered(READERS[path.suffix.lower()](path), f"{path}")
    except OSError as error:
        raise UsageError(
            f"{path}: can't be read ({error.strerror or error}): check the name and the permissions"
        ) from error


def with_package(path: Path) -> Path:
    """Return the path if it exists, else the same path inside the installed commands, if that file exists.

    So `jobs/sweeps/demo.toml` is found from any folder.
    """
    if path.exists() or path.parts[:1] != (COMMANDS,) or find_spec(COMMANDS) is None:
        return path
    own = Path(str(files(COMMANDS))).parent / path
    return own if own.is_file() else path


def prompts_of(given: Any) -> tuple[Prompt, ...]:
    """Return prompts given in Python: a list of texts, dicts or `Prompt`, a DataFrame, or a prompt file's path.

    Dicts and DataFrames have `COLUMNS`, as files do. Raises: `UsageError` as `read_prompts` does.
    """
    if isinstance(given, str | Path):
        if not given or Path(given).suffix.lower() not in READERS:
            raise UsageError(
                f"prompts {str(given)[:40]!r} is no file of prompts ({ENDINGS}): give a list of texts, or the path of "
                "such a file"
            )
        return read_prompts(given)
    if hasattr(given, "to_dict") and hasattr(given, "columns"):
        _require_column([*map(str, given.columns)], "prompts")
        given = given.astype(object).where(given.notna(), None).to_dict("records")
    if not isinstance(given, Iterable) or isinstance(given, Mapping | bytes):
        raise UsageError(f"prompts must be a list of texts or dicts, a DataFrame or a path, got {str(given)[:40]!r}")
    given = [*given]
    if given and all(isinstance(each, Prompt) for each in given):
        return tuple(given)
    return _gathered(map(_row_of, range(len(given)), given), "prompts")


def _row_of(index: int, given: object) -> Row:
    if isinstance(given, str):
        return f"entry {index + 1}", {"prompt": given}
    if not isinstance(given, Mapping):
        raise UsageError(f"prompts, entry {index + 1}: must be a text or a dict with a prompt, got {str(given)[:40]!r}")
    return f"entry {index + 1}", given


def _gathered(rows: Iterable[Row], source: str) -> tuple[Prompt, ...]:
    prompts: list[Prompt] = []
    where_of: dict[str, str] = {}
    unread: dict[str, None] = {}
    for where, row in rows:
        unread |= dict.fromkeys(name for name in row if name not in COLUMNS)
        prompt = _prompt(row, len(prompts), f"{source}, {where}")
        if prompt.id in where_of:
            raise UsageError(
                f"{source}: prompt id {prompt.id!r} is there more than once ({where_of[prompt.id]} and {where}): "
                "make ids unique, or leave them out"
            )
        where_of[prompt.id] = where
        prompts.append(prompt)
    if not prompts:
        raise UsageError(f"{source}: holds no prompt: write at least one")
    if unread:
        meant = ((name[:40], did_you_mean(name, COLUMNS, most=1)) for name in unread)
        told = ", ".join(truncate_lines([f"{name} ({near})" if near else name for name, near in meant]))
        print(f"{source}: not read: {told}; prompts have the columns {', '.join(COLUMNS)}", file=sys.stderr)
    return tuple(prompts)


def _prompt(row: Mapping[str, object], index: int, where: str) -> Prompt:
    prompt, name, *others = (row.get(column) for column in COLUMNS)
    if prompt is None:
        raise UsageError(f"{where}: prompt is missing: give it a text (an empty one is allowed)")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    id_ = str(index) if name in (None, "") else name
    texts: dict[str, Any] = dict(zip(COLUMNS, (prompt, id_, *others), strict=True))
    try:
        return Prompt(**texts)
    except ValidationError as error:
        raise UsageError(f"{where}: {_explained(error.errors()[0])}") from error


def _explained(problem: Mapping[str, Any]) -> str:
    column, value = problem["loc"][0], problem["input"]
    match problem["type"]:
        case "string_type":
            return f"{column} must be text, got {value!r}"
        case "string_unicode":
            return f"{column} holds half a surrogate pair, which no text can: got {value[:40]!a}"
    return str(problem["ctx"]["error"])


def _rows_of_txt(path: Path) -> Iterator[Row]:
    # Not str.splitlines, which also splits at form feeds and U+2028; a prompt may contain both.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield f"line {number}", {"prompt": line.removesuffix("\r")}


def _rows_of_jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=partial(_object, f"{path}, line {number}"))
        except UsageError:
            raise
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: not JSON ({error}): write one object a line") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: must be an object with a prompt, got {line[:40]}")
        _require_column(list(row), f"{path}, line {number}")
        yield f"line {number}", row


def _rows_of_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    text = _text(path)
    delimiter = next((mark for mark in DELIMITERS if "prompt" in next(_cells(text, mark), [])), ",")
    reader = _cells(text, delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        _require_column(header, str(path))
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UsageError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells under a header of {len(header)}: "
                    f"put cells with {DELIMITERS[delimiter]}, quotes or line ends in double quotes"
                )
            row = dict(zip(header, cells, strict=True))
            yield f"line {reader.line_num}", row | {name: row.get(name) or None for name in ("system", "prefiller")}
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not CSV ({error}): check its quotes") from error


def _cells(text: str, delimiter: str, strict: bool = False) -> Any:
    """Return a reader of rows; newline="" preserves line ends inside quoted cells."""
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)


def _rows_of_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # imported here, since flags are read without it
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UsageError(f"{path}: not a Parquet file ({first_line(error)}): check what wrote it") from error
    with file:
        _require_column(file.schema_arrow.names, str(path))
        columns = [column for column in COLUMNS if column in file.schema_arrow.names]
        others = dict.fromkeys(name for name in file.schema_arrow.names if name not in COLUMNS)
        row_number = 0
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                row_number += 1
                yield f"row {row_number}", {**others, **row}


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if b"\0" in raw:
        raise UsageError(f"{path}: not a text file (it holds zero bytes): save it as UTF-8 text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: not UTF-8 text (byte 0x{raw[error.start]:02x} at offset {error.start}): save it as UTF-8"
        ) from error


def _object(where: str, pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    _refuse_repeated([name for name, _ in pairs], where)
    return dict(pairs)


def _require_column(names: Sequence[str], where: str) -> None:
    if "prompt" not in names:
        found = ", ".join(names) or "none"
        raise UsageError(f"{where}: column prompt is missing, found {found[:200]}: name the prompts' column so")
    _refuse_repeated(names, where)


def _refuse_repeated(names: Sequence[str], where: str) -> None:
    repeated = [column for column in COLUMNS if names.count(column) > 1]
    if repeated:
        raise UsageError(f"{where}: column {repeated[0]} is there more than once: keep one of them")


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".txt": _rows_of_txt, ".jsonl": _rows_of_jsonl, ".csv": _rows_of_csv, ".parquet": _rows_of_parquet,
}  # fmt: skip
*_MOST, _LAST = READERS
ENDINGS = f"{', '.join(_MOST)} or {_LAST}"
