"""Repairing damaged results before a sweep goes on, and reporting what was repaired.

A damaged shard is moved to the folder `damaged`, so that its runs are done again. If a run is there twice, the row that
does not count is removed; so is a copy of a shard's file under another name. Nothing else is touched: files that no
sweep wrote are named and left alone.
"""

from collections.abc import Collection

from pyarrow import fs

from eexit.output.text import some
from eexit.results.files import digest_of_file, list_files, read_generations, read_tokens, without
from eexit.results.layout import generations_name, tokens_name
from eexit.results.seals import digest_of, encode_generations, encode_tokens
from eexit.results.store.folder import Store
from eexit.results.store.landing import Survey, name_of, remove_shard, survey


def take_stock(store: Store) -> tuple[Survey, list[str]]:
    """What has landed undamaged, and a message for each repair. The lease must be held."""
    found = survey(store)
    lines = []
    for stem, reason in found.damaged.items():
        # The commit mark goes first: what a kill in between leaves is debris.
        aside = store.set_aside(generations_name(stem), tokens_name(stem))
        lines.append(f"{reason}: its runs are done again; what is left of it is in {aside}")
    for stem, run_ids in found.superseded.items():
        n_left = _drop(store, stem, run_ids)
        what = f"{len(run_ids)} of its runs were" if n_left else "all of its runs were"
        lines.append(f"{store.path(generations_name(stem))}: {what} there twice; the later attempt's rows stay")
    copies = _copies(store, found.foreign)
    for name, original in copies.items():
        store.remove(name)
        lines.append(f"{store.path(name)} was a copy of {original} and is removed")
    foreign = [name for name in found.foreign if name not in copies]
    lines += [f"{store.path(name)} is not one of the sweep's files, and is left alone" for name in foreign]
    return survey(store) if found.damaged or found.superseded or copies else found, some(lines)


def _drop(store: Store, stem: str, run_ids: Collection[str]) -> int:
    """Remove these runs from a shard; returns how many are left, which land as a new shard before the old one goes."""
    shard = read_generations(store, stem)
    kept = without(shard.rows, run_ids)
    if kept.num_rows:
        name, tokens = name_of(kept["run_id"].to_pylist()), encode_tokens(without(read_tokens(store, shard), run_ids))
        store.publish(tokens_name(name), tokens)
        store.publish(generations_name(name), encode_generations(kept, digest_of(tokens), shard.attempt))
    remove_shard(store, stem)
    n_left: int = kept.num_rows
    return n_left


def _copies(store: Store, foreign: Collection[str]) -> dict[str, str]:
    """Those of these files that are byte for byte copies of a shard's file, and which one that is."""
    copies = {}
    shards = list_files(store).shards if foreign else {}
    for name in foreign:
        info = store.filesystem.get_file_info(store.path(name))
        same_size = [shard for shard, shard_info in shards.items() if shard_info.size == info.size]
        if info.type != fs.FileType.File or not same_size:
            continue
        digest = digest_of_file(store, store.path(name))
        for shard in same_size:
            if digest_of_file(store, store.path(shard)) == digest:
                copies[name] = shard
    return copies
