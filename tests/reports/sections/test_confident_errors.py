"""The wrong exits at which rules were most overconfident."""

import math
from pathlib import Path

import pytest
from synthetic_sweeps import FINAL, Run, run_rows, write_runs

from eexit.plan.configuration import EarlyExit
from reports.read.sweep import read_sweep
from reports.sections.confident_errors import MOST_OF_EACH, confident_wrong

RULE = EarlyExit("unfrozen", "confidence", 0.9)


def wrong_exits(n: int, online: bool = True) -> Run:
    """Return early exits that aren't full depth's token, with higher probability at later positions."""
    run = run_rows("0", "?", "unfrozen", 1.0, ["w"] * n, of=RULE if online else None)
    for i, token in enumerate(run[1]):
        token.update(exit_layer=5, final_token_id=7, exit_logprob=math.log((i + 1) / (n + 1)), logprob=math.log(0.01))
    return run


def test_the_surest_come_first_and_only_so_many_of_each(tmp_path: Path) -> None:
    _, rows = run = wrong_exits(12)
    rows[11]["final_token_id"] = rows[11]["token_id"]  # full depth's own
    rows[10]["exit_layer"] = FINAL  # no early exit
    rows[9]["logprob"] = math.log(0.9)  # full depth's probability is nearly as high
    found = confident_wrong(read_sweep(str(write_runs(tmp_path / "s", [run]))), ["0"])
    assert found["position"].tolist() == [8, 7, 6, 5, 4, 3, 2, 1], "the first was not decided"
    assert found["at_exit"].tolist() == pytest.approx([(i + 1) / 13 for i in range(8, 0, -1)])
    assert found["at_full_depth"].tolist() == pytest.approx([0.01] * MOST_OF_EACH)


@pytest.mark.parametrize("lacking", ["exit_logprob", "oracle", "prompt"])
def test_what_is_not_known_or_not_asked_is_not_named(tmp_path: Path, lacking: str) -> None:
    row, rows = wrong_exits(6, online=lacking != "oracle")
    run = row, [token | ({lacking: None} if lacking in token else {}) for token in rows]
    sweep = read_sweep(str(write_runs(tmp_path / "s", [run])))
    assert confident_wrong(sweep, ["other" if lacking == "prompt" else "0"]).empty
