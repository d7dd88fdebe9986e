"""Effects of settings on each kind of prompt: which kind has the losses, and the section's chart."""

from pathlib import Path

import pytest
from chart_fields import known, missing_fields
from synthetic_sweeps import graded, with_kinds

from eexit.plan.configuration import EarlyExit, NoExit
from reports.read.sweep import read_sweep
from reports.sections.by_kind import found_by_kind, kind_figure

SETTING = EarlyExit("skip", "confidence", 0.9)
DRAWN = EarlyExit("skip", "predicted_kl", 1.0)  # its runs differ between seeds, unlike those of normal


@pytest.mark.parametrize("kinds", [["sums", "facts"] * 12, [None] * 24, ["sums"] * 24])
def test_where_prompts_are_of_several_kinds_each_has_its_losses(tmp_path: Path, kinds: list[str | None]) -> None:
    """There are two seeds, and the settings lose the even prompts."""
    marks = {NoExit(): "✓" * 24, SETTING: "✗✓" * 12, DRAWN: "✗✓" * 12}
    sweep = read_sweep(str(with_kinds(graded(tmp_path / "s", marks, seeds=(0, 1)), kinds)))
    found = found_by_kind(sweep)
    if len({*kinds}) == 1:
        assert (found, kind_figure(sweep, {}, SETTING.key)) == ({}, None)
        return
    for key in (SETTING.key, DRAWN.key):
        assert (found[key]["sums"].lost.mean, found[key]["facts"].lost.mean) == (1, 0)
        assert found[key]["sums"].lost.n == 12, "with either seed, and full depth's only run beside both"
    figure = known(kind_figure(sweep, found, DRAWN.key))
    assert (known(figure.slice).values, known(figure.slice).first) == ([SETTING.key, DRAWN.key], 1)
    assert [variant.label for variant in figure.variants][:2] == ["Accuracy", "Answers lost"]
    assert (missing_fields(figure.data), len(figure.rows)) == (set(), 3 * 2)
