"""Progress as plain lines: when there is one, what it says, and that quiet shows none."""

import re
from collections.abc import Sequence

import pytest

from eexit.output.display import PlainDisplay, open_display
from eexit.output.progress import Progress
from eexit.results.store.commit import RunCounts
from eexit.sweeps.shard_runner import ShardProgress, sweep_progress


def test_a_log_gets_fewer_and_fewer_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def show(progress: Sequence[Progress]) -> list[str]:
        """Return the lines of a display that is shown one progress a second."""
        now = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        display = open_display()
        assert isinstance(display, PlainDisplay)
        for second, each in enumerate(progress):
            now[0] = float(second)
            display.show(each, last=each is progress[-1])
        return capsys.readouterr().err.splitlines()

    by_second = [sweep_progress(30, 0, RunCounts(10, 1, 1000), ShardProgress(n), 100, (1, 2)) for n in range(3600)]
    assert by_second[500].share == 0.5
    lines = show(by_second)
    assert [line.split(" tokens")[0] for line in lines[:3]] == ["1,000", "1,005", "1,010"]
    assert all(re.fullmatch(r"[\d,]+ tokens · 10/30 runs · .* left · 1 error · 1/2 actors", line) for line in lines)
    assert all(" · 1 tokens/s · " in line for line in lines[8:-1])
    assert len(lines) < 120, "720 at one every five seconds"
    assert lines[-1].startswith("4,599 "), "the last one is shown at once"
    n_tokens = [0, 500, 1000, *range(0, 300, 5)]  # of a step, then of another one, which makes 5 a second
    lines = show([Progress("learning", n, 0.5, with_rate=True) for n in n_tokens])
    assert {line.split(" · ")[2] for line in lines[1:]} == {"5 tokens/s"}


def test_observing_has_neither_rate_nor_time_left_and_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        for observed in (0, 128):
            with open_display(quiet=quiet) as display:
                display.show(sweep_progress(30, 0, RunCounts(), ShardProgress(500, observed=observed), 100, (1, 1)))
        display.say("the model \x1b[2J of results")
    printed = capsys.readouterr()
    assert printed.out == ""
    generating, observing, said = printed.err.splitlines()
    assert re.fullmatch(r"500 tokens · 0/30 runs · [\d,]+ tokens/s · 0:00 left · 0 errors · 1/1 actors", generating)
    assert observing == "500 tokens · 0/30 runs · observing finished texts: 128 tokens · 0 errors · 1/1 actors"
    assert said == "the model \\x1b[2J of results", "shown, and not done"
