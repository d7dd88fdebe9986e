"""A sweep grows by further runs in its folder; changes that would make its runs incomparable are refused."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from scripted import rows_of, sweep_of
from untrained import random_gate, save_gate, save_state_maps, stream_maps

from eexit.errors import UsageError
from eexit.plan.runs import configurations, plan_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import Manifest, decode_manifest
from eexit.results.store.commit import commit
from eexit.results.store.extend import extended_config, growth, manifest_written, stored_config
from eexit.results.store.folder import Store
from eexit.results.store.manifest import make_manifest, read_manifest

MODEL = {"name": "tiny", "n_layers": 30, "dtype": "float32"}
BEFORE: dict[str, Any] = {"modes": ["normal", "unfrozen"], "rules": {"confidence": [0.9]}}


def manifest_of(config: SweepConfig) -> Manifest:
    return make_manifest(config, MODEL, (5, 10, 15))


def asked(prompts: Sequence[str] = ("one", "two"), **fields: Any) -> SweepConfig:
    return sweep_of("tiny", *prompts, **{**BEFORE, **fields})


def ids_of(config: SweepConfig) -> set[str]:
    return {run.run_id for run in plan_runs(config)}


def keys_of(config: SweepConfig) -> list[str]:
    return [each.key for each in configurations(config)]


@pytest.mark.parametrize(
    ("change", "more", "told"),
    [
        ({}, [], ""),
        ({"modes": ["unfrozen"]}, [], ""),  # fewer
        ({"rules": {"confidence": [0.95, 0.9]}}, ["unfrozen/confidence/0.95"], "1 configuration: 2 runs more"),
        ({"rules": {}, "kl_factors": [1]}, ["unfrozen/kl/1"], "1 configuration: 2 runs more"),
        ({"rules": {"kl": [1], "agree": []}}, ["unfrozen/kl/1", "unfrozen/agree"], "2 configurations: 4 runs more"),
        ({"exit_sets": ["5,10"]}, ["unfrozen/confidence/0.9@5,10"], "1 configuration: 2 runs more"),
        ({"prompt_exits": True}, ["unfrozen/confidence/0.9+prompt"], "1 configuration: 2 runs more"),
        ({"draft": ["5:2"]}, ["draft/5:2"], "1 configuration: 2 runs more"),
        ({"modes": ["skip"], "rules": {"agree": []}}, ["skip/agree"], "1 configuration: 2 runs more"),  # no product
        ({"seeds": [1, 0]}, [], "1 seed: 4 runs more"),
        ({"controls": [{"of": "unfrozen/agree", "counts": {5: 1}}]}, ["unfrozen/random/agree"], "1 conf"),
        ({"prompts": ("one", "two", "three"), "rules": {"agree": []}, "seeds": [1]}, ["unfrozen/agree"],
         "1 prompt and 1 configuration and 1 seed: 14 runs more"),
    ],
)  # fmt: skip
def test_the_grid_is_the_union(store: Store, change: dict[str, Any], more: list[str], told: str) -> None:
    before = asked()
    after = extended_config(store, manifest_of(before), asked(**change))
    assert {*keys_of(after)} == {*keys_of(before), *more}
    assert growth(before, after).startswith(told)
    assert (after == before) is not bool(told)
    runs = [(run.prompt.id, run.configuration.key, run.seed) for run in plan_runs(after)]
    ids = [prompt.id for prompt in after.prompts]
    assert sorted(runs) == sorted(product(ids, keys_of(after), after.seeds)), "each once"
    assert ids_of(before) | ids_of(asked(**change)) <= ids_of(after)
    assert extended_config(store, manifest_of(after), before) == after, "what is there stays"


def test_what_was_trained_comes_with_the_configurations_that_use_it(store: Store, tmp_path: Path) -> None:
    model = {**MODEL, "digest": "ab" * 32, "revision": None}
    gate = str(save_gate(tmp_path / "gate", random_gate(["confidence/0.9"]), model))
    maps, others = (str(save_state_maps(tmp_path / f"{std}", stream_maps(std), model)) for std in (0.1, 0.2))
    no_product = extended_config(store, manifest_of(asked()), asked(modes=["skip"], rules={"fixed": [5]}))
    grown = extended_config(store, manifest_of(no_product), asked(rules={"fixed": [5, 10]}))
    assert keys_of(grown)[2:] == ["unfrozen/fixed/5", "unfrozen/fixed/10", "skip/fixed/5"]
    patient = asked(rules={"patience": [2], "confidence": [0.9]})
    gated = extended_config(store, manifest_of(patient), asked(gate=gate, gate_thresholds=[0.2]))
    assert keys_of(gated) == [*keys_of(patient), "unfrozen/confidence/0.9+gate0.2"]
    mapped: dict[str, Any] = {"modes": ["mapped_residual"], "rules": {"agree": []}}
    whole = extended_config(store, manifest_of(gated), asked(**mapped, kv_maps=maps))
    assert keys_of(whole) == [*keys_of(gated), "mapped_residual/agree"]
    assert extended_config(store, manifest_of(whole), patient) == whole, "an asking without them goes on"
    elsewhere = asked(**mapped, kv_maps=str(copytree(maps, tmp_path / "copy")))
    moved = whole.model_copy(update={"kv_maps": elsewhere.kv_maps})
    assert extended_config(store, manifest_of(whole), elsewhere) == moved
    assert ids_of(patient) < ids_of(gated) < ids_of(whole)
    with pytest.raises(UsageError, match=r'holds another sweep \(digests\.kv_maps: ".+ -> ".+\):'):
        extended_config(store, manifest_of(whole), asked(**mapped, kv_maps=others))


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        ({}, {"model": "other"}, 'another sweep (model: "tiny" -> "other")'),
        ({}, {"dtype": "bfloat16"}, 'dtype: "float32" -> "bfloat16"'),
        ({}, {"exit_layers": [5, 10]}, "exit_layers: null -> [5, 10]"),
        ({"exit_layers": [5, 10]}, {"exit_layers": [5, 15]}, "exit_layers[1]: 10 -> 15"),
        ({}, {"max_new_tokens": 4}, "max_new_tokens: 3 -> 4"),
        ({}, {"system": "Be brief."}, 'system: "" -> "Be brief."'),
        ({}, {"readout": "raw"}, 'readout: "lens" -> "raw"'),
        ({}, {"record_full_depth": "none"}, 'record_full_depth: "all" -> "none"'),
        ({}, {"prompts": [{"id": "1", "prompt": "three"}]}, "another prompt '1' (prompt: \"two\" -> \"three\")"),
        ({}, {"prompts": [{"id": "1", "prompt": "two", "answer": "2"}]}, 'answer: null -> "2"'),
        ({"modes": ["unfrozen"]}, {}, "not compared with normal"),
        ({"controls": [{"of": "unfrozen/agree", "counts": {5: 1, 10: 2}}]},
         {"controls": [{"of": "unfrozen/agree", "counts": {5: 2, 10: 2}}]}, "a control of unfrozen/agree when it"),
        ({}, {"rules": {"confidence": [0.90000001]}}, "can't grow by this (the parameters of rule confidence"),
    ],
)  # fmt: skip
def test_incomparable_runs_are_refused(store: Store, before: dict[str, Any], now: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=rf"^--out {store.root} .*{re.escape(reason)}.*: .*choose another --out"):
        extended_config(store, manifest_of(asked(**before)), SweepConfig.model_validate({**dict(asked()), **now}))


def test_a_manifest_has_grown_once_something_landed_and_is_as_before_otherwise(store: Store) -> None:
    before, more = asked(), asked(seeds=[0, 1])
    runs = list(plan_runs(before))
    with manifest_written(store, manifest_of(before)):
        commit(store, runs, rows_of(runs, before))
    content = store.read("sweep.json") or b""
    with manifest_written(store, manifest_of(more)) as config:
        assert config == more
        assert store.read("sweep.json") != content
    assert store.read("sweep.json") == content
    later = [run for run in plan_runs(more) if run.seed == 1]
    with manifest_written(store, manifest_of(more)):
        commit(store, later[:2], rows_of(later[:2], more))
    now: Any = read_manifest(store)
    assert (stored_config(store, now), now.n_runs, now.started) == (more, 8, decode_manifest(content).started)
    with manifest_written(store, manifest_of(before)) as config:
        assert config == more, "the smaller asking goes on with all"
    with manifest_written(store, manifest_of(asked(seeds=[2]))) as config:
        assert config.seeds == (0, 1, 2), "of what was there when it was planned, it may have grown since"
