"""The wrong exits at which rules were most overconfident."""

import math
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweeps import FINAL, run_rows, write_sweep

from eexit.plan.configuration import EarlyExit
from reports.read.sweep import read_sweep
from reports.sections.confident_errors import MOST_OF_EACH, confident_wrong

ONLINE = EarlyExit("unfrozen", "confidence", 0.9)


def token_rows(n: int, online: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return early exits that aren't full depth's token, with higher probability at later positions."""
    row, rows = run_rows("0", "?", "unfrozen", 1.0, ["w"] * n)
    columns = ONLINE.columns if online else {}
    for i, token in enumerate(rows):
        token.update(exit_layer=5, final_token_id=7, exit_logprob=math.log((i + 1) / (n + 1)), logprob=math.log(0.01))
        token.update(columns)
    return row | columns, rows


def test_the_surest_come_first_and_only_so_many_of_each(tmp_path: Path) -> None:
    row, rows = token_rows(12, online=True)
    rows[11]["final_token_id"] = rows[11]["token_id"]  # full depth's own
    rows[10]["exit_layer"] = FINAL  # no early exit
    rows[9]["logprob"] = math.log(0.9)  # full depth's probability is nearly as high
    found = confident_wrong(read_sweep(str(write_sweep(tmp_path / "s", [row], rows))), ["0"])
    assert found["position"].tolist() == [8, 7, 6, 5, 4, 3, 2, 1], "the first was not decided"
    assert len(found) == MOST_OF_EACH
    assert found["at_exit"].tolist() == pytest.approx([(i + 1) / 13 for i in range(8, 0, -1)])
    assert found["at_full_depth"].tolist() == pytest.approx([0.01] * 8)


@pytest.mark.parametrize("lacking", ["exit_logprob", "oracle", "prompt"])
def test_what_is_not_known_or_not_asked_is_not_named(tmp_path: Path, lacking: str) -> None:
    row, rows = token_rows(6, online=lacking != "oracle")
    for token in rows:
        token |= {lacking: None} if lacking in token else {}
    sweep = read_sweep(str(write_sweep(tmp_path / "s", [row], rows)))
    assert confident_wrong(sweep, ["other" if lacking == "prompt" else "0"]).empty
