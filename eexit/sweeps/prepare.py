"""Preparation of a sweep, here or on a cluster: check its location, write its manifest, find its remaining runs."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from eexit.errors import SweepStopped, UsageError
from eexit.output.locations import redact
from eexit.output.progress import Display
from eexit.output.text import pluralize, truncate_lines, unapplied_sentence
from eexit.plan.configuration import EARLIER_MARK, is_earlier
from eexit.plan.runs import count_runs, plan_runs, same_in_several_modes
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import (
    REPORT,
    REPORT_HEAD_BYTES,
    SIDE_FILES,
    Manifest,
    is_report,
    is_side_file,
    side_folder_name,
)
from eexit.results.owned_folders import FOR_RESULTS, refuse_inside
from eexit.results.parquet_files import list_files
from eexit.results.store.commit import RunCounts, StoreInventory, clear_debris, remove_errors, repair_store
from eexit.results.store.extend import (
    extended_config,
    growth,
    manifest_written,
    refuse_missing,
    stored_config,
    with_earlier_texts,
)
from eexit.results.store.folder import Store, open_store
from eexit.results.store.lease import Lease, hold
from eexit.results.store.manifest import (
    MissingManifestError,
    make_manifest,
    read_manifest,
    refuse_other_model,
    refuse_other_runs,
    with_grid,
)
from eexit.sweeps.summary.sweep_summary import SweepSummary


@dataclass(frozen=True)
class PendingSweep:
    """Remaining part of a sweep, for the holder of the lease. `config` has the resolved dtype."""

    config: SweepConfig
    store: Store
    lease: Lease
    found: StoreInventory  # committed shards


def read_held(store: Store, config: SweepConfig, out: str, say: Callable[[str], None]) -> Manifest | None:
    """Return the manifest in `store`, extended by `config`; None if the sweep starts there.

    Messages call the store `out`; `say` receives a line about the extension. A lost manifest of this sweep's runs gives
    None too, after a message. A probe file is written and removed. Raise `UsageError` if this sweep, or any, can't be
    written there.
    """
    if not store.is_local:
        store.probe()  # first, since any other access to an unreachable location waits for a minute
    refuse_inside(store, f"--out {redact(out)}", *FOR_RESULTS)
    if store.is_local:
        store.probe()
    _refuse_foreign(store)
    try:
        held = read_manifest(store)
    except MissingManifestError as lost:
        print(refuse_other_runs(store, lost, config), file=sys.stderr)
        return None
    if not held:
        return None
    present = with_earlier_texts(store, held, config, config.exits)
    for name in {each["name"] for each in present.own} - {each["name"] for each in held.own}:
        if is_earlier(name):
            say(f"{name.partition(EARLIER_MARK)[0]} was redefined: its results in {redact(out)} stay, as {name}")
    whole = extended_config(store, present, config)
    refuse_missing(store, present, whole)
    if by := growth(stored_config(store, present), whole):
        say(f"{redact(out)} grows by {by}")
    return with_grid(present, whole)


def manifest_for(
    store: Store,
    held: Manifest | None,
    config: SweepConfig,
    model: Mapping[str, Any],
    exitable_layers: Sequence[int],
    dtype: str,
) -> Manifest:
    """Return the manifest of a sweep in `dtype`, the resolved dtype of `config`, with the grid of `held` if any.

    Raise `UsageError` if `held` is of another model.
    """
    fixed = (stored_config(store, held) if held else config).model_copy(update={"dtype": dtype})
    manifest = make_manifest(fixed, {**model, "dtype": dtype}, exitable_layers, config.dtype)
    if held:
        refuse_other_model(store, held, manifest)
    return manifest


def run_pending(
    manifest: Manifest, location: str, out: str, display: Display, do: Callable[[PendingSweep], RunCounts]
) -> SweepSummary:
    """Run the part of a sweep that is not yet committed in `location`, while holding its lease.

    Args:
        manifest: The sweep's manifest, with the dtype of all runs.
        out: The location's name in messages.
        do: Function that commits all runs of a `PendingSweep`.

    Raises:
        UsageError: If the sweep can't be run there.
        SweepStopped: If all further runs would fail.
    """
    store = open_store(location)
    with hold(store) as lease, manifest_written(store, manifest) as config:
        n_planned = count_runs(config)
        # Runs of redefined rules stay, and are in no plan.
        planned = {run.run_id for run in plan_runs(config)} if config.shown_names else None
        found, said = _look_through(store, [], planned)
        tally = RunCounts()
        if len(found.done) == n_planned:
            display.say(f"nothing is left to do: {pluralize(n_planned, 'run')} committed in {redact(out)}")
        else:
            if line := _same_texts(config):
                display.say(line)
            if unapplied := _unapplied(manifest, config):
                display.say(unapplied_sentence(unapplied, "a sweep"))
            tally = do(PendingSweep(config, store, lease, found))
            found, _ = _look_through(store, said, planned)
    missing = n_planned - len(found.done) - found.n_errors
    if missing:
        raise SweepStopped(f"{missing:,} committed runs are damaged or gone")
    return SweepSummary(config, location, manifest.model, manifest.dtype_asked, len(found.done), found.n_errors, tally)


def _same_texts(config: SweepConfig) -> str:
    alike = [f"{rule} in {', '.join(modes)}" for rule, modes in same_in_several_modes(config).items()]
    named = "; ".join(truncate_lines(alike, 3))
    return named and f"all tokens exit at one layer, so that these have the same texts, decoded once: {named}"


def _unapplied(manifest: Manifest, config: SweepConfig) -> dict[str, Any]:
    applied = {"do_sample": config.temperature > 0, "temperature": config.temperature, "top_p": config.top_p}
    values: Mapping[str, Any] = manifest.model.get("generation_config") or {}
    return {name: value for name, value in values.items() if name not in applied or applied[name] != value}


def prepare_store(left: PendingSweep, out: str, display: Display) -> int:
    """Remove debris and error rows, whose runs are retried; report and return the number of committed runs."""
    clear_debris(left.store)
    retried, n_done = remove_errors(left.store, left.found.with_errors), len(left.found.done)
    if n_done or retried:
        n_planned = count_runs(left.config)
        display.say(f"{n_done:,} of {n_planned:,} runs are in {redact(out)}; {pluralize(retried, 'error')} tried again")
    return n_done


def _refuse_foreign(store: Store) -> None:
    """Raise `UsageError` for a foreign file in place of a sweep's file: it would be replaced, or prevent all reading.

    `pd.read_parquet` reads every file in a table's folder.
    """
    if foreign := list_files(store).foreign:
        raise UsageError(
            f"{store.path(foreign[0])} is not one of the sweep's files, and tables can't be read with it: choose "
            "another --out, or move it elsewhere"
        )
    beside = [name for name in store.names(side_folder_name(REPORT)) if PurePosixPath(name).match(SIDE_FILES)]
    for name, is_ours in ((REPORT, is_report), *((name, is_side_file) for name in beside)):
        head = store.read(name, REPORT_HEAD_BYTES)
        if head is not None and not is_ours(head):
            raise UsageError(f"{store.path(name)} is not a report's file: choose another --out, or move it elsewhere")


def _look_through(
    store: Store, said: Sequence[str], planned: Collection[str] | None
) -> tuple[StoreInventory, Sequence[str]]:
    """Repair the store, and print messages that are not in `said`; return the undamaged content and all messages."""
    found, lines = repair_store(store, planned)
    for line in lines:
        if line not in said:
            print(line, file=sys.stderr)
    return found, lines
