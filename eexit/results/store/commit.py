"""Shards as Parquet files: committing, checking and repairing them, and removing files of killed processes.

A shard's name is a hash of its run ids, and its generations file is its commit mark. A run is committed if a
generations file has its row, and the tokens file of the same name matches that file (checked by
`eexit.results.parquet_files`). A repeated shard is committed under the same name, so that a lost acknowledgement can't
duplicate it.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eexit.method.custom_manifest import descriptions_of
from eexit.output.text import truncate_lines
from eexit.plan.runs import ERROR, OK, Run
from eexit.results.checksums import checksum_of, encode_generations, encode_tokens, with_custom
from eexit.results.layout import TOKENS_FOLDER, generations_name, tokens_name
from eexit.results.parquet_files import (
    DamagedError,
    GenerationsFile,
    check_tokens,
    list_files,
    read_generations,
    read_shards,
    read_tokens,
    superseded,
    without,
)
from eexit.results.shard_tables import ShardTables
from eexit.results.store.folder import Store

SECONDS_BEFORE_TRIES = (0.2, 1.0)  # before writing a file again


class CommitError(Exception):
    """Results can't be written: the location is at fault, not the runs."""


@dataclass(frozen=True)
class RunCounts:
    """Number of committed runs, of errors among them, and of tokens. Tallies add up; `reason` is the first error's."""

    runs: int = 0
    errors: int = 0
    tokens: int = 0
    reason: str = field(default="", compare=False)

    def __add__(self, other: "RunCounts") -> "RunCounts":
        runs, errors, tokens = self.runs + other.runs, self.errors + other.errors, self.tokens + other.tokens
        return RunCounts(runs, errors, tokens, self.reason or other.reason)


def tally_of(generations: pa.Table) -> RunCounts:
    """Return the number of runs, errors and tokens in these rows."""
    reasons = generations.filter(pc.field("status") == ERROR)["error"]
    tokens = pc.sum(generations["n_tokens"]).as_py() or 0
    return RunCounts(generations.num_rows, len(reasons), tokens, reasons[0].as_py() if len(reasons) else "")


def shard_name(runs: Sequence[Run]) -> str:
    """Return the name of the shard of these runs, in any order."""
    return name_of(run.run_id for run in runs)


def name_of(run_ids: Iterable[str]) -> str:
    """Return the name of the shard of runs with these ids, in any order."""
    return hashlib.blake2b("".join(sorted(run_ids)).encode(), digest_size=16).hexdigest()


def commit(
    store: Store,
    runs: Sequence[Run],
    results: ShardTables,
    attempt: int | None = None,
    refuse: Callable[[], None] = lambda: None,
) -> RunCounts:
    """Publish the results of `runs`, tokens before generations. If it raises `CommitError`, nothing is committed.

    `attempt` is when the runs were started, in ns since 1970; of two results of a run, that of the later attempt
    counts. `refuse` is called before each file is published, and raises `CommitError` if this attempt may not commit.
    Raise `ValueError` for results that lack a run's row or disagree with their tokens.
    """
    got = sorted(results.generations["run_id"].to_pylist())
    if got != sorted(run.run_id for run in runs):
        raise ValueError(f"the generator was given {len(runs)} runs and returned {len(got)} rows, not one for each")
    tally = tally_of(results.generations)
    if tally.tokens != results.tokens.num_rows:
        raise ValueError(f"the generator returned {results.tokens.num_rows} tokens where its runs have {tally.tokens}")

    def publish(name: str, content: bytes) -> None:
        """Write a file, retrying after brief failures of a shared disk. Clients of object stores retry themselves."""
        for wait in (*(SECONDS_BEFORE_TRIES if store.is_local else ()), None):
            refuse()
            try:
                store.publish(name, content)
                return
            except (OSError, pa.ArrowException) as error:
                if wait is None:
                    raise CommitError(f"{store.root} can't be written to: {error}") from error
                time.sleep(wait)

    exits: set[Any] = {run.configuration.columns[kind] for run in runs for kind in ("mode", "rule")}
    rows = with_custom(results.generations, descriptions_of(exits))
    publish_shard(publish, shard_name(runs), rows, results.tokens, attempt or time.time_ns())
    return tally


def publish_shard(
    publish: Callable[[str, bytes], None], name: str, generations: pa.Table, tokens: pa.Table, attempt: int
) -> None:
    """Publish the two files of a shard, its commit mark last."""
    content = encode_tokens(tokens)
    sealed = encode_generations(generations, checksum_of(content), attempt)
    publish(tokens_name(name), content)
    publish(generations_name(name), sealed)


def committed_tally(store: Store, runs: Sequence[Run]) -> RunCounts | None:
    """Return the tally of the shard with exactly these runs, or None if it is not committed undamaged."""
    name = shard_name(runs)
    try:
        shard = read_generations(store, name, ["status", "error", "n_tokens"])
        check_tokens(store, shard, store.filesystem.get_file_info(store.path(tokens_name(name))))
    except DamagedError:
        return None
    return tally_of(shard.rows)


