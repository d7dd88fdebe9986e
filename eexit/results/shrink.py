"""Removing configurations from a sweep: their runs, and their place in the grid."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eexit.errors import UsageError
from eexit.output.text import pluralize, truncate_lines
from eexit.plan.artefacts import GATE, OF_SOME
from eexit.plan.configuration import configuration_of, is_earlier, mode_of
from eexit.plan.runs import used_by
from eexit.plan.sweep_config import GATE_THRESHOLDS
from eexit.results.finished_sweep import manifest_of, refuse_unknown
from eexit.results.layout import MANIFEST, encode_manifest
from eexit.results.parquet_files import DamagedError, list_files, read_shards
from eexit.results.shown_names import shown_names, with_shown_names
from eexit.results.store.commit import drop_runs
from eexit.results.store.folder import Store
from eexit.results.store.lease import hold


def remove_configurations(store: Store, name: str, keys: Sequence[str], say: Callable[[str], None]) -> None:
    """Remove these configurations and their runs, after passing `say` a line on what goes.

    Runs go first, so that an interrupted removal leaves an unfinished sweep. Custom rules and modes need not be given.
    Rows of studies stay. `name` is the folder's name in messages. Raise `UsageError` for an unknown key, for all keys,
    or for a folder in use.
    """
    with hold(store):
        held = manifest_of(store, name)
        refuse_unknown(keys, [each["key"] for each in held.configurations], name)
        kept = [each for each in held.configurations if each["key"] not in keys]
        if not keys:
            raise UsageError("configurations is empty: give the key of at least one")
        grid = [each for each in kept if not is_earlier(each["key"])]
        if not grid:
            raise UsageError(f"nothing would be left of {name}: remove that folder instead")
        going = _runs_of(store, keys)
        config, names = without_configurations(held.config, grid), shown_names(store)
        n_left = len(config["prompts"]) * len(grid) * len(config["seeds"])
        say(
            f"{name} shrinks by {pluralize(len({*keys}), 'configuration')} ({', '.join(truncate_lines([*keys]))}): "
            f"{pluralize(sum(map(len, going.values())), 'run')} removed, a grid of {pluralize(n_left, 'run')} left"
        )
        for stem, run_ids in going.items():
            drop_runs(store, stem, run_ids)
        exits = {*config["rules"], *config["modes"], *(each[kind] for each in kept for kind in ("rule", "mode"))}
        manifest = replace(
            held,
            config=config,
            configurations=kept,
            learned={role: card for role, card in held.learned.items() if config.get(role) is not None},
            own=[each for each in held.own if names.get(each["name"], each["name"]) in exits],
            n_runs=n_left,
        )
        store.publish(MANIFEST, encode_manifest(manifest))


def _runs_of(store: Store, keys: Collection[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    listing, columns, names = list_files(store), ["run_id", "configuration"], shown_names(store)
    for stem, shard in zip(listing.stems, read_shards(store, listing, columns), strict=True):
        if isinstance(shard, DamagedError):
            raise shard
        rows = with_shown_names(shard.rows.select(columns), names).to_pylist()
        ids = {row["run_id"] for row in rows if row["configuration"] in keys}
        if ids:
            found[stem] = ids
    return found


def without_configurations(config: Mapping[str, Any], kept: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a sweep's `config` in `sweep.json` whose grid is these configurations, and with the artefacts they use."""
    used = {role for each in kept for role in used_by(configuration_of(each))}
    pairs = {(each["rule"], each["parameter"]) for each in kept if each["control_of"] is None}
    copies = {(each["control_of"], each["mode"]) for each in kept}
    of_rules = {rule: [each for each in given if (rule, each) in pairs] for rule, given in config["rules"].items()}
    modes = {each["mode"] for each in kept}
    return {
        **config,
        "modes": [mode for mode in config["modes"] if mode in modes] or config["modes"][:1],
        "rules": {rule: given for rule, given in of_rules.items() if given or (rule, None) in pairs},
        "controls": [
            each for each in config["controls"] if (each["of"], each.get("in_mode") or mode_of(each["of"])) in copies
        ],
        "draft": [f"{each['draft_layer']}:{each['draft_length']}" for each in kept if each["draft_length"]],
        **{role: None for role in OF_SOME if role not in used},
        "digests": {role: digest for role, digest in config["digests"].items() if role not in OF_SOME or role in used},
        "gate_thresholds": config["gate_thresholds"] if GATE in used else [*GATE_THRESHOLDS],
        "prompt_exits": any(each.get("prompt_exits") for each in kept),
        "only": [each["key"] for each in kept],
    }
