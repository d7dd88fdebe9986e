"""Digests of values by name, and which of them hold on every machine.

A value is added twice: as it is, which holds on one machine (`HERE` ends its name), and without what depends on
rounding, which holds everywhere. What depends on time or on the place of files is in neither.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

HERE: Final = " (this machine)"
HASH: Final = re.compile(r"\b[0-9a-f]{16,}\b")  # of weights, among others
NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]\d+)?")
DIGITS: Final = 6  # significant ones of a float on one machine

Digests = Mapping[str, str]


class Record:
    """Digests of what was added so far; what they are of goes to `folder`, if there is one, to be looked at."""

    def __init__(self, folder: Path | None = None):
        self.digests: dict[str, str] = {}
        self._folder = folder

    def add(self, name: str, value: Any, anywhere: Any = ...) -> None:
        """Add a value, and as what holds everywhere `anywhere`; by default the value without the digits of floats.

        None as `anywhere`: nothing of it holds everywhere. The same as the value: all of it does.
        """
        if anywhere is not None:
            self._put(name, without_floats(value) if anywhere is ... else rounded(anywhere))
        if anywhere != value:
            self._put(f"{name}{HERE}", rounded(value))

    def _put(self, name: str, value: Any) -> None:
        assert name not in self.digests, name
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1)
        self.digests[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{re.sub('[^A-Za-z0-9_.-]+', '-', name)}.json").write_text(text)


def rounded(value: Any) -> Any:
    """The value as JSON can hold it, with floats as text of a few digits."""
    match value:
        case float():
            return f"{value:.{DIGITS}g}" if math.isfinite(value) else str(value)
        case Mapping():
            return {str(key): rounded(its) for key, its in value.items()}
        case list() | tuple():
            return [rounded(its) for its in value]
        case None | bool() | int() | str():
            return value
    return str(value)


def without_floats(value: Any) -> Any:
    """The value without the digits of floats, and without numbers and hashes in texts."""
    match value:
        case float():
            return "a float"
        case str():
            return NUMBER.sub("#", HASH.sub("a hash", value))
        case Mapping():
            return {str(key): without_floats(its) for key, its in value.items()}
        case list() | tuple():
            return [without_floats(its) for its in value]
    return value


def everywhere(digests: Digests) -> Digests:
    return {name: digest for name, digest in digests.items() if not name.endswith(HERE)}


def differences(before: Digests, now: Digests) -> list[str]:
    """The names whose digests differ, or that only one of both has. A record of what holds everywhere is enough."""
    if before == everywhere(before):
        now = everywhere(now)
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def read(path: Path) -> Digests:
    found: dict[str, str] = json.loads(path.read_text())
    return found


def write(path: Path, digests: Digests) -> None:
    """One line for each name, sorted, so that a change of the file says what has changed."""
    path.write_text(json.dumps(digests, indent=0, sort_keys=True) + "\n")
