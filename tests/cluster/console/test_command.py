"""The way out of a command: its exit code, what it says, and which signals it hears."""

import os
import signal
import sys
from collections.abc import Sequence

import pytest
from commands import here

from cluster.console.command import command
from cluster.console.parser import Parser
from eexit.errors import SweepStopped, UsageError


@command("what is done stays")
def example(arguments: Sequence[str]) -> int:
    """Ends as the first argument says."""
    match arguments:
        case ["usage"]:
            raise UsageError("no://user:secret@host can't be used")
        case ["stopped"]:
            raise SweepStopped("no actor is left\nand more")
        case ["coloured"]:
            raise UsageError("model \x1b[31mred\x9b2J is not there")
        case ["full"]:
            raise OSError(28, "No space left on device", "x")
        case ["signal"]:
            os.kill(os.getpid(), signal.SIGTERM)
    return 0


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("well", 0, ""),
        ("usage", 2, "error: no://…@host can't be used\n"),
        ("stopped", 1, "stopped: no actor is left\nwhat is done stays\n"),
        ("coloured", 2, "error: model \\x1b[31mred\\x9b2J is not there\n"),
        ("full", 1, "stopped: [Errno 28] No space left on device: 'x'\nwhat is done stays\n"),
    ],
)
def test_a_command_ends_with_its_exit_code_and_what_is_kept(how: str, code: int, said: str) -> None:
    done = here(example, how)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


@pytest.mark.usefixtures("interruptible")
def test_only_the_command_of_this_process_hears_its_signals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example(["well"]) == 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.setattr(sys, "argv", ["example", "signal"])
    assert example() == 1
    assert capsys.readouterr().err == "stopped: interrupted\nwhat is done stays\n"


def test_the_users_folder_behind_an_equals_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell only expands it where a word begins, so that a folder with the name ~ came into being."""
    monkeypatch.setenv("HOME", "/home/me")
    parser = Parser(None)
    for name in ("--out", "--prompts", "--prefiller"):
        parser.add_argument(name)
    read = parser.read(["--out=~/x", "--prompts", "~/y", "--prefiller=a ~/z"])
    assert (read.out, read.prompts, read.prefiller) == ("/home/me/x", "~/y", "a ~/z")
