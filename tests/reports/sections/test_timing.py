"""Measured times, and what steps of fewer rows and layers allow."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chart_fields import known
from report_fixtures import Visit
from synthetic_sweeps import FINAL, LAYERS, add_timings, with_answers

from eexit.plan.configuration import Configuration, EarlyExit, NoExit
from reports.read.sweep import Sweep, read_sweep
from reports.sections.timing import ALLOWED, exit_shares, known_step_times, timed, timing_section
from reports.shared.per_configuration import per_configuration
from reports.shared.savings import SavingsTable, savings

SETTING = EarlyExit("unfrozen", "confidence", 0.7)


def timed_sweep(folder: Path, steps: bool) -> tuple[Sweep, SavingsTable, pd.DataFrame]:
    """Return a sweep, its savings and its setting's times, in three rounds at one and eight rows.

    A layer takes 10 ms in both, and the setting saves a fifth.
    """
    with_answers(folder, 6, modes=("unfrozen",))
    seconds: dict[Configuration, float] = {NoExit(): FINAL + 1.0, SETTING: 0.8 * (FINAL + 1)}
    seconds |= {EarlyExit("unfrozen", "fixed", float(layer)): layer + 1.0 for layer in LAYERS if steps}
    costs: dict[str, Any] = {"macs_full": 100.0, "macs_required": 80.0, "macs_executed": 90.0, "prompt_ids": ["0", "1"]}
    rounds = {its: [took] * 3 for its, took in seconds.items()}
    add_timings(folder, rounds, batches=(1, 8), **costs)
    sweep = read_sweep(str(folder))
    saves = known(savings(sweep, per_configuration(sweep)))
    rows = timed(sweep, saves)
    rows = rows[rows["configuration"] == SETTING.key]
    assert rows["realised"].tolist() == pytest.approx([0.2, 0.2])
    return sweep, saves, rows


def test_what_steps_allow_or_who_times_them_stands_beside_what_was_realised(tmp_path: Path, visit: Visit) -> None:
    sweep, _, rows = timed_sweep(tmp_path / "s", steps=True)
    shares = exit_shares(sweep)[SETTING.key]
    alone = 1 - sum(share * (layer + 1) for layer, share in shares.items()) / (FINAL + 1)
    assert rows[ALLOWED].tolist() == pytest.approx([alone] * 2), "one row, and rows that leave at the same steps"
    (times,) = known_step_times(sweep).values()
    assert times.seconds[8] == pytest.approx([(layer + 1) / 100 for layer in [*LAYERS, FINAL]])
    page = visit("#/", path=tmp_path / "s")
    section = page.locator("section", has=page.locator("#time"))
    section.get_by_role("combobox", name="Measured at").select_option("batch 8")
    assert "20.0%" in section.locator("tbody tr", has_text=SETTING.key).inner_text()
    section.locator("summary").click()
    assert section.locator("details thead").inner_text().split("\t")[:2] == ["Sequences", "Layer 5"]
    sweep, saves, rows = timed_sweep(tmp_path / "without", steps=False)
    assert rows[ALLOWED].isna().all()
    assert "eexit timings --steps does that" in timing_section(sweep, saves)["about"]
