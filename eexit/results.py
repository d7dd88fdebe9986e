"""A folder of results, as those who write it and those who read it know it: format, names, and what proves a file ours.

    sweep.json          what the results beside it are results of: the manifest, with its checksum
    generations/*       a row per run, and the seal of the tokens file of the same name (`eexit.seals`)
    tokens/*            a row per token
    report.html         the report, known by a mark; its side files, if it is large, are in report.data/

What the tables hold is in `eexit.schema`; reading them is in `eexit.files`.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any, Final
from uuid import uuid4

FORMAT: Final = 3  # that is written
# That are read: 1 and 2 know no rule but kl, and name no configurations; 1 also lacks the disagreement, and what tokens
# at their exit were read from.
FORMATS: Final = (1, 2, 3)

MANIFEST: Final = "sweep.json"
GENERATIONS_FOLDER: Final = "generations"
TOKENS_FOLDER: Final = "tokens"
FOLDERS: Final = (TOKENS_FOLDER, GENERATIONS_FOLDER)
REPORT: Final = "report.html"
SIDE_FILES: Final = "prompt-*.js"

REPORT_MARK: Final = '<meta name="generator" content="eexit">'
REPORT_HEAD_BYTES: Final = 1 << 20  # the mark is in these
SIDE_FILE_START: Final = "eexitData("

_SHARD_FILE = re.compile(r"[0-9a-f]{32}\.parquet")
_TEMPORARY_FILE = re.compile(r"\.[0-9a-f]{32}\.parquet\.[0-9a-f]{32}\.tmp")
_REPORT_MARKS = (REPORT_MARK.encode(), b'href="#/">Early-exit sweep</a>')  # the second: in reports of older versions
_REQUIRED = {"format": int, "config": dict, "model": dict, "exitable_layers": list}
_CHECKSUM = "checksum"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a sweep's results are results of; the fields of `sweep.json`, beside its checksum."""

    format: int = FORMAT
    config: Mapping[str, Any]  # an `eexit.config.SweepConfig`
    configurations: Sequence[Mapping[str, Any]] = field(
        default_factory=list
    )  # in order: a key, and `eexit.configuration.Configuration.columns`
    model: Mapping[str, Any]  # an `eexit.models.ModelDescription`
    exitable_layers: Sequence[int]
    n_runs: int | None = None  # that are planned
    versions: Mapping[str, str | None] = field(default_factory=dict)  # of Python and packages
    started: str = ""  # ISO 8601, UTC


class OtherFormatError(ValueError):
    """A `sweep.json` of a format that this version does not read."""


def encode(manifest: Manifest) -> bytes:
    """The bytes of a `sweep.json`."""
    content = asdict(manifest)
    return json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=1, ensure_ascii=False).encode()


def decode(content: bytes) -> Manifest:
    """What it says. Raises `ValueError` with the reason if it is no sweep's, damaged, or of none of `FORMATS`."""
    try:
        held = json.loads(content)
    except ValueError as error:  # of text that isn't Unicode, too
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(held, dict):
        raise ValueError("it is not an object")
    if isinstance(held.get("format"), int) and held["format"] not in FORMATS:
        raise OtherFormatError(f"it has format {held['format']}, not {' or '.join(map(str, FORMATS))}")
    missing = [name for name, kind in _REQUIRED.items() if not isinstance(held.get(name), kind)]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if held.pop(_CHECKSUM, None) not in (None, _checksum(held)):  # older versions wrote none
        raise ValueError("its checksum does not match")
    return Manifest(**{its.name: held[its.name] for its in fields(Manifest) if its.name in held})


def generations_name(stem: str) -> str:
    """Of the generations file of a shard."""
    return f"{GENERATIONS_FOLDER}/{stem}.parquet"


def tokens_name(stem: str) -> str:
    """Of the tokens file of a shard."""
    return f"{TOKENS_FOLDER}/{stem}.parquet"


def is_shard_file(name: str) -> bool:
    """Whether a file of this name, in one of the data folders, is a shard's."""
    return bool(_SHARD_FILE.fullmatch(name))


def temporary_name(name: str) -> str:
    """What a file is called until it is whole: a new name each time, hidden from those who read the folder."""
    return f".{name}.{uuid4().hex}.tmp"


def is_temporary_file(name: str) -> bool:
    """Whether a file of this name, in one of the data folders, is what a killed process left of a shard's."""
    return bool(_TEMPORARY_FILE.fullmatch(name))


def side_folder_name(report: str) -> str:
    """Of the folder beside a report that holds what the page loads when it is asked for: `report.data`."""
    return PurePath(report).with_suffix(".data").name


def side_file_name(number: int) -> str:
    """Of the script beside a report that holds the tokens of the prompt with this number."""
    return SIDE_FILES.replace("*", str(number))


def is_report(head: bytes) -> bool:
    """Whether these first bytes are those of a report that this program wrote."""
    return any(mark in head for mark in _REPORT_MARKS)


def is_side_file(head: bytes) -> bool:
    """Whether these first bytes are those of a file that a large report has beside it."""
    return head.startswith(SIDE_FILE_START.encode())


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
