"""Which prompts' texts a report of a large sweep holds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_sweeps import KL_1, swept

from eexit.plan.configuration import Configuration
from reports.read.prompt_choice import choose_prompts
from reports.read.sweep import NotASweepError, Sweep, read_sweep


def test_a_large_sweep_holds_representative_and_extreme_prompts(tmp_path: Path) -> None:
    def columns(configuration: Configuration, prompt: int, seed: int) -> dict[str, float]:
        exits = {"exit_rate": prompt / 40, "perplexity": 3.0, "longest_loop": 9 * (prompt == 7)}
        return exits if configuration == KL_1 else {}

    sweep = read_sweep(str(swept(tmp_path / "s", n_prompts=40, columns=columns)))
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


def test_controls_choose_no_prompts(several: Sweep) -> None:
    runs = several.generations
    worst = runs["control_of"].notna() & (runs["prompt_id"] == "3")
    looping = replace(several, generations=runs.assign(longest_loop=runs["longest_loop"].where(~worst, 99)))
    assert "longest loop" not in choose_prompts(looping, 5).get("3", "")
