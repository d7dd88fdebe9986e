"""The results of the study open with pandas alone, and README quotes what they say."""

import re
from pathlib import Path

import pandas as pd
import tables
from tables import LATEST, lost, saved, saved_by_exits, times

from eexit.quality.estimates import estimate_over_calls

ROOT = Path(__file__).parents[3]
MOST_BYTES = 3_100_000  # of the study's results
RUN = "again-float32"
NAMES = re.compile(r"`[^`]*`|\]\([^)]*\)|float32|bfloat16|SmolLM2-135M|November 29, 2026|4 bits|at most 2 %")


def test_readme_quotes_six_numbers_of_the_results_and_no_others() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    found = " ".join(readme.partition("## What it found so far")[2].partition("\n## ")[0].split())
    losses = [lost(RUN, LATEST, reporting=False), lost(RUN, LATEST, of_right=True, reporting=False)]
    ratios = [estimate_over_calls(times(RUN, LATEST, 1, beside)) for beside in ("normal", "generate")]
    quoted = [
        f"computes {100 * saved(RUN, LATEST).mean:.1f} % less",
        *(f"{round(each.mean * each.n)} of {each.n:,} are lost" for each in losses),
        *(f"{each.mean:.2f} times ({each.low:.2f} to {each.high:.2f}) as long" for each in ratios),
        f"would save {100 * saved_by_exits('pilot', 'unfrozen/agree').mean:.1f} %",
    ]
    assert [each for each in quoted if each not in found] == []
    for each in quoted:
        found = found.replace(each, "")
    assert re.findall(r"\d+", NAMES.sub("", found)) == []


def test_all_results_of_the_study_are_small_open_and_make_its_tables() -> None:
    files = [*tables.STUDY.rglob("*.parquet")]
    assert {file.parent.name for file in files} == {"chains", "choices", "generations", "replays", "timings"}
    assert all(len(pd.read_parquet(file)) for file in files)
    assert all(len(table) and table.notna().any(axis=None) for _, table in tables.tables())
    assert sum(file.stat().st_size for file in tables.STUDY.rglob("*") if file.is_file()) <= MOST_BYTES
