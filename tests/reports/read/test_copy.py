"""A copy of results in few files, as in cluster/README.md: pandas and a report read the same from it."""

import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from house import ROOT
from report_fixtures import MakeSweep
from synthetic_sweeps import CONFIGURATIONS

from eexit.results.parquet_files import DamagedError
from reports import build_report
from reports.page.payload import payload
from reports.read.sweep import read_sweep

[RECIPE] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "cluster" / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def copied(make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return a sweep of several shards, and its copy by the recipe."""
    original = make_sweep(6, CONFIGURATIONS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    exec(RECIPE.replace("results/demo", str(original)), {})
    return original, tmp_path / "results" / "copy"


def test_pandas_and_a_report_read_the_same_of_a_copy_in_few_files(copied: tuple[Path, Path]) -> None:
    for table in ("generations", "tokens"):
        ours, theirs = (pd.read_parquet(folder / table).sort_values("run_id", kind="stable") for folder in copied)
        assert ours.equals(theirs.set_axis(ours.index))
        assert len([*(copied[1] / table).iterdir()]) == 1
    (data, packed), (of_copy, packed_of_copy) = (payload(read_sweep(str(folder)), "title") for folder in copied)
    assert of_copy["prompts"] == data["prompts"]
    assert of_copy["trade"] == data["trade"]
    assert list(packed_of_copy.n) == list(packed.n)
    assert "left out" not in str(of_copy["facts"]).lower()
    build_report(str(copied[1]), str(copied[1] / "report.html"))
    assert (copied[1] / "report.html").exists()


def test_a_copy_that_is_damaged_or_has_runs_twice_is_refused_in_a_line(copied: tuple[Path, Path]) -> None:
    [file] = (copied[1] / "generations").iterdir()
    whole = pq.read_table(file)
    pq.write_table(whole, file.with_name("again.parquet"))
    with pytest.raises(DamagedError, match="copy is a copy that holds runs twice: make the report of the original"):
        read_sweep(str(copied[1]))
    file.with_name("again.parquet").unlink()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=r"copy holds no shards, and can't be read \("):
        read_sweep(str(copied[1]))
