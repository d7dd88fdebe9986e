"""What a signal does to a command, and to the next command in the same process."""

import os
import signal

import pytest

from cluster import signals

pytestmark = pytest.mark.usefixtures("interruptible")


@signals.listening()
def interrupted_command() -> str:
    """Sends itself two signals: the first interrupts its work, the second doesn't interrupt its clearing away."""
    try:
        os.kill(os.getpid(), signal.SIGHUP)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signals.check()
        return "interrupted"
    return "not heard"


def test_the_first_signal_interrupts_and_the_second_does_not() -> None:
    assert interrupted_command() == "interrupted"


def test_a_command_after_an_interrupted_one_is_not_interrupted() -> None:
    interrupted_command()
    with signals.listening():
        signals.check()
    signals.check()


def test_what_the_shell_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert interrupted_command() == "not heard"
