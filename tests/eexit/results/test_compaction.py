"""`python jobs/files/compact.py`: a copy in fewer files, with the same rows, that a sweep can be resumed from."""

import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from commands import here, refusal
from full_disk import left, on_a_full_disk
from pandas.testing import assert_frame_equal

from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.runs import Run, plan_runs
from eexit.results.compaction import compact
from eexit.results.layout import MANIFEST, Manifest, encode
from eexit.results.shard_tables import Results, error_results, run_columns
from eexit.results.store.folder import Store, open_store
from eexit.results.store.lease import hold
from eexit.results.store.writing_shards import clear_debris, land, publish_shard, remove_errors, survey
from eexit.results.study_tables import STUDY_TABLES, TIMINGS
from eexit.results.tables import GENERATIONS, TOKENS
from jobs.files.compact import main


def results(runs: list[Run], config: SweepConfig) -> Results:
    import pyarrow as pa

    rows = [{**run_columns(run, config), "status": "ok", "n_tokens": 1} for run in runs]
    token = {
        **{"position": 0, "decided": False, "drafted": False, "token_id": 1, "token": "a", "exit_layer": 1},
        **{"kl": [0.0], "exit_prob": [0.0, 1.0], "logprob": 0.0, "final_token_id": 1, "entropy": 0.0},
    }
    tokens = [{**{name: row[name] for name in TOKENS.names if name in row}, **token} for row in rows]
    return Results(pa.Table.from_pylist(rows, GENERATIONS), pa.Table.from_pylist(tokens, TOKENS))


N_FILES = 12


@pytest.fixture(scope="module")
def config() -> SweepConfig:
    prompts = tuple(Prompt(id=str(n), prompt=f"prompt {n}") for n in range(N_FILES))
    return SweepConfig(prompts=prompts)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, config: SweepConfig) -> Path:
    """Files of 9 runs, one of them errors."""
    store = open_store(tmp_path_factory.mktemp("made") / "out")
    store.publish(MANIFEST, encode(Manifest(config={}, model={}, exitable_layers=[])))
    runs = list(plan_runs(config))
    for start in range(0, len(runs), 9):
        some = runs[start : start + 9]
        land(store, some, error_results(some, config, "no") if start == 36 else results(some, config))
    return Path(store.root)


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """A copy of them, to be changed."""
    return open_store(shutil.copytree(made, tmp_path / "out"))


def read(store: Store) -> list[pd.DataFrame]:
    folders = ("generations", "tokens")
    return [pd.read_parquet(f"{store.root}/{name}").sort_values("run_id", ignore_index=True) for name in folders]


def n_files(store: Store) -> int:
    return len(store.names("generations")) + len(store.names("tokens"))


def assert_same(one: list[pd.DataFrame], other: list[pd.DataFrame]) -> None:
    for ours, theirs in zip(one, other, strict=True):
        assert_frame_equal(ours, theirs)


