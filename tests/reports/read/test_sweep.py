"""A sweep as a report reads it: the order of its configurations, equal runs of several seeds, and what is no sweep."""

import math
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import MakeSweep
from synthetic_sweeps import FINAL, LAYERS, judge, run_rows, write_runs

from eexit.plan.configuration import Configuration
from eexit.results.layout import FORMAT
from eexit.studies.assessment.verdict import FILE
from reports.page.payload import payload
from reports.read.sweep import NotASweepError, Sweep, read_sweep
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration


def test_configurations_and_prompts_keep_the_sweeps_order(several: Sweep, rules_grid: list[Configuration]) -> None:
    assert [c.key for c in several.configurations] == [c.key for c in rules_grid]
    assert [c.columns for c in several.configurations] == [c.columns for c in rules_grid]
    assert list(several.prompts) == ["0", "1", "2", "3", "4", "5"]
    assert several.layer_counts.shape == (len(several.generations), len([*LAYERS, FINAL]))


def repeated(folder: Path, temperature: float) -> Path:
    """Return six prompts and two seeds: runs of `normal` are the same for both, runs of `unfrozen/kl/1` are not."""
    runs = []
    for prompt, seed in ((prompt, seed) for prompt in range(6) for seed in (3, 4)):
        for mode, k in (("normal", None), ("unfrozen", 1.0)):
            change: dict[str, Any] = {"perplexity": 2.0, "exit_rate": 0.0} if k is None else {"perplexity": 2.0 + seed}
            if (mode, prompt, seed) == ("normal", 5, 3):
                change |= {"status": "error", "perplexity": None, "n_tokens": None}
            pieces = ["one", " two", f" {mode} {seed if k else ''}"]
            row, rows = run_rows(f"{prompt}", f"Question {prompt}?", mode, k, pieces, seed, **change)
            runs.append((row, rows if row["status"] == "ok" else []))
    return write_runs(folder, runs, temperature)


def test_a_run_that_is_the_same_for_every_seed_counts_once_and_is_compared_with_each(tmp_path: Path) -> None:
    folder = repeated(tmp_path / "s", 0.0)
    judge(folder, fails=["0-normal-None-3", "0-normal-None-4"])
    sweep = read_sweep(str(folder))
    assert (sweep.n_committed, len(sweep.generations), len(sweep.failed)) == (24, 18, 0), "one seed did not fail"
    normal = sweep.generations[sweep.generations["configuration"] == "normal"]
    assert list(zip(normal["seed"], normal["every_seed"], strict=True)) == [(3, True)] * 5 + [(4, True)]
    assert per_configuration(sweep)[["n", "n_seeds"]].values.tolist() == [[6, 1], [6, 2]]
    (paired,) = PairedRuns.from_sweep(sweep).differences().to_dict("records")
    assert (paired["n"], paired["n_seeds"]) == (6, 2)
    assert paired["perplexity"] == pytest.approx(math.sqrt(5 * 6) / 2), "with both seeds of each prompt"
    assert sweep.judges[0].errors == {"normal": 1}
    data, packed = payload(sweep, "title")
    assert data["counts"] | {"runs": 24, "different": 18, "failed": 0} == data["counts"]
    assert dict(data["facts"])["Tokens"] == "54"
    of_first = [(run["c"], run["seed"], run["every"]) for run in data["prompts"][0]["runs"]]
    assert of_first == [(0, 3, True), (1, 3, False), (1, 4, False)]
    assert sum(packed.n) == 54


def test_sampled_runs_are_all_different(tmp_path: Path) -> None:
    sweep = read_sweep(str(repeated(tmp_path / "s", 0.7)))
    assert len(sweep.generations) == 24
    assert not sweep.generations["every_seed"].any()
    assert per_configuration(sweep)["n_seeds"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no sweep.json"), ("{", "not JSON"), ('{"format": 99}', "format"),
        (f'{{"format": {FORMAT}}}', "checksum"), ("no folder", "no such folder"),
    ],
)  # fmt: skip
def test_what_is_not_a_sweep_is_said_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    folder = tmp_path / ("nowhere" if content == "no folder" else "")
    if content and folder.exists():
        (folder / "sweep.json").write_text(content)
    with pytest.raises(NotASweepError, match=message) as error:
        read_sweep(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "why"), [("{", "the file"), ('{"format": 4}', "format"), ('{"format": 5}', "why")])
def test_a_verdict_that_can_not_be_read_is_named_and_left_out(make_sweep: MakeSweep, content: str, why: str) -> None:
    folder = make_sweep(1, [("normal", None)])
    (folder / FILE).write_text(content)
    sweep = read_sweep(str(folder))
    assert sweep.verdict is None
    (line,) = sweep.left_out
    assert f"{FILE} is no verdict of format 5 ({why}" in line