@dataclass(frozen=True)
class StoreInventory:
    """Contents and damages of a store. Shards are given by name."""

    done: set[str]  # ids of successful runs
    n_errors: int  # runs with nothing but errors
    with_errors: list[str]  # shards with error rows
    damaged: dict[str, str]  # shard → reason; its runs are not committed
    superseded: dict[str, set[str]]  # shard → ids of its runs that count in another shard
    foreign: list[str]  # files in the data folders that no sweep wrote


def survey(store: Store, planned: Collection[str] | None = None) -> StoreInventory:
    """Check all committed shards, without changing anything. Only `planned` run ids count as done (None: all)."""
    listing = list_files(store)
    done: set[str] = set()
    errors: set[str] = set()
    shards: list[GenerationsFile] = []
    with_errors, damaged = [], {}
    for stem, shard in zip(listing.stems, read_shards(store, listing, ["run_id", "status"]), strict=True):
        if isinstance(shard, DamagedError):
            damaged[stem] = str(shard)
            continue
        shards.append(shard)
        is_ok = pc.equal(shard.rows["status"], OK)
        done.update(shard.rows.filter(is_ok)["run_id"].to_pylist())
        failed = shard.rows.filter(pc.invert(is_ok))["run_id"].to_pylist()
        errors.update(failed)
        if failed:
            with_errors.append(stem)
    if planned is not None:
        done, errors = done & {*planned}, errors & {*planned}
    return StoreInventory(done, len(errors - done), with_errors, damaged, superseded(shards), listing.foreign)


def repair_store(store: Store, planned: Collection[str] | None = None) -> tuple[StoreInventory, list[str]]:
    """Repair the store; return its undamaged content, and a message for each repair. The caller must hold the lease.

    A damaged shard is moved to the folder `damaged`, so that its runs are repeated. If a run is committed twice, the
    row that does not count is removed. Foreign files are named in a message and stay. `planned` is as in `survey`.
    """
    found = survey(store, planned)
    lines = []
    for stem, reason in found.damaged.items():
        # The commit mark goes first, so that a kill in between orphans only a tokens file.
        aside = store.set_aside(generations_name(stem), tokens_name(stem))
        lines.append(f"{reason}: its runs are done again; what is left of it is in {aside}")
    for stem, run_ids in found.superseded.items():
        n_left = drop_runs(store, stem, run_ids)
        what = f"{len(run_ids)} of its runs were" if n_left else "all of its runs were"
        lines.append(f"{store.path(generations_name(stem))}: {what} there twice; the later attempt's rows stay")
    lines += [f"{store.path(name)} is not one of the sweep's files, and is left alone" for name in found.foreign]
    return survey(store, planned) if found.damaged or found.superseded else found, truncate_lines(lines)


def drop_runs(store: Store, stem: str, run_ids: Collection[str]) -> int:
    """Remove these runs from a shard, committing the rest as a new shard first; return how many runs remain."""
    shard = read_generations(store, stem)
    kept = without(shard.rows, run_ids)
    n_left: int = kept.num_rows
    if n_left:
        name = name_of(kept["run_id"].to_pylist())
        publish_shard(store.publish, name, kept, without(read_tokens(store, shard), run_ids), shard.attempt)
    remove_shard(store, stem)
    return n_left


def clear_debris(store: Store, runs: Sequence[Run] | None = None) -> int:
    """Remove temporary files, and tokens without generations, of the shard of `runs` or of all; return their number."""
    only = "" if runs is None else shard_name(runs)
    listing = list_files(store)
    kept = {tokens_name(stem) for stem in listing.stems}
    orphans = [name for name in listing.shards if name.startswith(TOKENS_FOLDER) and name not in kept]
    debris = [name for name in (*listing.temporary, *orphans) if only in name]
    for name in debris:
        store.remove(name)
    return len(debris)


def remove_errors(store: Store, with_errors: Sequence[str]) -> int:
    """Remove the error rows from these shards, so that their runs are repeated; return how many there were."""
    removed = 0
    for stem in with_errors:
        shard = read_generations(store, stem)
        kept = shard.rows.filter(pc.not_equal(shard.rows["status"], ERROR))
        removed += shard.rows.num_rows - kept.num_rows
        if kept.num_rows:  # an error row has no tokens: their file stays as it is
            store.publish(generations_name(stem), encode_generations(kept, shard.tokens, shard.attempt))
        else:
            remove_shard(store, stem)
    return removed


def remove_shard(store: Store, stem: str) -> None:
    """Remove a shard, its commit mark first, so that a kill in between orphans only a tokens file."""
    store.remove(generations_name(stem))
    store.remove(tokens_name(stem))
