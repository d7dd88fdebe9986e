"""`python jobs/train.py` as users call it; what it trains and lands is tested in
tests/cluster/studies/test_training.py."""

from pathlib import Path

from commands import here

from jobs.train import main


def test_a_folder_that_holds_no_sweep_is_refused_in_a_line(tmp_path: Path) -> None:
    done = here(main, tmp_path, "--what", "linear", "--out", tmp_path / "exits")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} holds no sweep.json: give the folder of a finished sweep\n"
    assert list(tmp_path.iterdir()) == []
