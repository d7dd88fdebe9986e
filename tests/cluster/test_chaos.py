"""A short run of the chaos test."""

import chaos
import pytest


@pytest.mark.slow
def test_random_blows_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    chaos.main(["--seed", "0", "--blows", "6", "--tokens", "40", "--seconds", "10"])
    assert "6 blows, " in capsys.readouterr().out
