"""`python jobs/compact.py`: fewer files, the same rows, readable throughout, and resumable."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from cluster import compaction
from cluster.compaction import ASIDE, compact, finish_compaction
from cluster.landing import clear_debris, land, landed, remove_errors, survey
from cluster.lease import hold
from cluster.manifest import FORMAT, NAME
from cluster.store import Store, open_store
from eexit.about import encode
from eexit.config import Prompt, SweepConfig
from eexit.generator import Results, error_results, run_columns
from eexit.plan import Run, plan_runs
from eexit.schema import GENERATIONS, TOKENS

SCRIPT = Path(__file__).parents[2] / "jobs" / "compact.py"


def results(runs: list[Run], config: SweepConfig) -> Results:
    import pyarrow as pa

    rows = [{**run_columns(run, config), "status": "ok", "n_tokens": 1} for run in runs]
    token = {
        **{"position": 0, "decided": False, "token_id": 1, "token": "a", "exit_layer": 1, "kl": [0.0]},
        **{"exit_prob": [0.0, 1.0], "logprob": 0.0, "final_token_id": 1, "entropy": 0.0},
    }
    tokens = [{**{name: row[name] for name in TOKENS.names if name in row}, **token} for row in rows]
    return Results(pa.Table.from_pylist(rows, GENERATIONS), pa.Table.from_pylist(tokens, TOKENS))


@pytest.fixture
def config() -> SweepConfig:
    prompts = tuple(Prompt(id=str(n), prompt=f"prompt {n}") for n in range(40))
    return SweepConfig(prompts=prompts)


@pytest.fixture
def store(tmp_path: Path, config: SweepConfig) -> Store:
    """40 files of 9 runs, one of them errors."""
    store = open_store(tmp_path / "out")
    store.publish(NAME, encode({"format": FORMAT, "config": {}, "model": {}, "exitable_layers": []}))
    runs = list(plan_runs(config))
    for start in range(0, len(runs), 9):
        some = runs[start : start + 9]
        land(store, some, error_results(some, config, "no") if start == 90 else results(some, config))
    return store


def read(store: Store) -> list[pd.DataFrame]:
    folders = ("generations", "tokens")
    return [pd.read_parquet(f"{store.root}/{name}").sort_values("run_id", ignore_index=True) for name in folders]


def n_files(store: Store) -> int:
    return len(store.names("generations")) + len(store.names("tokens"))


def assert_same(one: list[pd.DataFrame], other: list[pd.DataFrame]) -> None:
    for ours, theirs in zip(one, other, strict=True):
        assert_frame_equal(ours, theirs)


def test_small_files_become_few_and_the_sweep_can_go_on(store: Store, config: SweepConfig) -> None:
    before = read(store)
    command = [sys.executable, str(SCRIPT), store.root, "--rows-per-file", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "40 files merged into 4\n"
    assert sorted(os.listdir(store.root)) == ["generations", NAME, "tokens"]
    assert n_files(store) == 8
    assert_same(read(store), before)
    assert clear_debris(store) == 0
    found = survey(store)
    assert len(found.done) == 351
    assert remove_errors(store, found.with_errors) == 9
    again = [run for run in plan_runs(config) if run.run_id not in landed(store)]
    land(store, again, results(again, config))
    assert len(landed(store)) == len(read(store)[1]) == 360
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("5 files")


def test_a_reader_sees_every_row_once_throughout(store: Store) -> None:
    stop = threading.Event()
    counts: list[tuple[int, int]] = []

    def keep_reading() -> None:
        while not stop.is_set():
            try:
                run_ids = pd.read_parquet(f"{store.root}/generations", columns=["run_id"]).run_id
            except FileNotFoundError:  # it had listed what was exchanged then
                continue
            counts.append((len(run_ids), run_ids.nunique()))

    reader = threading.Thread(target=keep_reading)
    reader.start()
    with hold(store):
        for rows in (20, 60, 200):
            compact(store, rows, grace_seconds=2)
    stop.set()
    reader.join()
    assert len(counts) > 1
    assert set(counts) == {(360, 360)}


@pytest.mark.parametrize("at", range(3))
def test_killed_between_its_steps_it_is_finished(store: Store, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    before = read(store)
    exchange, calls = compaction._exchange, []

    def killed(one: Path, other: Path) -> None:
        calls.append(one)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        exchange(one, other)

    monkeypatch.setattr(compaction, "_exchange", killed)
    with pytest.raises(KeyboardInterrupt):
        compact(store, 100)
    monkeypatch.undo()
    assert_same(read(store), before)
    finish_compaction(store)
    assert clear_debris(store) == 0
    assert_same(read(store), before)
    assert not Path(store.root, ASIDE).exists()
    assert n_files(store) == (80 if at == 0 else 8)  # killed before everything was merged, there is nothing to finish


def test_a_copy_leaves_the_original_alone(store: Store, tmp_path: Path) -> None:
    before = n_files(store)
    command = [sys.executable, str(SCRIPT), store.root, "--into", str(tmp_path / "copy"), "--rows-per-file", "1000"]
    subprocess.run(command, check=True)
    assert n_files(store) == before
    copy = open_store(tmp_path / "copy")
    assert n_files(copy) == 2
    assert_same(read(copy), read(store))


def test_a_folder_that_is_no_sweeps_is_left_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "typo")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path}/typo holds no {NAME}: is it a sweep's?\n")
    assert list(tmp_path.iterdir()) == []


def compacted(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("manifest", ["{}", '{"mine": true}', "", "notes"])
def test_a_folder_whose_manifest_no_sweep_wrote_is_left_alone(tmp_path: Path, manifest: str) -> None:
    for name in ("tokens/a.txt", f"tokens/{'ab' * 16}.parquet", "tokens/.x.tmp", "generations/b.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / NAME).write_text(manifest)
    before = contents(tmp_path)
    done = compacted(tmp_path)
    assert done.returncode == 2
    assert f"{NAME} is no sweep's, or damaged" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["tokens/my_notes.txt", "generations/old/x.parquet"])
def test_files_that_are_not_the_sweeps_keep_a_folder_from_being_exchanged(
    store: Store, tmp_path: Path, name: str
) -> None:
    store.publish(name, b"mine")
    before = contents(Path(store.root))
    done = compacted(store.root)
    assert done.returncode == 2
    assert f"{Path(store.root, *name.split('/')[:2])} is not one of the sweep's files" in done.stderr
    assert contents(Path(store.root)) == before
    assert compacted(store.root, "--into", tmp_path / "copy").returncode == 0
    assert contents(Path(store.root)) == before


def test_what_comes_into_a_folder_while_it_is_compacted_is_not_lost(store: Store) -> None:
    exchanged: list[Path] = []

    def come_late(one: Path, other: Path) -> None:
        exchange(one, other)
        exchanged.append(other)
        if other.name == "tokens":
            (one / "late.txt").write_text("mine")

    exchange = compaction._exchange
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "_exchange", come_late)
        compact(store, 100, grace_seconds=0)
    assert len(exchanged) == 3
    assert store.read("tokens/late.txt") == b"mine"
    assert not Path(store.root, ASIDE).exists()
    assert n_files(store) == 9


@pytest.mark.parametrize("damage", [b"", b"PAR1"])
@pytest.mark.parametrize("into", [[], ["--into", "copy"]])
def test_a_damaged_file_is_named_and_nothing_is_compacted(store: Store, damage: bytes, into: list[str]) -> None:
    path = next(Path(store.root, "tokens").iterdir())
    path.write_bytes(damage)
    before = contents(Path(store.root))
    done = compacted(store.root, *(str(Path(store.root).parent / name) if name == "copy" else name for name in into))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path} is damaged")
    assert "run the sweep's own command first" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert contents(Path(store.root)) == before


def test_runs_that_are_there_twice_are_merged_once(store: Store, config: SweepConfig, tmp_path: Path) -> None:
    before = read(store)
    runs = list(plan_runs(config))
    land(store, runs[:20], results(runs[:20], config))  # over two whole shards and a part of the third
    assert compacted(store.root, "--into", tmp_path / "copy", "--rows-per-file", "50").returncode == 0
    assert_same(read(open_store(tmp_path / "copy")), before)
    assert compacted(store.root, "--rows-per-file", "50").returncode == 0
    assert_same(read(store), before)
    assert len(landed(store)) == 351


def test_shards_of_several_versions_are_merged(store: Store) -> None:
    before = read(store)
    for folder in ("generations", "tokens"):  # as one without seals wrote it, and without a column of today
        path = min(Path(store.root, folder).iterdir())
        pq.write_table(pq.read_table(path).drop_columns(["kl_factor"]), path)
    assert compacted(store.root, "--rows-per-file", "100").returncode == 0
    for now, then in zip(read(store), before, strict=True):
        assert_frame_equal(now.drop(columns="kl_factor"), then.drop(columns="kl_factor"))


def test_not_while_a_sweep_is_at_work(store: Store) -> None:
    with hold(store):
        done = subprocess.run([sys.executable, str(SCRIPT), store.root], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"is in use by process {os.getpid()}" in done.stderr
    assert n_files(store) == 80


@pytest.mark.parametrize("rows", ["-1", "0", "many"])
def test_a_number_of_rows_that_is_none_is_refused(store: Store, rows: str) -> None:
    command = [sys.executable, str(SCRIPT), store.root, f"--rows-per-file={rows}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: argument --rows-per-file: must be a whole number above 0, got {rows}: --help lists the flags\n"
    )
    spaced = subprocess.run([*command[:-1], "--rows-per-file", rows], capture_output=True, text=True)
    assert spaced.returncode == 2
    assert len(spaced.stderr.splitlines()) == 1


def test_the_help_keeps_its_examples() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert "\n    python jobs/compact.py results/mine\n" in done.stdout
