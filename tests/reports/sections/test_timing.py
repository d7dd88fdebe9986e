"""Measured times, and what steps of fewer rows and layers allow."""

import math
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import Visit
from synthetic_sweeps import FINAL, LAYERS, add, timing_rows, with_answers

from eexit.plan.configuration import Configuration, EarlyExit, NoExit
from eexit.results.study_tables import TIMINGS
from reports.page.build import build_report
from reports.read.sweep import read_sweep
from reports.sections.timing import ALLOWED, exit_shares, known_step_times, timed
from reports.shared.per_configuration import per_configuration
from reports.shared.savings import savings

SETTING = EarlyExit("unfrozen", "confidence", 0.7)


def time(folder: Path, steps: bool) -> None:
    """Write three rounds at one and eight rows: a layer takes 1 ms in both, and the setting saves a fifth."""
    seconds: dict[Configuration, float] = {NoExit(): FINAL + 1.0, SETTING: 0.8 * (FINAL + 1)}
    seconds |= {EarlyExit("unfrozen", "fixed", float(layer)): layer + 1.0 for layer in LAYERS if steps}
    costs: dict[str, Any] = {"macs_full": 100.0, "macs_required": 80.0, "macs_executed": 90.0, "prompt_ids": ["0", "1"]}
    rounds = {its: [took] * 3 for its, took in seconds.items()}
    both = [timing_rows(rounds, batch=batch, tokens=1000 * batch, **costs) for batch in (1, 8)]
    add(folder, TIMINGS, chain(*both))


@pytest.mark.parametrize("steps", [True, False])
def test_what_steps_allow_stands_beside_what_was_realised(tmp_path: Path, visit: Visit, steps: bool) -> None:
    folder = with_answers(tmp_path / "s", 6, modes=("unfrozen",))
    time(folder, steps)
    sweep = read_sweep(str(folder))
    saves = savings(sweep, per_configuration(sweep))
    assert saves
    of_setting = [row for row in timed(sweep, saves).to_dict("records") if row["configuration"] == SETTING.key]
    allowed = [row[ALLOWED] for row in of_setting]
    assert [row["realised"] for row in of_setting] == pytest.approx([0.2, 0.2])
    page = visit("#/", path=build_report(str(folder), folder / "r.html"))
    section = page.locator("section", has=page.locator("#time"))
    section.get_by_role("combobox", name="Measured at").select_option("batch 8")
    assert "20.0%" in section.locator("tbody tr", has_text=SETTING.key).inner_text()
    if not steps:
        assert all(math.isnan(share) for share in allowed)
        assert "eexit timings --steps does that" in section.inner_text()
        return
    shares = exit_shares(sweep)[SETTING.key]
    alone = 1 - sum(share * (layer + 1) for layer, share in shares.items()) / (FINAL + 1)
    assert allowed == pytest.approx([alone] * 2), "one row, and rows that leave at the same steps"
    (times,) = known_step_times(sweep).values()
    assert times.seconds[8] == pytest.approx([(layer + 1) / 1000 for layer in [*LAYERS, FINAL]])
    section.locator("summary").click()
    assert section.locator("details thead").inner_text().split("\t")[:2] == ["Rows", "Layer 5"]
