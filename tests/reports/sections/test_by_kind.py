"""Effects of settings on each kind of prompt: which kind has the losses, and the section's chart."""

from pathlib import Path

import pytest
from chart_fields import missing_fields
from synthetic_sweeps import graded, with_kinds

from eexit.plan.configuration import EarlyExit, NoExit
from reports.read.sweep import Sweep, read_sweep
from reports.sections.by_kind import found_by_kind, kind_figure

SETTING = EarlyExit("skip", "confidence", 0.9)
DRAWN = EarlyExit("skip", "predicted_kl", 1.0)  # its runs differ between seeds, unlike those of normal


def sweep_of_kinds(folder: Path, kinds: list[str | None]) -> Sweep:
    """Return a sweep of two seeds, in which the settings lose the sums."""
    marks = {NoExit(): "✓" * 24, SETTING: "✗✓" * 12, DRAWN: "✗✓" * 12}
    return read_sweep(str(with_kinds(graded(folder, marks, seeds=(0, 1)), kinds)))


def test_a_chart_has_each_measure_with_a_menu_of_settings_beside_full_depth(tmp_path: Path) -> None:
    sweep = sweep_of_kinds(tmp_path / "s", ["sums", "facts"] * 12)
    found = found_by_kind(sweep)
    for key in (SETTING.key, DRAWN.key):
        assert (found[key]["sums"].lost.mean, found[key]["facts"].lost.mean) == (1, 0)
        assert found[key]["sums"].lost.n == 12, "with either seed, and full depth's only run beside both"
    figure = kind_figure(sweep, found, DRAWN.key)
    assert figure
    assert figure.slice
    assert (figure.slice.values, figure.slice.first) == ([SETTING.key, DRAWN.key], 1)
    assert [variant.label for variant in figure.variants][:2] == ["Accuracy", "Answers lost"]
    assert missing_fields(figure.data) == set()
    assert len(figure.rows) == 3 * 2


@pytest.mark.parametrize("kinds", [[None] * 24, ["sums"] * 24])
def test_where_prompts_are_not_of_several_kinds_there_is_no_such_section(
    tmp_path: Path, kinds: list[str | None]
) -> None:
    sweep = sweep_of_kinds(tmp_path / "s", kinds)
    assert found_by_kind(sweep) == {}
    assert kind_figure(sweep, {}, SETTING.key) is None
