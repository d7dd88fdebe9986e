"""Depth along the text: which tokens count, and in bins of which width."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_sweeps import LAYERS, run_rows, swept, write_runs

from reports.read.sweep import Sweep, read_sweep
from reports.sections.exits.depth_by_position import depth_by_position


def test_tokens_whose_exit_was_not_drawn_are_left_out(tmp_path: Path) -> None:
    depth = depth_by_position(read_sweep(str(swept(tmp_path / "s", n_prompts=2))))
    one = depth[depth["configuration"] == "unfrozen/kl/1"].set_index("position")
    assert list(one.index) == [1, 2, 3]  # position 0 comes from the final layer whatever the mode
    assert one["depth"][[1, 2]].tolist() == pytest.approx([1.0, (LAYERS[2] + 1) / 30])
    assert set(one["depth_n"]) == {2}


def test_long_texts_are_binned(tmp_path: Path) -> None:
    run = run_rows("0", "?", "unfrozen", 0.5, ["a"] * 120)
    depth = depth_by_position(read_sweep(str(write_runs(tmp_path / "results", [run]))))
    assert (len(depth), set(depth["width"])) == (24, {5})
    exits = [(LAYERS[i % 5] + 1) / 30 for i in (5, 6, 7, 8, 9)]
    assert depth.set_index("position")["depth"][7.0] == pytest.approx(sum(exits) / 5)


class SmallBatches:
    """A dataset that yields batches of seven rows, and can't be read as a whole."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.count_rows = dataset.count_rows

    def to_batches(self, **how: Any) -> Iterator[Any]:
        yield from self.dataset.to_batches(batch_size=7, **how)


def test_tokens_are_aggregated_in_batches_and_one_setting_is_shown_at_a_time(
    several: Sweep, several_charts: dict[str, Any]
) -> None:
    few = depth_by_position(replace(several, tokens=SmallBatches(several.tokens)))
    pd.testing.assert_frame_equal(few, depth_by_position(several))
    choice = several_charts["depth"]["slice"]
    assert (choice["key"], choice["values"][choice["first"]]) == ("setting", "confidence/0.7")
    assert choice["values"][:4] == [
        "confidence/0.7",
        "random/confidence/0.7",
        "confidence/0.9",
        "random/confidence/0.9",
    ]
