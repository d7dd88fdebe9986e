"""Exporting a sweep as teacher data: `export`, which `jobs/files/export.py` uses. Needs no Ray.

The sweep is read shard by shard, and a shard some thousand tokens at a time, so that memory does not grow with it.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from eexit.errors import UsageError
from eexit.output.locations import shown
from eexit.output.progress import Display, Progress
from eexit.output.text import counted
from eexit.plan.runs import OK
from eexit.results.files import DamagedError, list_files, read_generations, without
from eexit.results.landed import read_columns, tokens_of
from eexit.results.layout import tokens_name
from eexit.results.store.finished_sweep import manifest_of, refuse_unknown
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import versions
from eexit.results.store.writing_shards import Survey, sound
from eexit.results.whereabouts import refuse_inside
from eexit.studies.export.conversations import (
    NEEDED_OF_RUNS,
    NEEDED_OF_TOKENS,
    Surroundings,
    conversations,
    surroundings,
)
from eexit.studies.export.dataset_card import CARD, Account, Making, dataset_card

ROW_GROUP_BYTES = 32 << 20  # in memory, about: what a reader that streams holds
FILE_BYTES = 128 << 20  # in memory, about, of a data file, which is compressed


def export(
    results: str, out: str, keys: Sequence[str], kl_factors: Sequence[float], command: str, display: Display
) -> Account:
    """Write the runs of these configurations that have landed in the sweep `results` to the empty location `out`.

    `command` is what the card says it was made by. The card is written last: data without one are incomplete. If
    anything is raised, what was written is removed again. Raises `UsageError` for what can't be exported.
    """
    store, target = open_store(results), open_store(out)
    manifest = manifest_of(store, shown(results))
    told = surroundings(manifest, kl_factors)
    refuse_unknown(keys, [each["key"] for each in manifest.configurations], shown(results))
    _refuse_taken(target, shown(out))
    display.say(f"checking the files of {shown(results)}")
    found = sound(store)
    n_planned = len(manifest.config["prompts"]) * len(manifest.config["seeds"]) * len(keys)
    n_done, n_failed = _count(store, keys, shown(results))
    if n_missing := n_planned - n_done - n_failed:
        display.say(f"{n_missing:,} of {counted(n_planned, 'run')} did not land yet: what is there is exported")
    target.probe()
    files, account = _DataFiles(target), Account(told.kl_factors)
    try:
        with display:
            for table in _conversations(store, found, set(keys), told):
                files.add(table)
                account.add(table)
                done = account.runs.total()
                doing = f"{done:,}/{n_done:,} conversations"
                display.show(Progress(doing, account.n_tokens, done / n_done), last=done == n_done)
        files.publish()
        made = datetime.now(UTC).isoformat(timespec="seconds")
        making = Making(shown(results), command, made, versions(), n_failed, n_missing)
        target.publish(CARD, dataset_card(manifest, account, making).encode())
    except BaseException:
        files.remove()
        raise
    account.files = files.names
    return account


def _refuse_taken(target: Store, out: str) -> None:
    """Raises `UsageError` if `target` is in a folder of ours, or holds anything but hidden files, such as git's."""
    refuse_inside(target, f"--out {out}")
    if target.filesystem.get_file_info(target.root).type == fs.FileType.File:
        raise UsageError(f"--out {out} is a file: give a folder")
    infos = target.filesystem.get_file_info(fs.FileSelector(target.root, allow_not_found=True))
    held = sorted(info.base_name for info in infos if not info.base_name.startswith("."))
    if held:
        raise UsageError(
            f"--out {out} holds {held[0]}, and nothing there is replaced: choose another place, or empty it"
        )


def _count(store: Store, keys: Sequence[str], name: str) -> tuple[int, int]:
    """How many runs of these configurations have landed without an error, and as errors only.

    Raises `UsageError` if none has landed without an error.
    """
    runs = read_columns(store, ["run_id", "status", "configuration"])
    runs = runs.filter(pc.is_in(runs["configuration"], pa.array(keys)))
    n_done = pc.count_distinct(runs.filter(pc.equal(runs["status"], OK))["run_id"]).as_py()
    if not n_done:
        raise UsageError(f"{name} has no run of {', '.join(keys)} without an error: there is nothing to export")
    return n_done, pc.count_distinct(runs["run_id"]).as_py() - n_done


def _conversations(store: Store, found: Survey, keys: set[str], told: Surroundings) -> Iterator[pa.Table]:
    """The conversations of all undamaged shards, from tables of some thousand tokens, each run once."""
    for stem in list_files(store).stems:
        shard = read_generations(store, stem, NEEDED_OF_RUNS)
        runs = without(shard.rows, found.superseded.get(stem, ()))
        chosen = pc.and_(pc.equal(runs["status"], OK), pc.is_in(runs["configuration"], pa.array(sorted(keys))))
        runs = runs.filter(chosen)
        if not runs.num_rows:
            continue
        n_runs = 0
        try:
            for table in (
                conversations(runs, whole, told) for whole in tokens_of(store, shard, runs, NEEDED_OF_TOKENS)
            ):
                n_runs += len(table)
                yield table
            if n_runs != len(runs):
                raise ValueError(f"it has tokens of {n_runs:,} of {counted(len(runs), 'run')}")
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise DamagedError(f"{store.path(tokens_name(stem))} is damaged ({error})") from error


@dataclass
class _DataFiles:
    """Data files of bounded size; tables are kept in memory until they fill one."""

    target: Store
    names: list[str] = field(default_factory=list)
    pending: list[pa.Table] = field(default_factory=list)

    def add(self, table: pa.Table) -> None:
        self.pending.append(table)
        if sum(each.nbytes for each in self.pending) >= FILE_BYTES:
            self.publish()

    def publish(self) -> None:
        """Publish all that was added since the last file."""
        if not self.pending:
            return
        table, sink = pa.concat_tables(self.pending), pa.BufferOutputStream()
        rows = max(1, len(table) * ROW_GROUP_BYTES // table.nbytes)
        pq.write_table(table, sink, row_group_size=rows, compression="zstd", write_page_checksum=True)
        self.names.append(f"train-{len(self.names):05}.parquet")
        self.target.publish(self.names[-1], sink.getvalue())
        self.pending.clear()

    def remove(self) -> None:
        """Remove all files that were published, and the folder if it is empty then."""
        for name in (CARD, *self.names):
            with suppress(OSError, pa.ArrowException):
                self.target.remove(name)
        self.target.remove_if_empty()
