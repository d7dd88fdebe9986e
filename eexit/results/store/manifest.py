"""Writing, reading and comparing `sweep.json`, the manifest of a sweep's results."""

import json
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from eexit.errors import UsageError
from eexit.method.custom_manifest import custom_entries, descriptions_of, refuse_changed
from eexit.output.text import truncate_lines
from eexit.plan.artefact_check import cards_of
from eexit.plan.configuration import is_earlier
from eexit.plan.runs import configurations, count_runs, plan_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.checksums import custom_of
from eexit.results.layout import MANIFEST, Manifest, UnsupportedFormatError, decode_manifest
from eexit.results.parquet_files import DamagedError, list_files, read_shards
from eexit.results.store.folder import Store

PACKAGES = ("eexit", "torch", "transformers", "ray", "pyarrow")
_SHOWN = ("configuration", "prompt_id", "seed", "mode", "rule")  # columns
_MOST_NAMED = 3


class MissingManifestError(UsageError):
    """Missing or damaged manifest of existing results; the message states which."""


def make_manifest(
    config: SweepConfig, model: Mapping[str, Any], exitable_layers: Sequence[int], dtype_asked: str | None = None
) -> Manifest:
    """Return the manifest of a sweep that starts now; `model` has the fields of a `ModelDescription`.

    `dtype_asked` is `--dtype` of the command, where `config` has the resolved dtype.
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
    """Return the manifest `held`, extended to the grid of `config`, with its original start and package versions.

    Descriptions of custom rules and modes stay, and so do configurations of redefined ones.
    """
    grown = make_manifest(config, held.model, held.exitable_layers, held.dtype_asked)
    known = {(each["kind"], each["name"]) for each in held.own}
    return replace(
        grown, started=held.started, versions=held.versions,
        own=[*held.own, *[each for each in grown.own if (each["kind"], each["name"]) not in known]],
        configurations=[*grown.configurations, *[each for each in held.configurations if is_earlier(each["key"])]],
    )  # fmt: skip


def put_manifest_back(store: Store, manifest: bytes | None, say: Callable[[str], None]) -> None:
    """Rewrite a missing manifest: without it, results can't be read, and actors refuse to load."""
    with suppress(OSError, pa.ArrowException):  # if the location can't be written to, committing raises
        if manifest and not store.has(MANIFEST):
            store.publish(MANIFEST, manifest)
            say(f"{MANIFEST} was gone and is put back")


def read_manifest(store: Store) -> Manifest | None:
    """Return the manifest of the results in `store`, or None if there are none.

    Raise `UsageError` for a `sweep.json` that is no sweep's or has another format. Raise `MissingManifestError` if
    there are results whose manifest is missing or damaged.
    """
    has_results = bool(list_files(store).shards)
    content = store.read(MANIFEST)
    if content is None:
        if has_results:
            raise MissingManifestError(f"--out {store.root} holds results but no {MANIFEST}")
        return None
    try:
        held = decode_manifest(content)
    except ValueError as error:
        if has_results and not isinstance(error, UnsupportedFormatError):
            raise MissingManifestError(f"{store.root}/{MANIFEST} is damaged, or no sweep's ({error})") from error
        raise UsageError(
            f"{store.root}/{MANIFEST} is no sweep's of this version ({error}): "
            "choose another --out, or move it elsewhere"
        ) from error
    return held if has_results else None  # without results, another sweep may replace it


