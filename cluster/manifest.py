"""`sweep.json`: what the results beside it are results of."""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cluster.landing import GENERATIONS_FOLDER, TOKENS_FOLDER
from cluster.store import Store
from eexit.config import SweepConfig, UsageError
from eexit.plan import count_runs

NAME = "sweep.json"
FORMAT = 2
PACKAGES = ("eexit", "torch", "transformers", "ray", "pyarrow")


@dataclass(frozen=True)
class Manifest:
    """A sweep's configuration, the model it found, and the layers it may exit at."""

    config: Mapping[str, Any]
    model: Mapping[str, Any]
    exitable_layers: Sequence[int]
    n_runs: int


def make_manifest(config: SweepConfig, model: Mapping[str, Any], exitable_layers: Sequence[int]) -> Manifest:
    """`model` has the fields of an `eexit.models.ModelDescription`."""
    return Manifest(config.model_dump(mode="json"), model, list(exitable_layers), count_runs(config))


def read_manifest(store: Store) -> Manifest | None:
    """What the results in `store` are of, or None if there are none. Raises `UsageError` if that can't be told."""
    if not (store.names(GENERATIONS_FOLDER) or store.names(TOKENS_FOLDER)):
        return None  # a sweep that left no results, say of a model that couldn't be loaded, binds nobody
    content = store.read(NAME)
    if content is None:
        raise UsageError(f"--out {store.root} holds results but no {NAME}: choose another --out, or remove them")
    try:
        held = json.loads(content)
        if held["format"] != FORMAT:
            raise UsageError(
                f"{store.root} holds results of format {held['format']}, and this version goes on with format {FORMAT} "
                f"only: choose another --out"
            )
        return Manifest(held["config"], held["model"], held["exitable_layers"], held["n_runs"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{store.root}/{NAME} is no sweep's ({error!r}): choose another --out, or remove it"
        ) from error


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Write it in one step, with the versions at hand and the time. Raises `OSError`."""
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    started = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"format": FORMAT, **asdict(manifest), "versions": versions, "started": started}
    store.publish(NAME, json.dumps(content, indent=1, ensure_ascii=False).encode())


@contextmanager
def written(store: Store, manifest: Manifest) -> Iterator[None]:
    """Have `manifest` beside the results from the start, as actors expect it. Where none came of it, it goes again.

    Raises `OSError`.
    """
    if read_manifest(store) is not None:
        yield
        return
    write_manifest(store, manifest)
    try:
        yield
    finally:
        if not (store.names(GENERATIONS_FOLDER) or store.names(TOKENS_FOLDER)):
            store.remove(NAME)
            for folder in (GENERATIONS_FOLDER, TOKENS_FOLDER):
                store.remove_if_empty(folder)


def refuse_other_config(store: Store, held: Manifest, config: SweepConfig) -> None:
    """Raises `UsageError` if the sweep in `store` has another configuration; needs no model."""
    _refuse(store, first_difference(held.config, config.model_dump(mode="json")))


def refuse_other_model(store: Store, held: Manifest, manifest: Manifest) -> None:
    """Raises `UsageError` if the sweep in `store` was made with another model, or exits elsewhere in it."""
    parts = held.model.get("parts") or {}
    changed = [
        name for name, its in (manifest.model.get("parts") or {}).items() if name in parts and parts[name] != its
    ]
    if changed:
        raise UsageError(
            f"--out {store.root} holds results of this model folder before its {' and its '.join(changed)} changed: "
            "put that back as it was, or choose another --out"
        )
    theirs, yours = ({**m.model, "exitable_layers": list(m.exitable_layers)} for m in (held, manifest))
    _refuse(store, first_difference(theirs, yours, "model"))


def first_difference(theirs: object, yours: object, key: str = "") -> str | None:
    """`key: theirs -> yours` of the first value that differs between two JSON values, or None."""
    if isinstance(theirs, dict) and isinstance(yours, dict):
        for name in {**theirs, **yours}:
            inner = f"{key}.{name}" if key else str(name)
            if difference := first_difference(theirs.get(name), yours.get(name), inner):
                return difference
        return None
    if isinstance(theirs, list) and isinstance(yours, list) and len(theirs) == len(yours):
        for index, (their, your) in enumerate(zip(theirs, yours, strict=True)):
            if difference := first_difference(their, your, f"{key}[{index}]"):
                return difference
        return None
    return None if theirs == yours else f"{key}: {_short(theirs)} -> {_short(yours)}"


def _version(package: str) -> str | None:
    """None where the source runs uninstalled, as it does in a job that ships it as its working directory."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _refuse(store: Store, difference: str | None) -> None:
    if difference:
        raise UsageError(
            f"--out {store.root} holds another sweep ({difference}): choose another --out, or remove that folder"
        )


def _short(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} entries"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
