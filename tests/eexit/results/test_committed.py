"""Reader of committed runs and their tokens: whole runs, however tokens are split over batches."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from eexit.results.committed import read_columns, runs_with_tokens
from eexit.results.layout import tokens_name
from eexit.results.parquet_files import DamagedError
from eexit.results.store.commit import name_of, publish_shard
from eexit.results.store.folder import Store

LENGTHS = {"a": 3, "b": 1, "c": 12, "d": 5}
IDS = {run_id: [*range(100 * n, 100 * n + length)] for n, (run_id, length) in enumerate(LENGTHS.items())}
TOKENS = [{"run_id": run_id, "token_id": token_id} for run_id, ids in IDS.items() for token_id in ids]


def write(store: Store, lengths: dict[str, int], tokens: list[dict[str, Any]]) -> str:
    """Write a shard of runs of these lengths, with these token rows; return its name."""
    rows = [{"run_id": name, "status": "ok", "n_tokens": n, "prompt_id": name.upper()} for name, n in lengths.items()]
    publish_shard(store.publish, name_of(lengths), pa.Table.from_pylist(rows), pa.Table.from_pylist(tokens), 1)
    return name_of(lengths)


def read(store: Store, *run_ids: str) -> list[tuple[str, list[int]]]:
    chosen = pc.field("run_id").isin(pa.array(run_ids, pa.string()))
    found = runs_with_tokens(store, ["prompt_id"], chosen, ["token_id"])
    return [(run["prompt_id"], tokens["token_id"].to_pylist()) for run, tokens in found]


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 7, 100])
def test_runs_have_all_their_tokens(at_once: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eexit.results.committed.TOKENS_AT_ONCE", at_once)
    write(store, LENGTHS, TOKENS)
    write(store, {"e": 1}, [{"run_id": "e", "token_id": 400}])
    assert dict(read(store, *"abcde")) == {**{run_id.upper(): ids for run_id, ids in IDS.items()}, "E": [400]}
    assert read(store, "b", "d") == [("B", IDS["b"]), ("D", IDS["d"])]
    assert read(store) == []


def test_a_part_of_a_run_is_never_taken_for_the_run_and_a_damaged_shard_is_an_error(store: Store) -> None:
    apart = [*TOKENS[3:6], *TOKENS[:3], *TOKENS[6:]]  # in the middle of c
    name = write(store, LENGTHS, apart)
    with pytest.raises(DamagedError, match=rf"tokens/{name}.parquet is damaged \(it has 2 tokens of a run of 12"):
        read(store, *LENGTHS)
    assert read(store, "a", "b") == [("B", [100]), ("A", [0, 1, 2])], "together without the others"
    name = tokens_name(write(store, LENGTHS, TOKENS))
    store.publish(name, (store.read(name) or b"")[:-1])
    assert read_columns(store, ["run_id"])["run_id"].to_pylist() == list(LENGTHS), "tokens are not looked at"
    with pytest.raises(DamagedError, match=f"{name} is damaged"):
        read(store, "a")
