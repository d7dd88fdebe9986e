"""The way out of a command: its exit code, what it says, and which signals it hears."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from commands import here

from cluster import signals
from cluster.console.command import command
from cluster.console.parser import Parser
from eexit.errors import SweepStopped, UsageError


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (UsageError("no://user:secret@host can't be used"), 2, "error: no://…@host can't be used\n"),
        (SweepStopped("no actor is left\nand more"), 1, "stopped: no actor is left\nwhat is done stays\n"),
        (UsageError("model \x1b[31mred\x9b2J is not there"), 2, "error: model \\x1b[31mred\\x9b2J is not there\n"),
        (OSError(28, "No space", "x"), 1, "stopped: [Errno 28] No space: 'x'\nwhat is done stays\n"),
    ],
)
def test_a_command_ends_with_its_exit_code_and_what_is_kept(error: Exception | None, code: int, said: str) -> None:
    @command("what is done stays")
    def example(arguments: Sequence[str]) -> int:
        if error:
            raise error
        return 0

    done = here(example)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


@pytest.mark.usefixtures("interruptible")
def test_the_first_signal_interrupts_a_command_and_no_later_one(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    was_interrupted = list[bool]()

    @command("what is done stays")
    def example(arguments: Sequence[str]) -> int:
        if [*arguments] == ["signal"]:
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            except KeyboardInterrupt:
                os.kill(os.getpid(), signal.SIGTERM)  # which doesn't interrupt its clearing away
                was_interrupted.append(True)
                signals.check()  # raises again: the exception might have been lost
        return 0

    assert example(["well"]) == 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.setattr(sys, "argv", ["example", "signal"])
    assert (example(), was_interrupted) == (1, [True])
    assert capsys.readouterr().err == "stopped: interrupted\nwhat is done stays\n"
    with signals.listening():
        signals.check()  # of the next command in this process
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert (example(), was_interrupted) == (0, [True]), "what the shell ignores stays ignored"


def test_the_users_folder_behind_an_equals_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell only expands it where a word begins, so that a folder with the name ~ came into being."""
    monkeypatch.setenv("HOME", "/home/me")
    parser = Parser(None)
    for name in ("--out", "--prompts", "--prefiller"):
        parser.add_argument(name)
    read = parser.read(["--out=~/x", "--prompts", "~/y", "--prefiller=a ~/z"])
    assert (read.out, read.prompts, read.prefiller) == ("/home/me/x", "~/y", "a ~/z")
