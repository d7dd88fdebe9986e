"""Extending a sweep: the stored grid and the requested grid become one.

A sweep's grid is prompts × configurations × seeds, and each of the three is a union. So an added threshold runs for all
prompts, and added prompts run under all configurations. Any other difference would make runs incomparable and is
refused.
"""

from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from eexit.errors import UsageError
from eexit.method.custom_manifest import custom_entries, present_source, refuse_changed
from eexit.output.text import pluralize
from eexit.plan.artefacts import OF_SOME
from eexit.plan.configuration import EARLIER_MARK, NORMAL, is_earlier, renamed_key
from eexit.plan.grid_types import STORED
from eexit.plan.runs import OK, configurations, count_runs, plan_runs
from eexit.plan.sweep_config import AUTO_DTYPE, GRID, SweepConfig
from eexit.results.committed import read_columns
from eexit.results.layout import FOLDERS, MANIFEST, Manifest, encode_manifest
from eexit.results.parquet_files import list_files
from eexit.results.shown_names import with_shown_names
from eexit.results.store.folder import Store
from eexit.results.store.manifest import (
    MissingManifestError,
    first_difference,
    read_manifest,
    refuse_difference,
    with_grid,
)

DIGITS: Final = 6  # of a text's digest, in the name of a redefined rule or mode


def extended_config(store: Store, held: Manifest, asked: SweepConfig) -> SweepConfig:
    """Return the configuration of the sweep in `store`, with manifest `held`, once it is extended by `asked`.

    It is the stored configuration if this contains all of `asked`. `refuse_other_dtype` compares `--dtype auto` later,
    once it is resolved. Raise `UsageError` for runs that can't be in one sweep.
    """
    before = with_places(stored_config(store, held), asked)
    dtype = before.dtype if asked.dtype == AUTO_DTYPE else asked.dtype
    planned = {**_alike(asked, before), "dtype": dtype}
    refuse_difference(store, first_difference(_alike(before, asked), planned))
    _refuse_other_contents(store, before, asked)
    if NORMAL in asked.modes and NORMAL not in before.modes:
        raise UsageError(
            f"--out {store.root} holds runs that were not compared with {NORMAL}, as is recorded with each: leave "
            f"{NORMAL} out of --modes, or choose another --out"
        )
    keys = tuple(dict.fromkeys(each.key for config in (before, asked) for each in configurations(config)))
    try:
        grown = {**dict(before), **_union(before, asked), "only": keys}
        both = SweepConfig.model_validate(grown, context=STORED)
    except ValidationError as error:
        problem = error.errors()[0]
        reason = problem.get("ctx", {}).get("error", problem["msg"])
        raise UsageError(f"--out {store.root} can't grow by this ({reason}): choose another --out") from error
    product = both.model_copy(update={"only": ()})
    both = product if {each.key for each in configurations(product)} == {*keys} else both
    return both if count_runs(both) > count_runs(before) else before


def with_places(stored: SweepConfig, asked: SweepConfig) -> SweepConfig:
    """Return `stored` with the artefacts at their places in `asked`, whose digests are compared instead of places."""
    return stored.model_copy(update={role: getattr(asked, role) for role in stored.digests if role in asked.digests})


def record_places(store: Store, asked: SweepConfig) -> None:
    """Record the places of artefacts in `asked` in the manifest, such as after all folders were moved."""
    held = read_manifest(store)
    stored = stored_config(store, held) if held else None
    if held and stored and (placed := with_places(stored, asked)) != stored:
        store.publish(MANIFEST, encode_manifest(with_grid(held, placed)))


def stored_config(store: Store, held: Manifest) -> SweepConfig:
    """Return the configuration in a manifest.

    Its custom rules and modes need not be given again. Raise `UsageError` if this version can't read it.
    """
    try:
        return SweepConfig.model_validate(held.config, context=STORED)
    except ValidationError as error:
        raise UsageError(f"--out {store.root} holds a sweep of another version: choose another --out") from error


