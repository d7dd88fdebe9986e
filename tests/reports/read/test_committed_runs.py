"""Damaged results, which a report leaves out and names without a traceback; and a copy of results in few files."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import here
from house import ROOT
from report_fixtures import MakeSweep
from synthetic_sweeps import CONFIGURATIONS, shard, write_shard

from eexit.results.parquet_files import DamagedError
from eexit.studies.assessment.verdict import FILE as VERDICT
from jobs import report
from reports.page.payload import payload
from reports.read.sweep import read_sweep

N_RUNS, N_TOKENS = 3, 24  # runs per prompt, and tokens per run
ALL = 3 * N_RUNS  # of three prompts
[RECIPE] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "cluster" / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def tables(folder: Path, number: int = 0) -> tuple[pa.Table, pa.Table]:
    generations, tokens = (pq.read_table(folder / name / shard(number)) for name in ("generations", "tokens"))
    return generations, tokens


@pytest.fixture
def folder(make_sweep: MakeSweep, tmp_path: Path) -> Path:
    """Return a folder with a checksummed shard for each of three prompts, with all runs of the prompt."""
    folder = shutil.copytree(make_sweep(3, CONFIGURATIONS[:N_RUNS]), tmp_path / "results")
    whole = tables(folder)
    for number in range(3):
        write_shard(folder, number, *(table.filter(pc.equal(table["prompt_id"], str(number))) for table in whole))
    return folder


@pytest.mark.parametrize(("name", "n_runs"), [("generations", 2 * N_RUNS), ("tokens", ALL)])
def test_a_damaged_file_is_left_out_and_named(folder: Path, name: str, n_runs: int) -> None:
    sweep = read_sweep(str(folder))
    assert (len(sweep.generations), sweep.tokens.count_rows(), sweep.left_out) == (ALL, ALL * N_TOKENS, ())
    path = folder / name / shard(1)
    content = path.read_bytes()
    at = len(content) // 2
    for damaged in (content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :], content[:100], b""):
        path.write_bytes(damaged)
        sweep = read_sweep(str(folder))
        assert (len(sweep.generations), sweep.tokens.count_rows()) == (n_runs, 2 * N_RUNS * N_TOKENS)
        (line,) = sweep.left_out
        assert line.startswith(f"{path} is damaged (")


def test_what_is_left_out_or_missing_is_printed_and_on_the_page(folder: Path) -> None:
    (folder / "tokens" / "my_notes.txt").write_text("mine")
    shutil.copy(folder / "generations" / shard(0), folder / "generations" / "copy.parquet")
    (folder / "generations" / shard(1)).write_bytes(b"")
    (folder / VERDICT).write_text("{")
    sweep = read_sweep(str(folder))
    *said, missing = here(report.main, folder).stderr.splitlines()
    assert said == [f"report: left out: {line}" for line in sweep.left_out]
    names = "generations/copy.parquet", "tokens/my_notes.txt"
    others = {*sweep.left_out} - {f"{folder / name} is not one of the sweep's files" for name in names}
    damaged, verdict = sorted(others, key=lambda line: VERDICT in line)
    assert (len(said), sweep.verdict) == (4, None)
    assert damaged.startswith(f"{folder / 'generations' / shard(1)} is damaged (")
    assert f"{VERDICT} is no verdict of format 5 (the file" in verdict
    assert "Left out" in (folder / "report.html").read_text()
    lost = "normal on prompt 1; unfrozen/kl/0.5 on prompt 1, seed 0; unfrozen/kl/1 on prompt 1, seed 0"
    assert missing == f"report: 3 runs missing, which the sweep's command does: {lost}"


def test_of_a_run_that_is_there_twice_the_later_attempt_counts(folder: Path) -> None:
    generations, tokens = tables(folder)
    later = generations.set_column(generations.schema.get_field_index("text"), "text", pa.array(["later"] * N_RUNS))
    more, more_tokens = tables(folder, 1)
    # The later shard has all of the first one's runs; an earlier one has one of the second one's, which doesn't count.
    write_shard(folder, 3, later, tokens, attempt=2)
    write_shard(folder, 4, more.slice(0, 1), more_tokens.slice(0, N_TOKENS), attempt=0)
    last_and_first = pa.concat_tables([more.slice(N_RUNS - 1), later.slice(0, 1)])
    its_tokens = pa.concat_tables([more_tokens.slice((N_RUNS - 1) * N_TOKENS), tokens.slice(0, N_TOKENS)])
    write_shard(folder, 5, last_and_first, its_tokens, attempt=0)
    sweep = read_sweep(str(folder))
    n_runs = len(sweep.generations), sweep.generations["run_id"].nunique()
    assert (*n_runs, sweep.tokens.count_rows()) == (ALL, ALL, ALL * N_TOKENS)
    texts = dict(zip(*(column.to_pylist() for column in sweep.texts.to_table(["run_id", "text"]).columns), strict=True))
    assert [texts[run_id] for run_id in generations["run_id"].to_pylist()] == ["later"] * N_RUNS
    assert len(sweep.left_out) == 3


def test_a_copy_in_few_files_reads_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is made as in cluster/README.md; where it is damaged or has runs twice, a line refuses it."""
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    exec(RECIPE.replace("results/demo", str(folder)), {})
    copy = tmp_path / "other" / "results" / "copy"
    for table in ("generations", "tokens"):
        ours, theirs = (pd.read_parquet(of / table).sort_values("run_id", kind="stable") for of in (folder, copy))
        assert ours.equals(theirs.set_axis(ours.index))
        assert len([*(copy / table).iterdir()]) == 1
    (data, packed), (of_copy, packed_of_copy) = (payload(read_sweep(str(each)), "title") for each in (folder, copy))
    assert (of_copy["prompts"], of_copy["trade"]) == (data["prompts"], data["trade"])
    assert list(packed_of_copy.n) == list(packed.n)
    assert "left out" not in str(of_copy["facts"]).lower()
    [file] = (copy / "generations").iterdir()
    pq.write_table(pq.read_table(file), file.with_name("again.parquet"))
    with pytest.raises(DamagedError, match="copy is a copy that holds runs twice"):
        read_sweep(str(copy))
    file.with_name("again.parquet").unlink()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=r"copy holds no shards, and can't be read \("):
        read_sweep(str(copy))
