"""Writing, reading and comparing `sweep.json`, the manifest of a sweep's results."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eexit.errors import UsageError
from eexit.method.descriptions import descriptions_of, own_among
from eexit.plan.artefact_fit import cards_of
from eexit.plan.config import SweepConfig
from eexit.plan.runs import configurations, count_runs, plan_runs
from eexit.results.files import DamagedError, list_files, read_shards
from eexit.results.layout import MANIFEST, Manifest, OtherFormatError, decode
from eexit.results.store.folder import Store

PACKAGES = ("eexit", "torch", "transformers", "ray", "pyarrow")


class LostManifestError(UsageError):
    """There are results, but their manifest is missing or damaged; the message says which."""


def make_manifest(
    config: SweepConfig, model: Mapping[str, Any], exitable_layers: Sequence[int], dtype_asked: str | None = None
) -> Manifest:
    """The manifest of a sweep that starts now; `model` has the fields of a `ModelDescription`.

    `dtype_asked` is that of the command, where the dtype of `config` is what it became.
    """
    return Manifest(
        config=config.model_dump(mode="json"),
        configurations=[{"key": each.key, **each.columns} for each in configurations(config)],
        model=model,
        dtype_asked=dtype_asked or config.dtype,
        exitable_layers=list(exitable_layers),
        learned={role: card.model_dump(mode="json") for role, card in cards_of(config).items()},
        own=descriptions_of(config.exits),
        n_runs=count_runs(config),
        versions=versions(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def with_grid(held: Manifest, config: SweepConfig) -> Manifest:
    """The manifest of a sweep that has grown to `config`; when it began, and with which packages, stays."""
    grown = make_manifest(config, held.model, held.exitable_layers, held.dtype_asked)
    return replace(grown, started=held.started, versions=held.versions)


def read_manifest(store: Store) -> Manifest | None:
    """The manifest of the results in `store`, or None if there are none.

    Raises `UsageError` for a `sweep.json` that no sweep wrote or that has another format, and `LostManifestError` if
    there are results whose manifest is missing or damaged.
    """
    has_results = bool(list_files(store).shards)
    content = store.read(MANIFEST)
    if content is None:
        if has_results:
            raise LostManifestError(f"--out {store.root} holds results but no {MANIFEST}")
        return None
    try:
        held = decode(content)
    except ValueError as error:
        if has_results and not isinstance(error, OtherFormatError):
            raise LostManifestError(f"{store.root}/{MANIFEST} is damaged, or no sweep's ({error})") from error
        raise UsageError(
            f"{store.root}/{MANIFEST} is no sweep's of this version ({error}): "
            "choose another --out, or move it elsewhere"
        ) from error
    return held if has_results else None  # without results, another sweep may replace it


def refuse_other_runs(store: Store, lost: LostManifestError, config: SweepConfig) -> str:
    """Raises `UsageError` unless all results without a manifest are runs of `config`; returns a line to show."""
    found = read_shards(store, list_files(store), ["run_id"])
    shards = [it.shard if isinstance(it, DamagedError) else it for it in found]
    landed = {run_id for shard in shards if shard for run_id in shard.rows["run_id"].to_pylist()}
    if own := own_among(config.exits):
        raise UsageError(f"{lost}, and whether {own[0].name} is what it was can't be told: choose another --out")
    if not landed or not landed <= {run.run_id for run in plan_runs(config)}:
        raise UsageError(f"{lost}, and its runs are not those of this command: choose another --out, or remove them")
    return (
        f"{lost}: it is written anew, since all {len(landed):,} runs that have landed are this command's; "
        "whether the model is still the same can't be told"
    )


def refuse_other_dtype(store: Store, held: str, auto: str) -> None:
    """Raises `UsageError` if `--dtype auto` has become another dtype than that of the sweep in `store`."""
    if auto != held:
        raise UsageError(
            f"--out {store.root} holds a sweep in {held}, and --dtype auto is {auto} where it would go on: "
            f"give --dtype {held}, or choose another --out"
        )


def refuse_other_model(store: Store, held: Manifest, manifest: Manifest) -> None:
    """Raises `UsageError` if the sweep in `store` has another model or other exitable layers."""
    parts = held.model.get("parts") or {}
    changed = [
        name for name, digest in (manifest.model.get("parts") or {}).items() if name in parts and parts[name] != digest
    ]
    if changed:
        raise UsageError(
            f"--out {store.root} holds results of this model before its {' and its '.join(changed)} changed: "
            "put that back as it was, or choose another --out"
        )
    # What a sweep doesn't apply changes none of its results.
    stored, planned = (
        {**m.model, "exitable_layers": list(m.exitable_layers), "generation_config": None} for m in (held, manifest)
    )
    refuse_difference(store, first_difference(stored, planned, "model"))


def refuse_difference(store: Store, difference: str | None) -> None:
    """Raises `UsageError` if the sweep in `store` differs from what is asked for, in what `first_difference` found."""
    if difference:
        raise UsageError(
            f"--out {store.root} holds another sweep ({difference}): choose another --out, or remove that folder"
        )


def first_difference(stored: object, planned: object, key: str = "") -> str | None:
    """`key: stored -> planned` of the first value that differs between two JSON values, or None."""
    if isinstance(stored, dict) and isinstance(planned, dict):
        for name in {**stored, **planned}:
            inner = f"{key}.{name}" if key else str(name)
            if difference := first_difference(stored.get(name), planned.get(name), inner):
                return difference
        return None
    if isinstance(stored, list) and isinstance(planned, list) and len(stored) == len(planned):
        for index, (stored_item, planned_item) in enumerate(zip(stored, planned, strict=True)):
            if difference := first_difference(stored_item, planned_item, f"{key}[{index}]"):
                return difference
        return None
    return None if stored == planned else f"{key}: {_short(stored)} -> {_short(planned)}"


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that results depend on, in this process."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    """The version of a package; None if it is not installed, as in a job that ships this code with it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _short(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} entries"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
