"""`sweep.json`: what the results are of; another model, a lost manifest and a damaged one."""

import json
import re
from pathlib import Path

import pytest
from scripted import rows_of, sweep_of

from eexit.errors import UsageError
from eexit.plan.runs import plan_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import FORMAT, MANIFEST, encode_manifest
from eexit.results.store.commit import commit
from eexit.results.store.extend import manifest_written
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import (
    MissingManifestError,
    first_difference,
    make_manifest,
    read_manifest,
    refuse_other_model,
    refuse_other_runs,
)

MODEL = {"name": "tiny", "digest": "ab12", "n_layers": 30, "dtype": "float32"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "deep" / "out")


@pytest.fixture
def config() -> SweepConfig:
    return sweep_of("a-model", "one", "two")


@pytest.mark.parametrize("content", [None, b"", b'{"format": 2'])
def test_a_manifest_that_is_lost_is_written_anew_if_the_runs_are_the_commands(
    store: Store, config: SweepConfig, content: bytes | None
) -> None:
    for half in (list(plan_runs(config))[:9], list(plan_runs(config))[9:]):
        commit(store, half, rows_of(half, config))
    if content is not None:
        store.publish("sweep.json", content)
    with pytest.raises(MissingManifestError) as lost:
        read_manifest(store)
    with pytest.raises(UsageError, match=r"its runs are not those of this command: choose another --out$"):
        refuse_other_runs(store, lost.value, sweep_of("another-model", "one", "two"))
    for other, has in (
        (sweep_of("a-model", "one", "three"), "9 of its 18 runs are not this command's (prompt 1)"),
        (sweep_of("a-model", "one", "two", modes=["normal"]),
         "16 of its 18 runs are not this command's (configuration unfrozen/kl/0.5, unfrozen/kl/1, unfrozen/kl/2, and 5 "
         "more)"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"{re.escape(has)}: give all that the sweep has grown to in one command,"):
            refuse_other_runs(store, lost.value, other)
    assert "all 18 committed runs are this command's" in refuse_other_runs(store, lost.value, config)
    manifest = make_manifest(config, MODEL, (5,))
    with manifest_written(store, manifest):
        pass
    assert read_manifest(store) == manifest
    assert [path.read_bytes() for path in Path(store.root, "damaged").glob("*/*")] == [content] * (content is not None)


SHARD = f"generations/{'ab' * 16}.parquet"


def test_a_manifest_says_what_the_results_are_of(store: Store, config: SweepConfig) -> None:
    assert read_manifest(store) is None
    manifest = make_manifest(config, MODEL, (5,))
    store.publish(MANIFEST, encode_manifest(manifest))
    assert read_manifest(store) is None  # as long as there are no results
    store.publish(SHARD, b"")
    held = json.loads(store.read("sweep.json") or b"")
    assert held["format"] == FORMAT
    assert held["config"] == config.model_dump(mode="json")
    assert held["model"] == MODEL
    assert held["exitable_layers"] == [5]
    assert held["n_runs"] == 18
    assert set(held["versions"]) == {"python", "eexit", "torch", "transformers", "ray", "pyarrow"}
    assert held["started"].endswith("+00:00")
    read = read_manifest(store)
    assert read is not None
    refuse_other_model(store, read, manifest)


def test_another_model_is_refused_with_the_difference(store: Store, config: SweepConfig) -> None:
    held = make_manifest(config, MODEL, (5,))
    other = make_manifest(config, {**MODEL, "digest": "cd34"}, (5,))
    with pytest.raises(UsageError, match=r'\(model\.digest: "ab12" -> "cd34"\)'):
        refuse_other_model(store, held, other)


@pytest.mark.parametrize("part", ["weights", "configuration", "chat template", "tokenizer"])
def test_a_model_folder_that_changed_is_told_by_what_changed(store: Store, config: SweepConfig, part: str) -> None:
    parts = dict.fromkeys(["weights", "configuration", "chat template", "tokenizer"], "ab12")
    held = make_manifest(config, {**MODEL, "parts": parts}, (5,))
    refuse_other_model(store, held, held)
    now = make_manifest(config, {**MODEL, "parts": parts | {part: "cd34"}, "digest": "ef56"}, (5,))
    with pytest.raises(UsageError) as raised:
        refuse_other_model(store, held, now)
    assert str(raised.value) == (
        f"--out {store.root} holds results of this model before its {part} changed: "
        "put that back as it was, or choose another --out"
    )


def test_results_without_a_manifest_are_refused(store: Store) -> None:
    store.publish("notes.txt", b"not of a sweep")
    assert read_manifest(store) is None
    store.publish(SHARD, b"")
    with pytest.raises(MissingManifestError, match=r"holds results but no sweep\.json"):
        read_manifest(store)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"sweep\.json is damaged, or no sweep's \(it is not JSON"),
        (b"[]", r"sweep\.json is damaged, or no sweep's \(it is not an object"),
        (b'{"format": %d}' % FORMAT, r"sweep\.json is damaged, or no sweep's \(its checksum does not match\)"),
        (
            b'{"format": 1, "config": {}, "model": {}, "exitable_layers": []}',
            rf"is no sweep's of this version \(it has format 1, not {FORMAT}\): choose another --out",
        ),
    ],
)
def test_a_manifest_that_is_none_is_refused(store: Store, content: bytes, message: str) -> None:
    store.publish(SHARD, b"")
    store.publish("sweep.json", content)
    with pytest.raises(UsageError, match=message):
        read_manifest(store)


def test_the_first_difference_is_named() -> None:
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) is None
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a[1].b: 2 -> 3"
    assert first_difference({"a": 1}, {"a": 1, "c": "x"}) == 'c: null -> "x"'
