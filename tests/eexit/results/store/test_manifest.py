"""`sweep.json`: what the results are of; another model, a lost manifest and a damaged one."""

import json
import re
from pathlib import Path

import pytest
from scripted import rows_of, sweep_of

from eexit.errors import UsageError
from eexit.plan.runs import plan_runs
from eexit.results.layout import FORMAT, MANIFEST, encode_manifest
from eexit.results.store.commit import commit
from eexit.results.store.extend import manifest_written
from eexit.results.store.folder import Store
from eexit.results.store.manifest import (
    MissingManifestError,
    make_manifest,
    read_manifest,
    refuse_other_model,
    refuse_other_runs,
)

PARTS = dict.fromkeys(["weights", "configuration", "chat template", "tokenizer"], "ab12")
MODEL = {"name": "tiny", "digest": "ab12", "n_layers": 30, "dtype": "float32", "parts": PARTS}
CONFIG = sweep_of("a-model", "one", "two")
HELD = make_manifest(CONFIG, MODEL, (5,))
SHARD = f"generations/{'ab' * 16}.parquet"


@pytest.mark.parametrize("content", [None, b"", b'{"format": 2'])
def test_a_lost_manifest_is_written_anew_for_the_same_runs(store: Store, content: bytes | None) -> None:
    runs = list(plan_runs(CONFIG))
    for half in (runs[:9], runs[9:]):
        commit(store, half, rows_of(half, CONFIG))
    if content is not None:
        store.publish(MANIFEST, content)
    with pytest.raises(MissingManifestError) as lost:
        read_manifest(store)
    for other, has in (
        (sweep_of("another-model", "one", "two"), "its runs are not those of this command"),
        (sweep_of("a-model", "one", "three"), "9 of its 18 runs are not this command's (prompt 1)"),
        (sweep_of("a-model", "one", "two", modes=["normal"]), "unfrozen/kl/1, unfrozen/kl/2, and 5 more)"),
    ):
        with pytest.raises(UsageError, match=re.escape(has)):
            refuse_other_runs(store, lost.value, other)
    assert "all 18 committed runs" in refuse_other_runs(store, lost.value, CONFIG)
    with manifest_written(store, HELD):
        pass
    assert read_manifest(store) == HELD
    assert [path.read_bytes() for path in Path(store.root, "damaged").glob("*/*")] == [content] * (content is not None)


@pytest.mark.parametrize("part", PARTS)
def test_another_or_a_changed_model_is_refused(store: Store, part: str) -> None:
    for unlike in ({"generation_config": {"top_k": 5}}, {"shape": {"width": 64}}):  # earlier versions record no shape
        refuse_other_model(store, HELD, make_manifest(CONFIG, MODEL | unlike, (5,)))
    with pytest.raises(UsageError, match=r'\(model\.digest: "ab12" -> "cd34"\)'):
        refuse_other_model(store, HELD, make_manifest(CONFIG, MODEL | {"digest": "cd34"}, (5,)))
    changed = MODEL | {"parts": PARTS | {part: "cd34"}, "digest": "ef56"}
    with pytest.raises(UsageError, match=f"this model before its {part} changed"):
        refuse_other_model(store, HELD, make_manifest(CONFIG, changed, (5,)))


def test_a_manifest_says_what_results_are_of_which_without_it_or_in_another_format_are_refused(store: Store) -> None:
    store.publish("notes.txt", b"not of a sweep")
    assert read_manifest(store) is None
    for content, line in ((b"{", "it is not JSON"), (b'{"format": 1}', f"it has format 1, not {FORMAT}")):
        store.publish(MANIFEST, content)
        with pytest.raises(UsageError, match=rf"no sweep's of this version \({line}") as refused:
            read_manifest(store)
        assert not isinstance(refused.value, MissingManifestError)
    store.publish(MANIFEST, encode_manifest(HELD))
    assert read_manifest(store) is None  # as long as there are no results
    store.publish(SHARD, b"")
    assert read_manifest(store) == HELD
    held = json.loads(store.read(MANIFEST) or b"")
    assert (held["format"], held["model"], held["exitable_layers"], held["n_runs"]) == (FORMAT, MODEL, [5], 18)
    assert held["config"] == CONFIG.model_dump(mode="json")
    assert set(held["versions"]) == {"python", "eexit", "torch", "transformers", "ray", "pyarrow"}
    assert held["started"].endswith("+00:00")
    store.publish(MANIFEST, b'{"format": 1}')
    with pytest.raises(UsageError, match="it has format 1"):
        read_manifest(store)
    store.remove(MANIFEST)
    with pytest.raises(MissingManifestError, match=r"holds results but no sweep\.json"):
        read_manifest(store)
