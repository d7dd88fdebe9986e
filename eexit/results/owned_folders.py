"""Folders that eexit owns, and where a command may write. All commands that take a target use this module.

A results folder contains a sweep's files, and an artefact folder contains an artefact or a training. Nothing else may
be written inside: a single foreign file stops `pd.read_parquet` from reading a table. Links and `..` in paths are
resolved; a location that can't be accessed counts as not owned.
"""

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Final

import pyarrow as pa
from pyarrow import fs

from eexit.errors import UsageError
from eexit.output.locations import redact
from eexit.plan.artefacts import CARD, STATE, TEXTS_FOLDER, WEIGHTS, is_of_training
from eexit.results.layout import FOLDERS, MANIFEST, REPORT, UnsupportedFormatError, decode_manifest
from eexit.results.parquet_files import list_folder
from eexit.results.store.folder import Store, open_store
from eexit.results.store.lease import LEASE
from eexit.results.study_tables import STUDY_TABLES

TABLE_FOLDERS = (*FOLDERS, *(table.name for table in STUDY_TABLES))


class OwnedFolderKind(Enum):
    """Kind of a folder that eexit owns, as messages name it."""

    RESULTS = "the sweep's results"
    LEARNED = "an artefact's folder"


@dataclass(frozen=True)
class OwnedFolder:
    """Innermost owned folder around a location; `name` is the location in it, empty for the folder itself."""

    kind: OwnedFolderKind
    root: str
    name: str


Allowed = tuple[OwnedFolderKind, str]
# Where a sweep may be written: a training contains the sweep of its additional texts.
FOR_RESULTS: Final[Sequence[Allowed]] = ((OwnedFolderKind.RESULTS, ""), (OwnedFolderKind.LEARNED, TEXTS_FOLDER))
FOR_LEARNED: Final[Sequence[Allowed]] = ((OwnedFolderKind.LEARNED, ""),)


def find_owned_folder(location: Store, planned: Store | None = None) -> OwnedFolder | None:
    """Return the owned folder around a location, which need not exist; None if there is none.

    `planned` is a location where this command will write results.
    """
    results = _followed(planned) if planned else None
    for folder, name in _upwards(_followed(location)):
        if folder == results or _holds_results(folder):
            return OwnedFolder(OwnedFolderKind.RESULTS, folder.root, name)
        if _holds_learned(folder):
            return OwnedFolder(OwnedFolderKind.LEARNED, folder.root, name)
    return None


def refuse_inside(location: Store, name: str, *allowed: Allowed) -> None:
    """Raise `UsageError` if a location is or lies in an owned folder where this kind of file may not be written.

    `name` is the location in messages. `allowed` are pairs of a kind of folder and a name in it.
    """
    found = find_owned_folder(location)
    if found and (found.kind, found.name) not in allowed:
        raise _refusal(name, found)


def refuse_for_file(path: str | Path, flag: str, planned: str | None = None, is_report: bool = False) -> None:
    """Raise `UsageError` if the file to be written, which `flag` named, would be among those of results or artefacts.

    In a sweep's own folder, files with other names are allowed; with `is_report`, so is the name of its report.
    `planned` is where this command's results will be.
    """
    if "://" in str(path):
        raise UsageError(f"{flag} {redact(str(path))} is a URI: give the name of a local file")
    found = find_owned_folder(open_store(path), open_store(planned) if planned else None)
    taken = ("", MANIFEST, LEASE, *TABLE_FOLDERS, *(() if is_report else (REPORT,)))
    if found and (found.kind is OwnedFolderKind.LEARNED or found.name.partition("/")[0] in taken):
        raise _refusal(f"{flag} {path}", found)


def _refusal(name: str, found: OwnedFolder) -> UsageError:
    return UsageError(f"{name} is inside {found.kind.value}: choose another place, outside of {found.root}")


def _followed(store: Store) -> Store:
    """Return the same location by its canonical path: without links, `..` and trailing slashes."""
    root = os.path.realpath(store.root) if store.is_local else posixpath.normpath(store.root)
    return replace(store, root=root)


def _upwards(store: Store) -> Iterator[tuple[Store, str]]:
    """Yield the location itself and the folders above it, each with the location's name relative to it."""
    path = PurePosixPath(store.root)
    for folder in (path, *path.parents):
        if str(folder) != ".":
            yield replace(store, root=str(folder)), "" if folder == path else str(path.relative_to(folder))


def _holds_results(folder: Store) -> bool:
    try:
        has = _there(folder, [MANIFEST, *TABLE_FOLDERS])
        is_sweep = MANIFEST in has and _is_manifest(folder.read(MANIFEST) or b"")
        return is_sweep or any(list_folder(folder, name) for name in TABLE_FOLDERS if name in has)
    except (OSError, pa.ArrowException):
        return False


def _is_manifest(content: bytes) -> bool:
    try:
        decode_manifest(content)
    except ValueError as error:
        return isinstance(error, UnsupportedFormatError)
    return True


def _holds_learned(folder: Store) -> bool:
    """Return True for an artefact's folder, and False for one with a foreign card.json."""
    try:
        has = _there(folder, [STATE, CARD, WEIGHTS])
        return STATE in has or (CARD in has and (len(has) > 1 or is_of_training(folder.read(CARD) or b"")))
    except (OSError, pa.ArrowException):
        return False


def _there(folder: Store, names: list[str]) -> list[str]:
    """Return the names that exist, found by one call, since object stores answer a single call at once."""
    infos = folder.filesystem.get_file_info([folder.path(name) for name in names])
    return [name for name, info in zip(names, infos, strict=True) if info.type != fs.FileType.NotFound]