def compacted(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return here(main, *arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_the_same_rows_in_few_files_and_the_sweep_can_go_on_there(
    store: Store, config: SweepConfig, tmp_path: Path
) -> None:
    before = contents(Path(store.root))
    done = compacted(store.root, "--into", tmp_path / "copy", "--rows-per-file", "27")
    assert done.stdout == f"{N_FILES} files merged into 4\n", done.stderr
    assert contents(Path(store.root)) == before
    copy = open_store(tmp_path / "copy")
    assert sorted(os.listdir(copy.root)) == ["generations", MANIFEST, "tokens"]
    assert copy.read(MANIFEST) == store.read(MANIFEST)
    assert n_files(copy) == 8
    assert_same(read(copy), read(store))
    assert clear_debris(copy) == 0
    found = survey(copy)
    assert len(found.done) == 9 * N_FILES - 9
    assert remove_errors(copy, found.with_errors) == 9
    again = [run for run in plan_runs(config) if run.run_id not in survey(copy).done]
    land(copy, again, results(again, config))
    assert len(survey(copy).done) == len(read(copy)[1]) == 9 * N_FILES
    assert compacted(copy.root, "--into", tmp_path / "another").stdout.startswith("5 files")


def test_further_tables_are_copied_as_they_are(store: Store, tmp_path: Path) -> None:
    names = [table.file("f" * 32) for table in STUDY_TABLES]
    for name in names:
        store.publish(name, name.encode())
    copy = open_store(tmp_path / "copy")
    compact(store, copy, 30)
    assert [copy.read(name) for name in names] == [name.encode() for name in names]


def test_a_copy_that_was_killed_is_no_sweep_and_is_not_gone_on_with(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = open_store(tmp_path / "copy")
    publish = Store.publish

    def killed(self: Store, name: str, content: bytes) -> None:
        if self == copy and n_files(copy) == 3:
            raise KeyboardInterrupt
        publish(self, name, content)

    monkeypatch.setattr(Store, "publish", killed)
    monkeypatch.setattr(Store, "remove", lambda *_: None)  # a process that is killed tidies nothing up
    with pytest.raises(KeyboardInterrupt):
        compact(store, copy, 30)
    monkeypatch.undo()
    assert not copy.has(MANIFEST)
    assert refusal(main, store.root, "--into", copy.root) == (
        f"error: --into {copy.root} holds results: choose another place"
    )


def test_without_a_place_for_the_copy_nothing_is_done(store: Store) -> None:
    before = contents(Path(store.root))
    said = refusal(main, store.root)
    assert said == "error: --into is missing: give the folder or URI that the merged copy goes to"
    assert contents(Path(store.root)) == before


@pytest.mark.parametrize("name", [MANIFEST, f"tokens/{'ab' * 16}.parquet", f"generations/{'ab' * 16}.parquet"])
def test_a_place_that_holds_results_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    copy = open_store(tmp_path / "copy")
    copy.publish(name, b"of another sweep")
    said = f"error: --into {copy.root} holds results: choose another place"
    assert refusal(main, store.root, "--into", copy.root) == said
    assert contents(tmp_path / "copy") == {name: b"of another sweep"}
    refusal(main, store.root, "--into", store.root)


@pytest.mark.parametrize("into", [".", "deep/..", "deep", "above", "file://{}"])
def test_a_place_around_results_is_refused_since_nothing_could_be_written_to_them(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: str
) -> None:
    """Around the original, however deep it is, or right around other results."""
    monkeypatch.chdir(tmp_path)
    for place in ("deep/down/mine", "above/other"):
        shutil.copytree(made, tmp_path / place)
    before = contents(tmp_path)
    line = refusal(main, "deep/down/mine", "--into", into.format(tmp_path))
    held = "above/other" if into == "above" else "deep/down/mine"
    assert line.startswith("error: --into /")
    assert line.endswith(
        f" holds the results {tmp_path}/{held}, which would then be inside of others: choose a new folder"
    )
    assert contents(tmp_path) == before
    assert compacted("deep/down/mine", "--into", "deep/new").returncode == 0


def test_a_folder_that_is_no_sweeps_is_left_alone(tmp_path: Path) -> None:
    said = refusal(main, tmp_path / "typo", "--into", tmp_path / "copy")
    assert said == f"error: {tmp_path}/typo holds no {MANIFEST}: give the folder of a finished sweep"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("manifest", ["{}", '{"mine": true}', "", "notes"])
def test_a_folder_whose_manifest_no_sweep_wrote_is_left_alone(tmp_path: Path, manifest: str) -> None:
    for name in ("tokens/a.txt", f"tokens/{'ab' * 16}.parquet", "tokens/.x.tmp", "generations/b.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / MANIFEST).write_text(manifest)
    before = contents(tmp_path)
    assert f"{tmp_path} is no sweep's folder" in refusal(main, tmp_path, "--into", tmp_path / "copy")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["tokens/my_notes.txt", "generations/old/x.parquet"])
def test_files_that_are_not_the_sweeps_are_not_copied(store: Store, tmp_path: Path, name: str) -> None:
    store.publish(name, b"mine")
    before = contents(Path(store.root))
    assert compacted(store.root, "--into", tmp_path / "copy").returncode == 0
    assert contents(Path(store.root)) == before
    assert not (tmp_path / "copy" / name).exists()


@pytest.mark.parametrize("damage", [b"", b"PAR1"])
def test_a_damaged_file_is_named_and_nothing_is_copied(store: Store, tmp_path: Path, damage: bytes) -> None:
    path = next(Path(store.root, "tokens").iterdir())
    path.write_bytes(damage)
    before = contents(Path(store.root))
    said = refusal(main, store.root, "--into", tmp_path / "copy")
    assert said.startswith(f"error: {path} is damaged")
    assert "run the sweep's own command first" in said
    assert contents(Path(store.root)) == before
    assert not (tmp_path / "copy").exists()


def test_runs_that_are_there_twice_are_copied_once(store: Store, config: SweepConfig, tmp_path: Path) -> None:
    before = read(store)
    runs = list(plan_runs(config))
    land(store, runs[:20], results(runs[:20], config))  # over two whole shards and a part of the third
    assert compacted(store.root, "--into", tmp_path / "copy", "--rows-per-file", "30").returncode == 0
    copy = open_store(tmp_path / "copy")
    assert_same(read(copy), before)
    assert len(survey(copy).done) == 9 * N_FILES - 9


def test_shards_of_several_versions_are_merged(store: Store, tmp_path: Path) -> None:
    before = read(store)
    name = min(Path(store.root, "tokens").iterdir()).name  # of one without a column of the others
    tables = (pq.read_table(f"{store.root}/{folder}/{name}") for folder in ("generations", "tokens"))
    generations, tokens = (table.drop_columns(["kl_factor"]) for table in tables)
    publish_shard(store.publish, Path(name).stem, generations, tokens, attempt=1)
    assert compacted(store.root, "--into", tmp_path / "copy", "--rows-per-file", "30").returncode == 0
    for now, then in zip(read(open_store(tmp_path / "copy")), before, strict=True):
        assert_frame_equal(now.drop(columns="kl_factor"), then.drop(columns="kl_factor"))


def test_not_while_a_sweep_is_at_work(store: Store, tmp_path: Path) -> None:
    with hold(store):
        said = refusal(main, store.root, "--into", tmp_path / "copy")
    assert f"is in use by process {os.getpid()}" in said
    assert not (tmp_path / "copy").exists()


def test_on_a_full_disk_no_copy_is_left_and_the_same_command_then_goes(store: Store, tmp_path: Path) -> None:
    store.publish(TIMINGS.file("f" * 32), b"small")
    done = on_a_full_disk(8192, main, store.root, "--into", tmp_path / "copy")
    assert (done.returncode, done.stdout) == (1, "")
    stopped, kept = done.stderr.splitlines()
    assert stopped.startswith(f"stopped: [Errno 27] File too large: '{tmp_path}/copy/")
    assert kept == "the original is unchanged, and the unfinished copy was removed: start over"
    assert not any(name.startswith("copy") for name in left(tmp_path))
    assert compacted(store.root, "--into", tmp_path / "copy").stdout == f"{N_FILES} files merged into 1\n"
