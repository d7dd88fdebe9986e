"""The benchmarks at a small size measure what they claim to. No time is asserted."""

import json
import sys
from pathlib import Path
from runpy import run_path
from statistics import median

import engine_speed
import pytest
from byte_model import save_byte_model
from commands import refusal, success

SCRIPT = Path(__file__).parents[3] / "jobs" / "bench"


def test_the_engine_beside_its_contenders(tmp_path: Path) -> None:
    save_byte_model(tmp_path / "model")
    sizes = ["--quick", "--dtype", "float32", "--rows", "1", "36", "--tokens", "10", "--rounds", "2"]
    done = success(engine_speed.main, "--model", tmp_path / "model", *sizes, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["machine"]["dtype"] == "float32"
    compared = {(row["rows"], row["what"]): row for row in figures["comparison"]}
    online = ["normal", "frozen_residual/confidence/0.9", "unfrozen/confidence/0.9"]
    alternatives = ["generate", *online, "oracles", "observation"]
    assert list(compared) == [(rows, what) for rows in (1, 36) for what in alternatives]
    for (rows, what), row in compared.items():
        n_steps = 2 if what == "observation" else 2 * 8  # a prompt gives the first of ten, and a step is not timed
        assert (len(row["steps"]), row["ms"]) == (n_steps, pytest.approx(1e3 * median(row["steps"])))
        assert row["of_generate"] == pytest.approx(row["ms"] / compared[rows, "generate"]["ms"])
    _, *rows = [line.split("|")[2].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows == 2 * alternatives


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rows many", "argument --rows: must be a whole number above 0, got many"),
        ("--tokens 2", "--tokens must be at least 3, since the first two are not timed, got 2"),
        ("--json no/such/figures.json", "--json no/such/figures.json can't be written"),
        ("--model no/such", "no/such"),
        ("--rules patience=2", "rule patience is no oracle: --rules takes kl and agree here"),
        ("nonsense", "unrecognized arguments: nonsense"),
    ],
)
def test_bad_input_gets_one_line(arguments: str, message: str) -> None:
    assert message in refusal(engine_speed.main, *arguments.split())


def test_it_is_the_command_of_its_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help"])
    with pytest.raises(SystemExit, match="0"):
        run_path(str(SCRIPT), run_name="__main__")
    assert "milliseconds of a step" in capsys.readouterr().out
