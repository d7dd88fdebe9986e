"""Damaged results: a report leaves out damaged files and names them, without a traceback."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_fixtures import MakeSweep
from synthetic_sweeps import CONFIGURATIONS, shard, write_shard

from jobs import report
from reports.read.sweep import read_sweep

JOB = Path(__file__).parents[3] / "jobs" / "report.py"
N_RUNS, N_TOKENS = 3, 24  # runs per prompt, and tokens per run
ALL = 3 * N_RUNS  # of three prompts


def tables(folder: Path, number: int = 0) -> tuple[pa.Table, pa.Table]:
    generations, tokens = (pq.read_table(folder / name / shard(number)) for name in ("generations", "tokens"))
    return generations, tokens


def of_prompt(table: pa.Table, *prompt_ids: str) -> pa.Table:
    return table.filter(pa.array([prompt_id in prompt_ids for prompt_id in table["prompt_id"].to_pylist()]))


@pytest.fixture
def folder(make_sweep: MakeSweep, tmp_path: Path) -> Path:
    """Return a folder with a checksummed shard for each of three prompts, with all runs of the prompt."""
    folder = shutil.copytree(make_sweep(3, CONFIGURATIONS[:N_RUNS]), tmp_path / "results")
    generations, tokens = tables(folder)
    for number in range(3):
        write_shard(folder, number, of_prompt(generations, str(number)), of_prompt(tokens, str(number)))
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_sealed_results_are_read_whole(folder: Path) -> None:
    sweep = read_sweep(str(folder))
    assert (len(sweep.generations), sweep.tokens.count_rows(), sweep.left_out) == (ALL, ALL * N_TOKENS, ())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "emptied": lambda path: path.write_bytes(b""),
    "of someone else": lambda path: pq.write_table(pa.table({"a": [1]}), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "n_runs"), [("generations", 2 * N_RUNS), ("tokens", ALL)])
def test_a_damaged_file_is_left_out_and_named(folder: Path, name: str, n_runs: int, damage: str) -> None:
    path = folder / name / shard(1)
    DAMAGES[damage](path)
    sweep = read_sweep(str(folder))
    assert (len(sweep.generations), sweep.tokens.count_rows()) == (n_runs, 2 * N_RUNS * N_TOKENS)
    (line,) = sweep.left_out
    assert line.startswith(f"{path} is damaged (")


def test_what_is_left_out_is_said_by_the_command_and_on_the_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(folder / "tokens" / shard(1))
    (folder / "tokens" / "my_notes.txt").write_text("mine")
    shutil.copy(folder / "generations" / shard(0), folder / "generations" / "copy.parquet")
    sweep = read_sweep(str(folder))
    assert len(sweep.generations) == ALL
    assert report.main([str(folder)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said == [f"report: left out: {line}" for line in sweep.left_out]
    others = ("generations/copy.parquet", "tokens/my_notes.txt")
    (damaged,) = {*sweep.left_out} - {f"{folder / name} is not one of the sweep's files" for name in others}
    assert len(said) == 3
    assert damaged.startswith(f"{folder / 'tokens' / shard(1)} is damaged (")
    assert "Left out" in (folder / "report.html").read_text()


def test_runs_that_are_missing_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "generations" / shard(1)).write_bytes(b"")
    assert report.main([str(folder)]) == 0
    _, missing = capsys.readouterr().err.splitlines()
    keys = ["normal", "unfrozen/kl/0.5", "unfrozen/kl/1"]
    names = [f"{key} on prompt 1" + (", seed 0" if key != "normal" else "") for key in keys]
    assert missing == f"report: 3 runs missing, which the sweep's command does: {'; '.join(names)}"


def test_of_a_run_that_is_there_twice_the_later_attempt_counts(folder: Path) -> None:
    generations, tokens = tables(folder)
    later = generations.set_column(generations.schema.get_field_index("text"), "text", pa.array(["later"] * N_RUNS))
    more, more_tokens = tables(folder, 1)
    # The later shard has all of the first one's runs; an earlier one has one of the second one's, which doesn't count.
    write_shard(folder, 3, later, tokens, attempt=2)
    write_shard(folder, 4, more.slice(0, 1), more_tokens.slice(0, N_TOKENS), attempt=0)
    last_and_first = pa.concat_tables([more.slice(N_RUNS - 1), later.slice(0, 1)])
    write_shard(folder, 5, last_and_first, _tokens(more_tokens, tokens), 0)
    sweep = read_sweep(str(folder))
    assert (len(sweep.generations), sweep.generations["run_id"].nunique()) == (ALL, ALL)
    assert sweep.tokens.count_rows() == ALL * N_TOKENS
    texts = dict(zip(*(column.to_pylist() for column in sweep.texts.to_table(["run_id", "text"]).columns), strict=True))
    assert [texts[run_id] for run_id in generations["run_id"].to_pylist()] == ["later"] * N_RUNS
    assert len(sweep.left_out) == 3


def _tokens(more_tokens: pa.Table, tokens: pa.Table) -> pa.Table:
    return pa.concat_tables([more_tokens.slice((N_RUNS - 1) * N_TOKENS), tokens.slice(0, N_TOKENS)])


def test_a_damaged_manifest_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = folder / "sweep.json"
    for content in (b"", b"\xff", manifest.read_bytes()[:-9], b'{"format": 2, "config": 1, "model": 2}'):
        manifest.write_bytes(content)
        assert report.main([str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: not a sweep, or damaged: {manifest} (")


def test_a_page_that_is_no_report_is_not_written_over(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<html>mine</html>")
    assert report.main([str(folder), "--out", str(mine)]) == 2
    assert mine.read_text() == "<html>mine</html>"
    expected = f"error: {mine} is not a report's file: choose another place, or move it elsewhere\n"
    assert capsys.readouterr().err == expected
    side = tmp_path / "r.data" / "prompt-9.js"
    side.parent.mkdir()
    side.write_text("mine")
    assert report.main([str(folder), "--out", str(tmp_path / "r.html")]) == 2
    assert side.read_text() == "mine"
    side.unlink()
    for _ in range(2):  # its own page is
        assert report.main([str(folder), "--out", str(tmp_path / "r.html")]) == 0
