"""What proves that a file is ours: the checksum in `sweep.json`, the mark in a report.

`sweep.json` says what the results beside it are results of.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

NAME = "sweep.json"
FORMATS = (1, 2)  # that are read; what 1 lacks is null: disagreement, and what tokens at their exit were read from
REQUIRED = {"format": int, "config": dict, "model": dict, "exitable_layers": list}
REPORT_MARK = '<meta name="generator" content="eexit">'
_REPORT_MARKS = (REPORT_MARK.encode(), b'href="#/">Early-exit sweep</a>')  # the second: in reports of older versions
REPORT_HEAD_BYTES = 1 << 20  # the mark is in these
SIDE_FILE_START = "eexitData("
_CHECKSUM = "checksum"


def encode(about: Mapping[str, Any]) -> bytes:
    """The bytes of a `sweep.json`."""
    return json.dumps({**about, _CHECKSUM: _checksum(about)}, indent=1, ensure_ascii=False).encode()


class OtherFormatError(ValueError):
    """A `sweep.json` of a format that isn't wanted."""


def decode(content: bytes, formats: Collection[int]) -> dict[str, Any]:
    """What it says. Raises `ValueError` with the reason if it is no sweep's, damaged, or of none of these formats."""
    try:
        about = json.loads(content)
    except ValueError as error:  # of text that isn't Unicode, too
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(about, dict):
        raise ValueError("it is not an object")
    if isinstance(about.get("format"), int) and about["format"] not in formats:
        raise OtherFormatError(f"it has format {about['format']}, not {' or '.join(map(str, formats))}")
    missing = [name for name, kind in REQUIRED.items() if not isinstance(about.get(name), kind)]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if about.pop(_CHECKSUM, None) not in (None, _checksum(about)):  # older versions wrote none
        raise ValueError("its checksum does not match")
    return about


def is_report(head: bytes) -> bool:
    """Whether these first bytes are those of a report that this program wrote."""
    return any(mark in head for mark in _REPORT_MARKS)


def is_side_file(head: bytes) -> bool:
    """Whether these first bytes are those of a file that a large report has beside it."""
    return head.startswith(SIDE_FILE_START.encode())


def _checksum(about: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()