def with_earlier_texts(store: Store, held: Manifest, asked: SweepConfig, names: Collection[str]) -> Manifest:
    """Return the manifest with another name for each of these custom rules and modes whose text has changed since.

    Results of the earlier text of `ratio` are shown as `ratio~ba9c4d` from then on, with digits of the text's digest.
    The grid has the present text, in the configurations that are asked for. Raise `UsageError` for a value that a
    function captures and that has changed.
    """
    own = [each for each in held.own if each["name"] in names]
    changed = {each["name"]: source for each in own if (source := present_source(each))}
    refuse_changed([each for each in own if each["name"] not in changed], f"--out {store.root}")
    if not changed:
        return held
    shown = dict(held.config.get("shown_names") or {})
    renames: dict[str, str] = {}
    for each in own:
        if source := changed.get(name := each["name"]):
            earlier, later = (f"{name}{EARLIER_MARK}{digest[:DIGITS]}" for digest in (each["digest"], source.digest))
            stored_of = {shown_as: stored for stored, shown_as in shown.items()}
            shown[stored_of.get(name, name)] = earlier
            shown[stored_of.get(later, later)] = name  # a text that was there before has a name in files already
            renames |= {name: earlier, later: name}
    committed = {*with_shown_names(read_columns(store, ["configuration"]), renames)["configuration"].to_pylist()}
    planned = [_renamed(each, renames) for each in held.configurations]
    config = {**held.config, "shown_names": shown}
    config["rules"] = {name: asked.rules.get(name) if name in changed else of for name, of in config["rules"].items()}
    config["controls"] = [each for each in config["controls"] if renamed_key(each["of"], renames) == each["of"]]
    others = [each["key"] for each in held.configurations if renamed_key(each["key"], renames) == each["key"]]
    keys = [*(key for key in others if not is_earlier(key)), *(each.key for each in configurations(asked))]
    config["only"] = [*dict.fromkeys(keys)]
    described = [{**each, "name": renames.get(each["name"], each["name"])} for each in held.own]
    refuse_changed([each for each in described if each["name"] in changed], f"--out {store.root}")
    return replace(
        held, config=config, own=described,
        configurations=[
            each for each in planned if not is_earlier(each["key"]) or each["key"] in committed
        ],
    )  # fmt: skip


