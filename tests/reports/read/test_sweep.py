"""A sweep as a report reads it: the order of its configurations, equal runs of several seeds, and what is no sweep."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_sweeps import FINAL, KL_1, LAYERS, judge, swept

from eexit.plan.configuration import NORMAL, Configuration
from eexit.results.layout import FORMAT
from reports.page.payload import payload
from reports.read.prompt_choice import choose_prompts
from reports.read.sweep import NotASweepError, Sweep, read_sweep
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration


def repeated(folder: Path, temperature: float) -> Path:
    """Return six prompts and two seeds: runs of `normal` are the same for both, runs of `unfrozen/kl/1` are not."""

    def columns(its: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        if (its.mode, prompt, seed) == (NORMAL, 5, 3):
            return {"status": "error", "perplexity": None, "exit_rate": None, "n_tokens": None}
        return {"perplexity": 2.0, "exit_rate": 0.0} if its.mode == NORMAL else {"perplexity": 2.0 + seed}

    def pieces(its: Configuration, prompt: int, seed: int) -> list[str]:
        return ["one", " two", f" {its.mode} {'' if its.mode == NORMAL else seed}"]

    return swept(folder, seeds=(3, 4), columns=columns, pieces=pieces, temperature=temperature)


def test_runs_that_are_the_same_for_every_seed_count_once(several: Sweep, tmp_path: Path) -> None:
    """Each is compared with the runs of every seed. Configurations and prompts keep the sweep's order."""
    assert [c.columns | {"key": c.key} for c in several.configurations] == several.about["configurations"]
    assert list(several.prompts) == [str(number) for number in range(12)]
    assert several.layer_counts.shape == (len(several.generations), len([*LAYERS, FINAL]))
    folder = repeated(tmp_path / "s", 0.0)
    judge(folder, fails=["0-normal-3", "0-normal-4"])
    sweep = read_sweep(str(folder))
    assert (sweep.n_committed, len(sweep.generations), len(sweep.failed)) == (24, 18, 0), "one seed did not fail"
    normal = sweep.generations[sweep.generations["configuration"] == NORMAL]
    assert list(zip(normal["seed"], normal["every_seed"], strict=True)) == [(3, True)] * 5 + [(4, True)]
    assert per_configuration(sweep)[["n", "n_seeds"]].values.tolist() == [[6, 1], [6, 2]]
    (paired,) = PairedRuns.from_sweep(sweep).differences().to_dict("records")
    assert (paired["n"], paired["n_seeds"]) == (6, 2)
    assert paired["perplexity"] == pytest.approx(math.sqrt(5 * 6) / 2), "with both seeds of each prompt"
    assert sweep.judges[0].errors == {NORMAL: 1}
    data, packed = payload(sweep, "title")
    assert data["counts"] | {"runs": 24, "different": 18, "failed": 0} == data["counts"]
    of_first = [(run["c"], run["seed"], run["every"]) for run in data["prompts"][0]["runs"]]
    assert (of_first, sum(packed.n)) == ([(0, 3, True), (1, 3, False), (1, 4, False)], 54)
    sampled = read_sweep(str(repeated(tmp_path / "sampled", 0.7)))
    assert sampled.generations["every_seed"].tolist() == [False] * 24
    assert per_configuration(sampled)["n_seeds"].tolist() == [2, 2]


def test_what_is_not_a_sweep_is_said_in_one_line(tmp_path: Path) -> None:
    for content, line in (
        (None, "has no sweep.json"), (b"{", "not JSON"), (b"", "or damaged"), (b"\xff", "or damaged"),
        (b'{"format": 99}', "format"), (b'{"format": 2, "config": 1, "model": 2}', "format"),
        (f'{{"format": {FORMAT}}}'.encode(), "checksum"),
    ):  # fmt: skip
        if content is not None:
            (tmp_path / "sweep.json").write_bytes(content)
        with pytest.raises(NotASweepError, match=f"^.*{line}.*$"):
            read_sweep(str(tmp_path))
    with pytest.raises(NotASweepError, match="no such folder"):
        read_sweep(str(tmp_path / "nowhere"))


def test_a_large_sweep_holds_representative_and_extreme_prompts(several: Sweep, tmp_path: Path) -> None:
    exits = [{"exit_rate": n / 40, "perplexity": 3.0, "longest_loop": 9 * (n == 7)} for n in range(40)]
    folder = swept(tmp_path / "s", n_prompts=40, columns=lambda its, n, _: exits[n] if its == KL_1 else {})
    sweep = read_sweep(str(folder))
    held = choose_prompts(sweep, 12)
    assert (list(held), len(held)) == (sorted(held, key=int), 12)
    extremes = {"39": "highest exit rate, place 1", "0": "lowest exit rate, place 1", "7": "longest loop, place 1"}
    assert held == held | extremes
    spread = [int(i) for i, why in held.items() if why == "evenly spread over exit rates"]
    assert len(spread) == 6
    assert max(np.diff(spread)) < 14
    assert choose_prompts(sweep, ["3", "1"]) == {"1": "named by the command", "3": "named by the command"}
    assert list(choose_prompts(sweep, 40)) == list(sweep.prompts)
    with pytest.raises(NotASweepError, match="no such prompt in the sweep: x"):
        choose_prompts(sweep, ["x"])
    runs = several.generations
    worst = runs["control_of"].notna() & (runs["prompt_id"] == "3")
    looping = replace(several, generations=runs.assign(longest_loop=runs["longest_loop"].where(~worst, 99)))
    assert "longest loop" not in choose_prompts(looping, 5).get("3", ""), "controls choose no prompts"