def refuse_other_runs(store: Store, lost: MissingManifestError, config: SweepConfig) -> str:
    """Return a line about the manifest being rewritten, if all results without a manifest are runs of `config`.

    Raise `UsageError` if some results are other runs, or if their custom rules or modes have changed.
    """
    found = read_shards(store, list_files(store), ["run_id", *_SHOWN])
    shards = [shard for each in found if (shard := each.shard if isinstance(each, DamagedError) else each)]
    planned = {run.run_id for run in plan_runs(config)}
    rows = [row for shard in shards for row in shard.rows.select(["run_id", *_SHOWN]).to_pylist()]
    others = [row for row in rows if row["run_id"] not in planned]
    if not rows or len(others) == len(rows):
        raise UsageError(f"{lost}, and its runs are not those of this command: choose another --out")
    if others:
        raise UsageError(
            f"{lost}, and {len(others):,} of its {len(rows):,} runs are not this command's "
            f"({_what(others, rows, planned)}): give all that the sweep has grown to in one command, or choose another "
            "--out"
        )
    custom = {each.name for each in custom_entries(config.exits)}
    for shard in shards:
        described = custom_of(shard.rows)
        refuse_changed(described, f"--out {store.root}")
        names = {name for column in ("mode", "rule") for name in shard.rows[column].to_pylist()}
        if unknown := sorted(names & custom - {each["name"] for each in described}):
            raise UsageError(f"{lost}, and whether {unknown[0]} has changed is unknown: choose another --out")
    return (
        f"{lost}: it is written anew, since all {len(rows):,} committed runs are this command's; "
        "whether the model is still the same is unknown"
    )


def _what(others: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], planned: Collection[str]) -> str:
    """Return, for a message, the configurations, prompts and seeds of `others` that planned rows lack."""
    named = {"configuration": "configuration", "prompt_id": "prompt", "seed": "seed"}
    found = []
    for column, what in named.items():
        known = {row[column] for row in rows if row["run_id"] in planned}
        if more := dict.fromkeys(row[column] for row in others if row[column] not in known):
            found.append(f"{what} {', '.join(truncate_lines([*map(str, more)], most=_MOST_NAMED))}")
    return "; ".join(found) or "in other combinations"


def refuse_other_dtype(store: Store, held: str, auto: str) -> None:
    """Raise `UsageError` if `--dtype auto` resolves to another dtype than the sweep in `store` has."""
    if auto != held:
        raise UsageError(
            f"--out {store.root} holds a sweep in {held}, and --dtype auto is {auto} where it would go on: "
            f"give --dtype {held}, or choose another --out"
        )


def refuse_other_model(store: Store, held: Manifest, manifest: Manifest) -> None:
    """Raise `UsageError` if the sweep in `store` has another model or other exitable layers."""
    parts = held.model.get("parts") or {}
    changed = [
        name for name, digest in (manifest.model.get("parts") or {}).items() if name in parts and parts[name] != digest
    ]
    if changed:
        raise UsageError(
            f"--out {store.root} holds results of this model before its {' and its '.join(changed)} changed: "
            "put that back as it was, or choose another --out"
        )
    # Values of generation_config that a sweep does not apply change none of its results.
    stored, planned = (
        {**identity_of(m.model), "exitable_layers": list(m.exitable_layers), "generation_config": None}
        for m in (held, manifest)
    )
    refuse_difference(store, first_difference(stored, planned, "model"))


def identity_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's description without its shape, which follows from the rest; earlier versions recorded none."""
    return {name: value for name, value in model.items() if name != "shape"}


def refuse_difference(store: Store, difference: str | None) -> None:
    """Raise `UsageError` for a difference between the sweep in `store` and the command (see `first_difference`)."""
    if difference:
        raise UsageError(
            f"--out {store.root} holds another sweep ({difference}): choose another --out, or remove that folder"
        )


def first_difference(stored: object, planned: object, key: str = "") -> str | None:
    """Return `key: stored -> planned` for the first value that differs between two JSON values, or None."""
    if isinstance(stored, dict) and isinstance(planned, dict):
        names = {**stored, **planned}
        values = {f"{key}.{name}" if key else str(name): (stored.get(name), planned.get(name)) for name in names}
    elif isinstance(stored, list) and isinstance(planned, list) and len(stored) == len(planned):
        values = {f"{key}[{index}]": both for index, both in enumerate(zip(stored, planned, strict=True))}
    else:
        return None if stored == planned else f"{key}: {_short(stored)} -> {_short(planned)}"
    return next(filter(None, (first_difference(*both, inner) for inner, both in values.items())), None)


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of packages that results depend on, in this process."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):  # a job may ship this code
        return version(package)
    return None


def _short(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} entries"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