def _renamed(columns: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    naming = ("key", "configuration", "mode", "rule", "control_of")
    return {
        name: renamed_key(value, names) if name in naming and value is not None else value
        for name, value in columns.items()
    }


def refuse_missing(store: Store, held: Manifest, config: SweepConfig) -> None:
    """Raise `UsageError` for a custom rule or mode of which runs remain, unless it is given again, unchanged."""
    entries = {each.name: each for each in custom_entries(config.exits)}
    described = [each for each in held.own if each["name"] in config.exits]
    lacking = {each["name"] for each in described if not entries[each["name"]].given or present_source(each)}
    if not lacking:
        return
    runs = read_columns(store, ["run_id", "status"])
    done = {*runs.filter(pc.field("status") == OK)["run_id"].to_pylist()}
    names = {
        name
        for run in plan_runs(config)
        if run.run_id not in done
        for name in (run.configuration.mode, run.configuration.columns["rule"])
    }
    refuse_changed([each for each in described if each["name"] in names & lacking], f"--out {store.root}")


def growth(before: SweepConfig, after: SweepConfig) -> str:
    """Return by what a sweep grew, such as `2 prompts and 1 seed: 36 runs more`; empty if it is the same as before."""
    sizes = (
        (len(after.prompts) - len(before.prompts), "prompt"),
        (len(configurations(after)) - len(configurations(before)), "configuration"),
        (len(after.seeds) - len(before.seeds), "seed"),
    )
    by = " and ".join(pluralize(n, what) for n, what in sizes if n)
    return f"{by}: {pluralize(count_runs(after) - count_runs(before), 'run')} more" if by else ""


@contextmanager
def manifest_written(store: Store, manifest: Manifest) -> Iterator[SweepConfig]:
    """Write the manifest, which actors need, and yield the sweep's configuration.

    The configuration joins those of `manifest` and of existing results. A damaged manifest is set aside. If no shard is
    committed, the context ends by restoring the previous manifest; without results, the manifest is removed. The caller
    must hold the lease. Raise `OSError`, or `UsageError` if another sweep has results there by now.
    """
    config = stored_config(store, manifest)
    try:
        held = read_manifest(store)
    except MissingManifestError:
        held = None
        store.set_aside(MANIFEST)
    if held:
        before = held.config.get("shown_names") or {}
        redefined = {shown for stored, shown in config.shown_names.items() if before.get(stored) != shown}
        present = with_earlier_texts(store, held, config, redefined)
        whole = extended_config(store, present, config)
        config = config if count_runs(whole) == count_runs(config) else whole
        is_same = present is held and config == stored_config(store, held)
        manifest = held if is_same else with_grid(present, config)
    there = {*list_files(store).stems}
    if manifest != held:
        store.publish(MANIFEST, encode_manifest(manifest))
    try:
        yield config
    finally:
        with suppress(OSError, pa.ArrowException, UsageError):  # a failure to undo must not hide the real error
            _undo(store, manifest, held, there)


def _undo(store: Store, manifest: Manifest, held: Manifest | None, there: Set[str]) -> None:
    """Restore the previous manifest (`held`) if no shard was added to `there`, or remove the files of a bare sweep."""
    found = list_files(store)
    if held and manifest != held and {*found.stems} <= there:
        store.publish(MANIFEST, encode_manifest(held))
    if not held and not found.shards:
        store.remove(MANIFEST)
        for folder in FOLDERS:
            store.remove_if_empty(folder)


def _refuse_other_contents(store: Store, before: SweepConfig, asked: SweepConfig) -> None:
    """Raise `UsageError` for a stored prompt with other contents, or a stored control with other exits."""
    prompts = {prompt.id: prompt for prompt in before.prompts}
    for prompt in asked.prompts:
        if (stored := prompts.get(prompt.id, prompt)) != prompt:
            raise UsageError(
                f"--out {store.root} holds another prompt {prompt.id!r} "
                f"({first_difference(asdict(stored), asdict(prompt))}): give this one another id, or choose another "
                "--out"
            )
    controls = {(control.of, control.mode): control for control in before.controls}
    for control in asked.controls:
        if controls.get((control.of, control.mode), control).counts != control.counts:
            raise UsageError(
                f"--out {store.root} holds a control of {control.of} when it exited at other layers: choose another "
                "--out"
            )


def _alike(config: SweepConfig, other: SweepConfig) -> dict[str, Any]:
    """Return the fields that must be equal: all but the grid, and artefacts that only one configuration has."""
    alike = {role: digest for role, digest in config.digests.items() if role not in OF_SOME or role in other.digests}
    return {**config.model_dump(mode="json", exclude={*GRID, *OF_SOME}), "digests": alike}


def _union(before: SweepConfig, asked: SweepConfig) -> dict[str, Any]:
    """Return the union of both configurations in each field of GRID, stored values first, and all artefacts."""
    lists = ("prompts", "modes", "draft", "seeds", "exit_sets")
    found: dict[str, Any] = {
        name: tuple(dict.fromkeys([*getattr(before, name), *getattr(asked, name)])) for name in lists
    }
    found |= {role: getattr(before, role) or getattr(asked, role) for role in OF_SOME}
    gated = [threshold for config in (before, asked) if config.gate for threshold in config.gate_thresholds]
    found["gate_thresholds"] = tuple(dict.fromkeys(gated)) or before.gate_thresholds
    controls = {(control.of, control.mode): control for config in (asked, before) for control in config.controls}
    rules: dict[str, tuple[float, ...]] = {}
    for config in (before, asked):
        for name, parameters in config.rules.items() if {*config.modes} != {NORMAL} else ():
            rules[name] = tuple(dict.fromkeys([*rules.get(name, ()), *parameters]))
    found |= {"controls": tuple(controls.values()), "digests": {**asked.digests, **before.digests}}
    found["shown_names"] = before.shown_names
    found["prompt_exits"] = before.prompt_exits or asked.prompt_exits
    return {**found, "rules": rules}
