"""How progress is written: as plain lines, or not at all."""

import io
import re

import pytest

from eexit.output.display import PlainDisplay, open_display
from eexit.output.progress import Progress
from eexit.results.store.commit import RunCounts
from eexit.sweeps.shard_runner import ShardProgress, sweep_progress


def test_a_log_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    display = open_display()
    assert isinstance(display, PlainDisplay)
    progress = sweep_progress(30, 0, RunCounts(10, 1, 1000), ShardProgress(500), 100, (1, 2))
    assert progress.share == 0.5
    with display:
        display.show(progress)
        display.show(progress)  # too soon for another line
        display.show(progress, last=True)
    lines = log.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("1,500 tokens · 10/30 runs · ")
    assert lines[0].endswith(" left · 1 error · 1/2 actors")


def test_lines_become_fewer_as_time_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    display = open_display()
    for second in range(3600):
        now = float(second)
        display.show(sweep_progress(27, 0, RunCounts(), ShardProgress(second), 100, (1, 1)))
    lines = log.getvalue().splitlines()
    assert [line.split(" tokens")[0] for line in lines[:3]] == ["0", "5", "10"]
    assert len(lines) < 120, "720 at one every five seconds"
    assert all(" · 1 tokens/s · " in line for line in lines[1:])


def test_a_step_has_the_rate_of_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before had made 1,000 when this one began to count from none, at 5 tokens per second."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    display = open_display()
    for second, tokens in enumerate([0, 500, 1000, *range(0, 60, 5)]):
        now = float(second)
        display.show(Progress("learning", tokens, 0.5, with_rate=True), last=second > 3)
    assert [line.split(" · ")[2] for line in log.getvalue().splitlines()[1:]] == ["5 tokens/s"] * 11


def test_while_finished_texts_are_observed_it_says_so_in_place_of_a_rate_and_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    for observed in (0, 128, 256):
        progress = sweep_progress(30, 0, RunCounts(), ShardProgress(500, observed=observed), 100, (1, 1))
        open_display().show(progress)
    generating, *observing = log.getvalue().splitlines()
    assert re.fullmatch(r"500 tokens · 0/30 runs · [\d,]+ tokens/s · 0:00 left · 0 errors · 1/1 actors", generating)
    assert observing == [
        f"500 tokens · 0/30 runs · observing finished texts: {n} tokens · 0 errors · 1/1 actors" for n in (128, 256)
    ]


def test_quiet_shows_nothing_and_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    progress = sweep_progress(27, 0, RunCounts(), ShardProgress(5), 100, (1, 1))
    with open_display(quiet=True) as display:
        display.show(progress, last=True)
        display.say("something")
    assert capsys.readouterr() == ("", "")
    with open_display() as display:
        display.show(progress, last=True)
        display.say("something")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[1:] == ["something"]


def test_control_characters_are_shown_and_not_done() -> None:
    log = io.StringIO()
    PlainDisplay(log).say("the model \x1b[2J of results")
    assert log.getvalue() == "the model \\x1b[2J of results\n"
