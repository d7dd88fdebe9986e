"""Copying a sweep into fewer, larger Parquet files."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, suppress

import pyarrow as pa
import pyarrow.parquet as pq

from eexit.errors import UsageError
from eexit.results.files import list_files, read_generations, read_tokens, without
from eexit.results.layout import FOLDERS, MANIFEST, generations_name
from eexit.results.store.finished_sweep import manifest_of
from eexit.results.store.folder import Store
from eexit.results.store.lease import hold
from eexit.results.store.writing_shards import name_of, publish_shard, sound
from eexit.results.study_tables import STUDY_TABLES
from eexit.results.whereabouts import refuse_around, refuse_inside


def compact(store: Store, target: Store, rows_per_file: int) -> tuple[int, int]:
    """Copy the sweep in `store` to `target`, in files of at least `rows_per_file` runs; returns how many
    files each has. Further tables, such as timings, are copied as they are.

    Nothing in `store` is changed. `sweep.json` is written last: a copy that has one is complete. If anything is raised,
    what was written is removed again. Raises `UsageError` if `store` holds no sweep, has damaged files or is in use,
    and if `target` holds results already, is inside of any, or around them.
    """
    manifest_of(store, store.root)  # refuses what is no sweep's
    if target.has(MANIFEST) or list_files(target).shards:
        raise UsageError(f"--into {target.root} holds results: choose another place")
    refuse_inside(target, f"--into {target.root}")
    refuse_around(target, f"--into {target.root}", store)
    with hold(store), ExitStack() as on_errors:

        def publish(name: str, content: bytes | pa.Buffer) -> None:
            on_errors.callback(_remove, target, name)
            target.publish(name, content)

        found = sound(store)
        stems = list_files(store).stems
        for folder in ("", *(table.name for table in STUDY_TABLES), *FOLDERS):
            on_errors.callback(target.remove_if_empty, folder)
        for name in (name for table in STUDY_TABLES for name in table.files(store)):
            publish(name, store.read(name) or b"")
        groups = _groups(store, stems, rows_per_file)
        n_files = sum(_merge(store, publish, group, found.superseded) for group in groups)
        publish(MANIFEST, store.read(MANIFEST) or b"")
        on_errors.pop_all()
    return len(stems), n_files


def _remove(target: Store, name: str) -> None:
    with suppress(OSError, pa.ArrowException):
        target.remove(name)


def _groups(store: Store, stems: list[str], rows_per_file: int) -> Iterator[list[str]]:
    group: list[str] = []
    rows = 0
    for stem in stems:
        with store.filesystem.open_input_file(store.path(generations_name(stem))) as file:
            rows += pq.ParquetFile(file).metadata.num_rows
        group.append(stem)
        if rows >= rows_per_file:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _merge(
    source: Store, publish: Callable[[str, bytes], None], stems: list[str], superseded: Mapping[str, Collection[str]]
) -> int:
    """Merge these shards into one, without superseded rows, and land it in the copy; returns the number of files."""
    shards = [read_generations(source, stem) for stem in stems]
    dropped = [superseded.get(stem, ()) for stem in stems]
    # Shards that different versions wrote may have different columns.
    generations = pa.concat_tables(map(without, (s.rows for s in shards), dropped), promote_options="default")
    if not generations.num_rows:
        return 0
    name = name_of(stems) if len(stems) > 1 else stems[0]
    tokens = pa.concat_tables(
        map(without, (read_tokens(source, shard) for shard in shards), dropped), promote_options="default"
    )
    publish_shard(publish, name, generations, tokens, max(shard.attempt for shard in shards))
    return 1
